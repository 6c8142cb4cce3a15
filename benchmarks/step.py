#!/usr/bin/env python
"""Measures training steps of the I3D ResNet-50 with each norm and each way to run it, all in one run.

On a GPU: bfloat16 autocast, channels_last_3d, forward, backward and SGD; then each norm kernel beside the device's copy
bandwidth, and how many clips fit. On a CPU: float32, in both memory orders. Ways take turns, so that what else the
machine does falls on all of them; figures are medians.
"""

import argparse
import gc
import json
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterable
from datetime import date
from functools import partial
from importlib.util import find_spec
from math import nan
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from machine import cpu_name, installed
from torch import Tensor, nn
from tqdm import tqdm

from video_gn.files.text import write_text
from video_gn.kernels.dispatch import obstacle
from video_gn.kernels.layers import GroupNorm
from video_gn.kernels.plan import Sets, held, set_stages
from video_gn.models.blocks import select_kernels
from video_gn.models.norm import group_norm
from video_gn.models.norm_layers import BatchNorm3d
from video_gn.models.recompute import set_recompute
from video_gn.models.resnet3d import ResNet3d
from video_gn.train.cuda_graph import Graphs
from video_gn.train.optim import SGD, fuse

CLASSES = 400
PACKAGES = ("torch", "triton", "pytorchvideo", "liger-kernel", "apex")


class Workload(NamedTuple):
    """A training batch and the network for it."""

    clips: int
    frames: int
    size: int
    demo: bool = False  # the small network of configs/demo.yaml

    @property
    def name(self) -> str:
        """As it appears in tables."""
        return f"{self.clips}x3x{self.frames}x{self.size}x{self.size}" + (" (demo)" if self.demo else "")


class Way(NamedTuple):
    """A norm and how it is run."""

    norm: str | Callable[[int], nn.Module]
    kernels: str = "torch"
    recompute: str = "none"
    compiled: bool = False
    channels_last: bool = True
    peer: bool = False  # pytorchvideo's own network
    foreign: bool = False  # another project's norm, which may fail
    standardized: bool = False  # the kernels


class NormSite(NamedTuple):
    """A norm in the network: its features, and what follows it."""

    shape: tuple[int, int, int, int, int]
    relu: bool
    residual: bool

    @property
    def elements(self) -> int:
        """Of its features."""
        n, c, t, h, w = self.shape
        return n * c * t * h * w


GPU_WORKLOADS = (Workload(8, 32, 224), Workload(4, 64, 224), Workload(8, 64, 224))
CPU_WORKLOADS = (Workload(8, 16, 32, demo=True), Workload(2, 16, 112), Workload(1, 8, 224))


def stock_group_norm(channels: int) -> nn.GroupNorm:
    """PyTorch's, as a user writes it."""
    return nn.GroupNorm(8 if channels < 32 or channels % 32 else 32, channels)


def gpu_ways() -> dict[str, Way]:
    """What is compared on a GPU; compiled ones last."""
    ways = {
        "BN": Way(nn.BatchNorm3d),
        "BN 2-D view": Way(BatchNorm3d),
        "BN ours": Way(BatchNorm3d, "triton"),
        "GN": Way(stock_group_norm),
        "GN ours": Way(group_norm, "triton"),
        "GN ours, recompute norms": Way(group_norm, "triton", "norms"),
        "GN ours, recompute blocks": Way(group_norm, "triton", "blocks"),
        "GN ours, WS": Way(group_norm, "triton", standardized=True),
        **{f"{word} ours": Way(word, "triton") for word in ("frozen_bn", "brn", "mabn", "evonorm_s0")},
        "no norm": Way(lambda _: nn.Identity()),
        "pytorchvideo BN": Way(nn.BatchNorm3d, channels_last=False, peer=True),
    }
    ways |= peer_norms()
    return ways | {
        "BN compiled": Way(nn.BatchNorm3d, compiled=True),
        "GN compiled": Way(stock_group_norm, compiled=True),
        "GN ours, compiled": Way(group_norm, "triton", compiled=True),
    }


def cpu_ways(workload: Workload) -> dict[str, Way]:
    """What is compared on a CPU; `model.execution.channels_last: null` takes one of the two orders."""
    orders = {"contiguous": False, "channels_last_3d": True}
    norms: dict[str, Callable[[int], nn.Module]] = {
        "BN": BatchNorm3d,
        "GN": partial(group_norm, num_groups=8 if workload.demo else 32),
        "no norm": lambda _: nn.Identity(),
    }
    ways = {
        f"{name}, {order}": Way(norm, "auto", channels_last=last)
        for name, norm in norms.items()
        for order, last in orders.items()
    }
    return ways | {"GN of PyTorch, channels_last_3d": Way(norms["GN"])}


