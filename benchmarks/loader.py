#!/usr/bin/env python
"""Measures how fast clips are fed, beside pytorchvideo and beside decoding alone, all in one run.

Without files it makes four videos of Kinetics' kind (340 x 256, 10 s, a keyframe each 250 frames, B-frames). A finished
clip is what training takes: frames x 224 x 224 x 3 of uint8, scaled, cropped and flipped at random. Per core, time is
CPU time of the whole process with all its threads, kept on one core; methods take turns, so that what else the machine
does falls on all of them, at the same places, spread evenly over a video. With workers, time is the wall's.
"""

import argparse
import json
import multiprocessing
import os
import random
import resource
import statistics
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Callable
from datetime import date
from fractions import Fraction
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
import torchvision.transforms.functional as vision
from machine import cpu_name
from tqdm import tqdm

from video_gn.data import protocols, sampling, transforms
from video_gn.data.dataset import VideoDataset
from video_gn.data.decoding.open import BACKENDS, open_video
from video_gn.data.loader import RowSampler, VideoLoader
from video_gn.data.reencode import Encoding, prepare_video
from video_gn.data.video_list import VideoList
from video_gn.data.views import ProtocolViews, RandomView
from video_gn.files.text import write_text

PEER = "pytorchvideo"
BATCHES = 15  # of each worker
PROTOCOL = protocols.PROTOCOLS["gn-10clip"]