def peer_norms() -> dict[str, Way]:
    """GroupNorms of other projects, of those that are installed."""
    found = {}
    if find_spec("liger_kernel"):
        from liger_kernel.transformers import LigerGroupNorm  # type: ignore[import-not-found]

        found["GN Liger"] = Way(lambda c: LigerGroupNorm(c, 32), channels_last=False, foreign=True)
    if find_spec("apex"):
        from apex.contrib.group_norm import GroupNorm as ApexGroupNorm  # type: ignore[import-not-found]

        class Apex(ApexGroupNorm):
            def forward(self, x: Tensor) -> Tensor:
                rows = x.flatten(2, 3).contiguous(memory_format=torch.channels_last)  # its kernels are 4-D
                return super().forward(rows).unflatten(2, x.shape[2:4])

        # It has no kernel for the 64 channels of the stem and res2.
        found["GN apex"] = Way(lambda c: Apex(32, c) if c >= 128 else stock_group_norm(c), foreign=True)
    return found


# Steps


def network(way: Way, workload: Workload, arch: str = "i3d") -> nn.Module:
    """The network of a way, with a new head of 400 classes."""
    if way.peer:
        from pytorchvideo.models.resnet import create_resnet

        from video_gn.export.formats import pytorchvideo_arguments

        model = {"arch": "i3d", "width": 64, "depth": 50, "norm": "bn"}
        clip = {"crop_size": workload.size, "num_frames": workload.frames}
        settings: Any = SimpleNamespace(net=model, clip=clip, class_names=range(CLASSES))
        return create_resnet(**pytorchvideo_arguments(settings) | {"norm": nn.BatchNorm3d})
    size: dict[str, Any] = {"depth": 11, "width": 16, "arch": "i3d_small"} if workload.demo else {"arch": arch}
    size |= {"zero_init_gamma": False, "weight_standardization": way.standardized}
    net = ResNet3d(CLASSES, norm=way.norm, **size)
    net.set_crop_size(workload.size)
    select_kernels(net, way.kernels)
    set_recompute(net, way.recompute)
    return net


class Step:
    """A training step of one way, on data of its own.

    Args:
        way: How.
        workload: On what.
        device: Where; a GPU's step is in bfloat16 autocast.
    """

    def __init__(self, way: Way, workload: Workload, device: torch.device) -> None:
        torch.manual_seed(0)
        self.device = device
        order = torch.channels_last_3d if way.channels_last else torch.contiguous_format
        self.net = network(way, workload).to(device).train()
        if way.channels_last:
            self.net = self.net.to(memory_format=torch.channels_last_3d)
        if way.compiled:
            self.net.compile()
        size = (workload.clips, 3, workload.frames, workload.size, workload.size)
        self.clips = torch.randn(size, device=device).contiguous(memory_format=order)
        self.labels = torch.randint(CLASSES, (workload.clips,), device=device)
        # As train.py has it.
        self.optimizer = SGD(weight_decay=1e-4).make([{"params": [*self.net.parameters()]}], 1e-4)
        fuse(self.optimizer, None)
        self.call: Callable[[Tensor], Tensor] = self.net

    def record(self) -> None:
        """Has forward and backward of the network launched as CUDA graphs, as `train.py` has."""
        with self._autocast():
            self.call = Graphs(self.net, self.net, self.clips)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def __call__(self) -> None:
        with self._autocast():
            loss = nn.functional.cross_entropy(self.call(self.clips).flatten(1), self.labels)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def timed(step: Step, repeats: int) -> dict[str, float]:
    """Seconds of a step, of its launching by the host, and the most memory in bytes.

    The host's are of a step that begins when the device has nothing to do, so that no full queue holds it up.
    """
    if step.device.type != "cuda":
        begin = time.perf_counter()
        for _ in range(repeats):
            step()
        return {"seconds": (time.perf_counter() - begin) / repeats}
    step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    begin = time.perf_counter()
    step()
    host = time.perf_counter() - begin
    torch.cuda.synchronize()
    seconds = device_seconds(step, repeats)
    return {"seconds": seconds, "host_seconds": host, "peak_bytes": torch.cuda.max_memory_allocated()}


def device_seconds(run: Callable[[], Any], repeats: int) -> float:
    """Mean by the device's clock, of calls one after the other."""
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
    marks[0].record()
    for _ in range(repeats):
        run()
    marks[1].record()
    torch.cuda.synchronize()
    return marks[0].elapsed_time(marks[1]) / 1000 / repeats


def graph_seconds(step: Step, repeats: int = 10) -> float:
    """Of a step as a CUDA graph: what the device alone takes, however slow the host is."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    graph.replay()
    return device_seconds(graph.replay, repeats)


def measure_steps(
    workload: Workload,
    ways: dict[str, Way],
    device: torch.device,
    rounds: int,
    repeats: int,
    keep: Callable[[dict[str, dict[str, float]]], None] = lambda _: None,
) -> dict[str, dict[str, float]]:
    """Medians over rounds in which the ways take turns; memory is without the other ways' weights.

    Args:
        workload: What is measured.
        ways: How. One that fails is left out, and the others are measured.
        device: Where.
        rounds: In which the ways take turns.
        repeats: Steps of a way in a round.
        keep: Is given what there is after each round, and after each way's graphs: a machine may be taken away.
    """
    torch.compiler.reset()  # else graphs get dynamic sizes after other workloads, and a ninth is not compiled at all
    gpu = device.type == "cuda"
    steps: dict[str, Step] = {}
    found: dict[str, list[dict[str, float]]] = {}
    graphs: dict[str, dict[str, float]] = {}
    own: dict[str, int] = {}
    base = torch.cuda.memory_allocated() if gpu else 0  # workspaces of earlier workloads

    def fails(name: str, error: Exception) -> None:
        steps.pop(name, None)
        reason = "does not fit" if isinstance(error, torch.OutOfMemoryError) else f"fails: {error}"
        tqdm.write(f"{workload.name}: {name} {reason}")
        free(device)

    for name, way in ways.items():  # the first two steps compile and choose algorithms
        before = torch.cuda.memory_allocated() if gpu else 0
        try:
            steps[name] = Step(way, workload, device)
            steps[name]()
            steps[name]()
        except Exception as error:  # the others' figures are worth having
            fails(name, error)
        free(device)
        own[name] = (torch.cuda.memory_allocated() if gpu else 0) - before
    for _ in tqdm(range(rounds), workload.name, unit=" rounds"):
        for name, step in [*steps.items()]:
            others = base + sum(own.values()) - own[name]
            try:
                one = timed(step, repeats)
            except Exception as error:
                fails(name, error)
                continue
            if "peak_bytes" in one:
                one["peak_bytes"] -= others
            found.setdefault(name, []).append(one)
        keep(medians(workload, found, graphs))
    for name, step in [*steps.items()] if gpu else ():
        try:
            graphs[name] = by_graphs(step)
        except Exception as error:
            tqdm.write(f"{workload.name}: {name} is no CUDA graph: {error}")
        step.call = step.net
        free(device)
        keep(medians(workload, found, graphs))
    return medians(workload, found, graphs)


def by_graphs(step: Step) -> dict[str, float]:
    """Seconds of a step as one CUDA graph, and as `train.py` runs it."""
    alone = graph_seconds(step)
    step.record()
    whole = timed(step, 10)
    return {
        "graph_seconds": alone,
        "by_graphs_seconds": whole["seconds"],
        "by_graphs_host_seconds": whole["host_seconds"],
    }


def medians(
    workload: Workload, found: dict[str, list[dict[str, float]]], graphs: dict[str, dict[str, float]]
) -> dict[str, dict[str, float]]:
    """Of the rounds so far, by way."""
    middle = {}
    for name, many in found.items():
        one = {key: statistics.median(each[key] for each in many) for key in many[0]}
        one["clips_per_second"] = workload.clips / one["seconds"]
        seconds = sorted(each["seconds"] for each in many)
        one["spread"] = (seconds[-1] - seconds[0]) / one["seconds"]
        middle[name] = one | graphs.get(name, {})
    return middle


def free(device: torch.device) -> None:
    """Gives unused memory back."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def clips_that_fit(way: Way, frames: int, size: int, device: torch.device) -> int:
    """The largest batch whose step does not run out of memory."""
    torch.backends.cudnn.benchmark = False  # each batch would have every convolution timed again
    fits, fails = 0, None
    clips = 8
    while fails is None or fails - fits > 1:
        try:
            step = Step(way, Workload(clips, frames, size), device)
            step()
            step()
            fits = clips
        except torch.OutOfMemoryError:
            fails = clips
        step = None  # type: ignore[assignment]
        free(device)
        clips = 2 * fits if fails is None else (fits + fails) // 2
    return fits


def measure_capacity(ways: dict[str, Way], device: torch.device) -> dict[str, dict[str, int]]:
    """Clips that fit, by frames and way."""
    fit = {name: way for name, way in ways.items() if not way.compiled and not way.foreign}
    found = {
        str(frames): {name: clips_that_fit(way, frames, 224, device) for name, way in tqdm(fit.items(), "fit")}
        for frames in (32, 64)
    }
    for frames, counts in found.items():
        print(f"clips of {frames} frames that fit: " + ", ".join(f"{name} {n}" for name, n in counts.items()))
    return found