def main(args: list[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="*", help="files to read; default: made here")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--repeats", type=int, default=15, help="clips of each file and method; default: 15")
    parser.add_argument("--num_frames", type=int, default=32)
    parser.add_argument("--frame_interval", type=int, default=2)
    parser.add_argument("--clips", type=int, default=2000, help="clips over which memory is watched; default: 2000")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="most loader workers; default: one a core")
    parser.add_argument("--codec", default="h264", help="of the prepared videos; default: h264")
    given = parser.parse_args(args)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as folder:
        originals = given.videos or make_videos(Path(folder))
        prepared = [f"{folder}/prepared{i}.mp4" for i in range(len(originals))]
        for before, after in tqdm(list(zip(originals, prepared, strict=True)), "preparing", unit=" videos"):
            prepare_video(before, after, Encoding.of(codec=given.codec))
        clip = (given.num_frames, given.frame_interval)
        result = {
            "date": date.today().isoformat(),
            "machine": f"{os.cpu_count()} x {cpu_name()}",
            "versions": {name: version(name) for name in ("torch", "decord2", "av", "pytorchvideo")},
            "videos": [Path(path).name for path in originals] if given.videos else "made here",
            "bytes": [sum(os.path.getsize(path) for path in paths) for paths in (originals, prepared)],
            "clip": f"{clip[0]}x{clip[1]}",
            "prepared": given.codec,
            "per_core": in_a_process(per_core, originals, prepared, clip, given.repeats),
            "test": in_a_process(ten_clips, originals, clip, max(3, given.repeats // 2)),
            "workers": with_workers(originals, prepared, clip, given.workers),
            "memory": memory(originals, clip, given.clips),
        }
    show(result)
    if given.json:
        write_text(given.json, json.dumps(result, indent=1) + "\n")


# What is compared


class At:
    """Random numbers of which the first, a clip's start, is at a place from 0 (the video's beginning) to below 1."""

    def __init__(self, place: float) -> None:
        self.rng, self.place = np.random.default_rng(round(place * 1e6)), [place]

    def integers(self, low: int, high: int) -> int:
        return low + int(self.place.pop() * (high - low)) if self.place else int(self.rng.integers(low, high))

    def random(self) -> float:
        return self.rng.random()


def random_clip(rng: Any, path: str, backend: str, clip: tuple[int, int], checked: int | None) -> Any:
    """Ours: one training clip. `checked` is the number of frames where the list was checked."""
    with open_video(path, backend, checked is not None, checked) as video:
        return RandomView(*clip, (256, 320), 224, True)(video, rng)[0]


def limit(rng: Any, path: str, clip: tuple[int, int]) -> None:
    """The least that decoding costs: from the keyframe to the clip's last frame, nothing left out or converted."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        packets = [packet for packet in container.demux(stream) if packet.size]
        order = sorted(range(len(packets)), key=lambda i: packets[i].pts or 0)
        clip_span = sampling.span(*clip)
        start = sampling.random_start(rng, len(order), clip_span)
        needed = order[start : start + clip_span]
        first = max(i for i, packet in enumerate(packets) if packet.is_keyframe and i <= min(needed))
        for packet in [*packets[first : max(needed) + 1], None]:
            stream.codec_context.decode(packet)


def peer_dataset(paths: list[str], clip: tuple[int, int], place: Callable[[], float] = random.random) -> Any:
    """pytorchvideo's data set doing the same job; its transforms need a module that torchvision no longer has."""
    name = "torchvision.transforms.functional_tensor"
    sys.modules.setdefault(name, types.ModuleType(name)).rgb_to_grayscale = vision.rgb_to_grayscale  # type: ignore
    from pytorchvideo.data import LabeledVideoDataset
    from pytorchvideo.data.clip_sampling import ClipInfo, RandomClipSampler
    from pytorchvideo.transforms import ApplyTransformToKey, RandomShortSideScale, UniformTemporalSubsample
    from torchvision.transforms import Compose, RandomCrop, RandomHorizontalFlip

    class Sampler(RandomClipSampler):
        def __call__(self, last: Any, duration: Any, annotation: Any) -> Any:
            start = Fraction(place() * max(duration - self._clip_duration, 0))
            return ClipInfo(start, start + self._clip_duration, 0, 0, True)

    job = Compose(
        [
            UniformTemporalSubsample(clip[0]),
            RandomShortSideScale(256, 320),
            RandomCrop(224),
            RandomHorizontalFlip(),
            torch.Tensor.byte,
        ]
    )
    with av.open(paths[0]) as container:
        seconds = clip[0] * clip[1] / float(container.streams.video[0].average_rate or 30)
    return LabeledVideoDataset(
        [(path, {"label": 0}) for path in paths],
        Sampler(seconds),
        transform=ApplyTransformToKey("video", job),
        decode_audio=False,
    )


def peer_clip(rng: At, path: str, clip: tuple[int, int]) -> Any:
    """One clip of pytorchvideo's data set, made before as a loader's worker has it."""
    if (path, clip) not in _peers:
        places: list[float] = []
        _peers[path, clip] = iter(peer_dataset([path] * 10_000, clip, places.pop)), places
    clips, places = _peers[path, clip]
    places[:] = rng.place
    return next(clips)["video"]


_peers: dict[Any, Any] = {}


# Measurements


def take_turns(methods: dict[str, Callable[[At], Any]], repeats: int, what: str) -> dict[str, float]:
    """Median CPU seconds of each method, over clips spread evenly over a video."""
    times: dict[str, list[float]] = {name: [] for name in methods}
    for method in methods.values():
        method(At(0.5))
    for i in tqdm(range(repeats), what):
        for name, method in methods.items():
            began = time.process_time()
            method(At((i + 0.5) / repeats))
            times[name].append(time.process_time() - began)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def per_core(originals: list[str], prepared: list[str], clip: tuple[int, int], repeats: int) -> list[dict[str, Any]]:
    """Seconds of one clip by each method, file by file."""
    rows = []
    for before, after in zip(originals, prepared, strict=True):
        with open_video(after, "pyav") as video:
            frames = video.num_frames
        methods: dict[str, Callable[[At], Any]] = {}
        for prefix, path, checked in (("", before, None), ("prepared: ", after, frames)):
            methods[prefix + PEER] = partial(peer_clip, path=path, clip=clip)
            methods[prefix + "limit"] = partial(limit, path=path, clip=clip)
            for name in BACKENDS:
                methods[prefix + name] = partial(random_clip, path=path, backend=name, clip=clip, checked=checked)
        seconds = take_turns(methods, repeats, f"clips of {Path(before).name}")
        rows.append({"video": Path(before).name, "seconds": seconds})
    return rows


def ten_clips(paths: list[str], clip: tuple[int, int], repeats: int) -> list[dict[str, Any]]:
    """Seconds of a 10-clip test of one video: in one pass, and as ten reads.

    Both end with scaled frames on their way to the device, which makes one tensor of ten clips of them.
    """
    views = ProtocolViews(*clip, 256, PROTOCOL)

    def one_pass(rng: At, path: str, backend: str) -> Any:
        with open_video(path, backend, True, frames) as video:
            return views(video, np.random.default_rng(0))

    def ten_reads(rng: At, path: str, backend: str) -> Any:
        clips = []
        for indices in PROTOCOL.clips(*clip, frames):
            with open_video(path, backend, True, frames) as video:
                scaled = video.read(indices, partial(transforms.resize_short_side, short_side=256))
            clips.append(scaled)
        return clips

    rows = []
    for path in paths:
        with open_video(path, "pyav") as video:
            frames = video.num_frames
        methods: dict[str, Callable[[At], Any]] = {}
        for backend in BACKENDS:
            methods[f"{backend}: one pass"] = partial(one_pass, path=path, backend=backend)
            methods[f"{backend}: ten reads"] = partial(ten_reads, path=path, backend=backend)
        rows.append({"video": Path(path).name, "seconds": take_turns(methods, repeats, f"test of {Path(path).name}")})
    return rows


def with_workers(originals: list[str], prepared: list[str], clip: tuple[int, int], most: int) -> list[dict[str, Any]]:
    """Clips a second by the wall's clock, in batches of 8 through a loader, with one worker, two, and all."""
    rows = []
    for workers in sorted({1, min(2, most), most}):
        for name, paths, backend in (
            ("decord", originals, "decord"),
            ("pyav", originals, "pyav"),
            ("prepared: decord", prepared, "decord"),
            ("prepared: pyav", prepared, "pyav"),
            (PEER, originals, None),
        ):
            total = BATCHES * 8 * workers * (2 if name.startswith("prepared") else 1)
            many = (paths * total)[:total]
            if backend is None:
                from torch.utils.data import DataLoader

                loader: Any = DataLoader(peer_dataset(many, clip), 8, num_workers=workers, drop_last=True)
            else:
                samples = VideoDataset(VideoList(many, [0] * total), RandomView(*clip, (256, 320), 224, True))
                samples.backends = [backend]
                loader = VideoLoader(samples, RowSampler(total, 0, True), 8, workers, True)
            count, began = 0, 0.0
            for count, _ in enumerate(tqdm(loader, f"{name}, {workers} workers", unit=" batches"), -workers):
                if count == 0:  # the workers have started, and each has made one batch
                    began = time.perf_counter()
            rows.append({"method": name, "workers": workers, "clips_per_s": 8 * count / (time.perf_counter() - began)})
    return rows


def memory(paths: list[str], clip: tuple[int, int], clips: int) -> dict[str, dict[int, float]]:
    """Resident MB of a process of its own after so many random clips."""
    marks = sorted({clips // 10, clips // 2, clips})
    return {backend: in_a_process(_watch, paths, clip, backend, marks) for backend in BACKENDS}


def _watch(paths: list[str], clip: tuple[int, int], backend: str, marks: list[int]) -> dict[int, float]:
    rng, found = np.random.default_rng(0), {}
    for i in tqdm(range(1, marks[-1] + 1), f"memory, {backend}"):
        random_clip(rng, paths[i % len(paths)], backend, clip, None)
        if i in marks:
            found[i] = resident()
    return found


def in_a_process(function: Callable[..., Any], *args: Any) -> Any:
    """Runs a measurement on one core, in a process where nothing before it has left anything.

    On one core, because decord has two threads: side by side on one core, each takes more CPU time.
    """
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)

    def measure() -> None:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        theirs.send(function(*args))

    process = context.Process(target=measure)
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        raise SystemExit("error: a measurement failed; its own message is above") from None
    finally:
        process.join()


def mean_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A row for all videos: mean seconds, so the ratios are those of reading all of them."""
    seconds = {name: statistics.mean(row["seconds"][name] for row in rows) for name in rows[0]["seconds"]}
    return {"video": f"all {len(rows)}", "seconds": seconds}


def resident() -> float:
    """MB that this process holds in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


# Videos to measure on


def make_videos(folder: Path, count: int = 4) -> list[str]:
    """Textures that pan, with an object on them that moves otherwise, and grain; as x264 writes them by default."""
    paths = []
    for number in tqdm(range(count), "making videos", unit=" videos"):
        rng = np.random.default_rng(number)
        paths.append(str(folder / f"made{number}.mp4"))
        with av.open(paths[-1], "w") as container:
            stream: Any = container.add_stream("libx264", rate=30, options={"crf": "23", "g": "250"})
            stream.width, stream.height, stream.pix_fmt = 340, 256, "yuv420p"
            ground, thing = texture(rng, 640, 900), texture(rng, 96, 96)
            for i in range(300):
                y, x = int(160 + 120 * np.sin(i / 60 + number)), int(280 + 250 * np.sin(i / 90))
                frame = ground[y : y + 256, x : x + 340].copy()
                top, left = int(80 + 70 * np.sin(i / 11)), int(122 + 110 * np.cos(i / 17))
                frame[top : top + 96, left : left + 96] = thing
                noisy = np.clip(frame + rng.normal(0, 7, frame.shape), 0, 255).astype(np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(noisy, format="rgb24")))
            container.mux(stream.encode())
    return paths


def texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Colours that vary on every scale, float32 `[height, width, 3]`."""
    total = torch.zeros(3, height, width)
    for scale in (4, 8, 16, 32, 64):
        noise = torch.from_numpy(rng.normal(0, scale**0.7, (1, 3, height // scale + 2, width // scale + 2)))
        total += torch.nn.functional.interpolate(noise.float(), (height, width), mode="bicubic")[0]
    return (128 + 4 * total).clamp(0, 255).permute(1, 2, 0).numpy()


# Tables


def show(result: dict[str, Any]) -> None:
    """Prints the figures with their ratios."""
    print(f"\n{result['machine']}, {result['date']}, clips {result['clip']}, prepared by {result['prepared']}")
    print(f"originals {result['bytes'][0] / 1e6:.1f} MB, prepared {result['bytes'][1] / 1e6:.1f} MB")
    print("\nrandom clips, finished uint8 224 crop: clips/s/core (x pytorchvideo on the original; x the file's limit)")
    for row in (*result["per_core"], mean_of(result["per_core"])):
        seconds = row["seconds"]
        print(row["video"])
        for name, value in seconds.items():
            floor = seconds["prepared: limit" if name.startswith("prepared") else "limit"]
            print(f"  {name:24} {1 / value:7.1f}  x{seconds[PEER] / value:5.2f}  x{floor / value:5.2f}")
    print("\n10-clip test of one video: videos/s/core, one pass (x ten reads)")
    for row in (*result["test"], mean_of(result["test"])):
        for backend in BACKENDS:
            once, ten = (row["seconds"][f"{backend}: {how}"] for how in ("one pass", "ten reads"))
            print(f"  {row['video']:24} {backend:8} {1 / once:6.2f}  x{ten / once:5.2f}")
    print("\nthrough a loader, batches of 8: clips/s by the wall's clock (x one worker)")
    one = {row["method"]: row["clips_per_s"] for row in result["workers"] if row["workers"] == 1}
    for row in result["workers"]:
        speed = row["clips_per_s"]
        print(f"  {row['method']:24} {row['workers']:3} workers {speed:7.1f}  x{speed / one[row['method']]:5.2f}")
    print("\nresident memory, MB after so many clips")
    for backend, marks in result["memory"].items():
        print(f"  {backend:8} " + ", ".join(f"{clips}: {mb:.0f}" for clips, mb in marks.items()))


if __name__ == "__main__":
    main()