# Kernels


def norm_sites(clips: int, frames: int, size: int) -> list[NormSite]:
    """The norms of the I3D ResNet-50, in their order."""
    sites = []

    def note(layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        sites.append(NormSite(tuple(inputs[0].shape), named.get("relu", False), named.get("residual") is not None))

    with torch.device("meta"), torch.no_grad():
        net = ResNet3d(CLASSES)
        net.set_crop_size(size)
        for layer in net.modules():
            if isinstance(layer, GroupNorm):
                layer.register_forward_pre_hook(note, with_kwargs=True)
        net(torch.empty(clips, 3, frames, size, size))
    return sites


def measure_kernels(device: torch.device, sites: Iterable[NormSite], repeats: int = 20) -> dict[str, Any]:
    """Bandwidth of our GN on each kind of norm of the network, forward and backward, and of copying."""
    from video_gn.kernels import ops

    def seconds(run: Callable[[], Any]) -> float:
        for _ in range(3):
            run()
        times = []
        for _ in range(repeats):
            marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            flush.zero_()  # so that nothing is left in the cache
            torch.cuda._sleep(4_000_000)  # 2 ms in which the host launches
            marks[0].record()
            run()
            marks[1].record()
            torch.cuda.synchronize()
            times.append(marks[0].elapsed_time(marks[1]) / 1000)
        return statistics.median(times)

    flush = torch.empty(256 * 2**20, dtype=torch.uint8, device=device)
    large = torch.empty(2**30, dtype=torch.bfloat16, device=device)
    target = torch.empty_like(large)
    copy = 2 * large.nbytes / seconds(partial(target.copy_, large))
    del large, target
    rows = []
    for site in tqdm(sorted(set(sites), key=lambda site: -site.elements), "kernels"):
        n, c, t, h, w = site.shape
        sets = Sets(n, t * h * w, c, 32)
        x, dy, residual = (
            torch.randn(site.shape, device=device, dtype=torch.bfloat16).contiguous(
                memory_format=torch.channels_last_3d
            )
            for _ in range(3)
        )
        x.requires_grad_()
        residual.requires_grad_()
        weight, bias = (torch.randn(c, device=device, requires_grad=True) for _ in range(2))
        arguments = (x, weight, bias, residual if site.residual else None, n, 32, 1e-5, site.relu)
        forward = seconds(partial(ops.norm, *arguments))
        inputs = [x, weight, bias, *([residual] if site.residual else [])]
        y = ops.norm(*arguments)
        backward = seconds(partial(torch.autograd.grad, y, inputs, dy, retain_graph=True))
        once = held(sets)
        moved = (4 if once else 6) + 2 * site.residual, (6 if once else 10) + 4 * site.residual
        rows.append(
            {
                "shape": list(site.shape),
                "relu": site.relu,
                "residual": site.residual,
                "one_pass": once,
                "forward_seconds": forward,
                "backward_seconds": backward,
                "forward_of_copy": moved[0] * site.elements / forward / copy,
                "backward_of_copy": moved[1] * site.elements / backward / copy,
            }
        )
    return {"copy_bytes_per_second": copy, "norms": rows}


# The command


def options() -> argparse.ArgumentParser:
    """The command's words."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workloads", type=int, nargs="+", help="numbers of those to run, from 0; default: all")
    parser.add_argument("--ways", nargs="+", help="of the first table's rows, only these")
    parser.add_argument("--rounds", type=int, default=7, help="in which the ways take turns; default: 7")
    parser.add_argument("--threads", type=int, help="of a CPU")
    parser.add_argument("--repeats", type=int, default=3, help="steps of a way in a round; default: 3")
    parser.add_argument(
        "--stages",
        type=int,
        nargs="+",
        choices=[1, 2, 3, 4],
        help="of norm kernels: steps in flight, to compare",
    )
    parser.add_argument("--no_compile", action="store_true", help="leave out what torch.compile takes minutes for")
    parser.add_argument("--no_capacity", action="store_true", help="leave out how many clips fit")
    return parser


def main(args: list[str] | None = None) -> dict[str, Any]:
    """Measures, prints the tables, and returns all figures."""
    parser = options()
    given = parser.parse_args(args)
    device = torch.device(given.device)
    gpu = device.type == "cuda"
    if gpu and (reason := obstacle(torch.device("cuda", torch.cuda.current_device()))):
        parser.error(f"our kernels cannot run here: {reason}")
    warnings.filterwarnings("ignore")
    torch.backends.cudnn.benchmark = True
    if given.threads:
        torch.set_num_threads(given.threads)

    def ways_of(workload: Workload) -> dict[str, Way]:
        known = gpu_ways() if gpu else cpu_ways(workload)
        ways = {name: way for name, way in known.items() if not (given.no_compile and way.compiled)}
        if unknown := set(given.ways or ()) - set(ways):
            parser.error(f"--ways: there is no {min(unknown)!r}; there are: {', '.join(ways)}")
        return {name: ways[name] for name in given.ways or ways}

    workloads: tuple[Workload, ...] = GPU_WORKLOADS if gpu else CPU_WORKLOADS
    if given.workloads:
        known = (*workloads, *(other for other in GPU_WORKLOADS if other not in workloads))
        if not 0 <= min(given.workloads) <= max(given.workloads) < len(known):
            parser.error(f"--workloads: they are numbered from 0 to {len(known) - 1}")
        workloads = tuple(known[i] for i in given.workloads)
    result: dict[str, Any] = {
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name(device) if gpu else f"{os.cpu_count()} x {cpu_name()}",
        "versions": {"cudnn": torch.backends.cudnn.version() if gpu else None, **{p: installed(p) for p in PACKAGES}},
        "threads": torch.get_num_threads(),
        "steps": {},
    }

    def keep() -> None:  # after each part: a later one may take long
        if given.json:
            write_text(given.json, json.dumps(result, indent=1) + "\n")

    for workload in workloads:

        def keep_steps(steps: dict[str, dict[str, float]], name: str = workload.name) -> None:
            result["steps"][name] = steps
            keep()

        show_steps(
            workload, measure_steps(workload, ways_of(workload), device, given.rounds, given.repeats, keep_steps)
        )
        free(device)
    for stages in (None, *(given.stages or ())) if gpu else ():
        before = set_stages(stages) if stages else 0
        name = f"kernels, {stages} steps in flight" if stages else "kernels"
        result[name] = measure_kernels(device, norm_sites(8, 32, 224))
        show_kernels(name, result[name])
        keep()
        if stages:
            set_stages(before)
    if gpu and not given.no_capacity:
        result["clips_that_fit"] = measure_capacity(ways_of(GPU_WORKLOADS[0]), device)
        keep()
    return result


def show_steps(workload: Workload, steps: dict[str, dict[str, float]]) -> None:
    """Prints a table whose ratios are to the first way."""
    first = next(iter(steps.values()))
    print(f"\n{workload.name}")
    print(
        "way                      ms/step  of first   clips/s  spread"
        + "  host ms  by graphs  of first  host ms  GPU alone  of first  peak GB  of first" * ("peak_bytes" in first)
    )
    for name, one in steps.items():
        line = (
            f"{name:24} {1000 * one['seconds']:7.1f} {one['seconds'] / first['seconds']:9.2f} "
            f"{one['clips_per_second']:9.1f} {one['spread']:6.0%}"
        )
        if "peak_bytes" in one:
            whole, host, alone = (
                1000 * one.get(key, nan) for key in ("by_graphs_seconds", "by_graphs_host_seconds", "graph_seconds")
            )
            whole_first, alone_first = (1000 * first.get(key, nan) for key in ("by_graphs_seconds", "graph_seconds"))
            line += (
                f" {1000 * one['host_seconds']:8.1f} {whole:10.1f} {whole / whole_first:9.2f} {host:8.1f} "
                f"{alone:10.1f} {alone / alone_first:9.2f} "
                f"{one['peak_bytes'] / 1e9:8.2f} {one['peak_bytes'] / first['peak_bytes']:9.2f}"
            )
        print(line)


def show_kernels(name: str, kernels: dict[str, Any]) -> None:
    """Prints bandwidths as parts of a copy's."""
    copy = kernels["copy_bytes_per_second"] / 1e9
    print(f"\ncopying: {copy:.0f} GB/s; {name} of our GN, and of that:")
    print("features                       after it       forward                    backward")
    for row in kernels["norms"]:
        after = "+".join(name for name in ("residual", "relu") if row[name]) or "-"
        print(
            f"{'x'.join(map(str, row['shape'])):30} {after:13}"
            + "  ".join(
                f"{copy * row[f'{way}_of_copy']:5.0f} GB/s {row[f'{way}_of_copy']:4.0%} "
                f"{1e6 * row[f'{way}_seconds']:6.0f} us"
                for way in ("forward", "backward")
            )
        )


if __name__ == "__main__":
    main()
