#!/usr/bin/env python
"""Compiles the Triton kernels for GPUs, without one, and reports what became of them.

For each kernel that a training step of the I3D ResNet-50 launches, and of its variants the one with the most registers:
registers a thread, instructions that spill, the part of a multiprocessor's threads that fit at once, and memory
instructions that move 16 bytes or a single value. It shows that the kernels compile, and where they would be slow for a
reason that can be seen in their code; it says nothing of their speed.
"""

import argparse
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from step import NormSite, norm_sites
from tqdm import tqdm
from triton.backends import nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from video_gn.files.text import write_text
from video_gn.kernels import launch as norms
from video_gn.kernels import max_pool
from video_gn.kernels.plan import Sets

TOOLS = Path(nvidia.__file__).parent / "bin"
TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.uint8: "u8"}
# Of a multiprocessor: registers, and by capability threads and bytes of shared memory.
REGISTERS, THREADS, SHARED = 65536, {8: 2048, 9: 2048, 10: 2048}, {8: 164 * 1024, 9: 228 * 1024, 10: 228 * 1024}
LAUNCH_OPTIONS = ("num_warps", "num_stages", "enable_fp_fusion")


class Launch(NamedTuple):
    """A kernel with the types of its arguments, as Triton specializes them."""

    kernel: JITFunction
    signature: tuple[tuple[str, str], ...]
    divisible: tuple[int, ...]
    constants: tuple[tuple[str, Any], ...]
    options: tuple[tuple[str, Any], ...]


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Within it, launches are not made but listed."""
    launches: list[Launch] = []

    def record(kernel: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        options = {name: kwargs.pop(name) for name in LAUNCH_OPTIONS if name in kwargs}
        values = dict(zip(kernel.arg_names, args, strict=False)) | kwargs
        signature, divisible, constants = {}, [], {}
        for i, parameter in enumerate(kernel.params):
            name, value = parameter.name, values[parameter.name]
            fixed = parameter.do_not_specialize
            if parameter.is_constexpr or (isinstance(value, int) and value == 1 and not fixed):
                signature[name], constants[name] = "constexpr", value
            elif isinstance(value, torch.Tensor):
                signature[name] = "*" + TYPES[value.dtype]
                divisible.append(i)
            elif isinstance(value, float):
                signature[name] = "fp32"
            else:
                signature[name] = "i32" if value < 2**31 else "i64"
                if value % 16 == 0 and not fixed:
                    divisible.append(i)
        parts = (tuple(part.items()) for part in (signature, constants, options))
        types, fixed, chosen = parts
        launches.append(Launch(kernel, types, tuple(divisible), fixed, chosen))

    before, JITFunction.run = JITFunction.run, record
    try:
        yield launches
    finally:
        JITFunction.run = before


def launches_of(site: NormSite, dtype: torch.dtype, batch_norm: bool) -> list[Launch]:
    """The kernels of one norm of the network, forward and backward."""
    n, c, t, h, w = site.shape
    x = torch.empty(site.shape, dtype=dtype).contiguous(memory_format=torch.channels_last_3d)
    weight = torch.empty(c)
    sets = Sets(1, n * t * h * w, c, c) if batch_norm else Sets(n, t * h * w, c, 32)
    running = (weight, weight.clone()) if batch_norm else None
    residual = x if site.residual else None
    with recorded() as launches:
        y, statistics = norms.forward(x, weight, weight, residual, sets, 1e-5, site.relu, running)
        kept = y if site.residual and site.relu else None
        for fixed in (False, True):  # as frozen BN's, too
            norms.backward(x, x, kept, weight, weight, statistics, sets, site.relu, fixed)
        norms.apply(x, weight, weight, residual, statistics, sets, site.relu)  # with recompute: norms
    return launches


def launches_of_pools() -> list[Launch]:
    """Both kernels of both pools of the I3D network."""
    x = torch.empty(2, 64, 16, 112, 112, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last_3d)
    with recorded() as launches:
        for geometry in (((3, 3, 3), (2, 2, 2), (1, 1, 1)), ((2, 1, 1), (2, 1, 1), (0, 0, 0))):
            y, index = max_pool.forward(x, *geometry)
            max_pool.backward(y, index, (16, 112, 112), *geometry)
    return launches


def report(launch: Launch, capability: int) -> dict[str, Any]:
    """What a kernel compiles to."""
    attributes = {(i,): [["tt.divisibility", 16]] for i in launch.divisible}
    source = ASTSource(launch.kernel, dict(launch.signature), dict(launch.constants), attributes)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=dict(launch.options))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        usage, code = (
            subprocess.run([TOOLS / tool, option, file.name], capture_output=True, text=True, check=True).stdout
            for tool, option in (("cuobjdump", "-res-usage"), ("nvdisasm", "-c"))
        )
    registers, stack = (int(re.search(rf"{name}:(\d+)", usage)[1]) for name in ("REG", "STACK"))  # type: ignore[index]
    spills = len(re.findall(r"\b(?:LDL|STL)\b", code))
    accesses = re.findall(r"\b(?:LDG|STG|LDGSTS)\.E\b\S*?(?:\.(128|64|U16|U8))?(?=[ ;])", code)
    threads = 32 * made.metadata.num_warps
    most, shared = THREADS[capability // 10], made.metadata.shared + 1024  # which the system takes of each program
    programs = min(REGISTERS // (registers * threads), most // threads, SHARED[capability // 10] // shared)
    return {
        "kernel": launch.kernel.fn.__name__,
        "flags": [name for name, value in launch.constants if value is True and name != "EVEN"],
        "capability": capability,
        "type": dict(launch.signature)[launch.kernel.arg_names[0]][1:],
        "warps": made.metadata.num_warps,
        "registers": registers,
        "spills": spills,
        "stack_bytes": stack,
        "shared_bytes": made.metadata.shared,
        "occupancy": programs * threads / most,
        "wide_accesses": accesses.count("128"),
        "single_accesses": accesses.count("U16") + accesses.count("U8"),
    }


def main(args: list[str] | None = None) -> list[dict[str, Any]]:
    """Prints the table, and returns its rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--capability", type=int, nargs="+", default=[80, 90, 100], choices=[80, 90, 100], help="as 90 for an H100"
    )
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16")
    parser.add_argument("--sites", type=int, help="only so many of the network's kinds of norm, the largest first")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args(args)
    sites = sorted(set(norm_sites(8, 32, 224)), key=lambda site: site.elements, reverse=True)[: options.sites]
    dtype = getattr(torch, options.dtype)
    launches = dict.fromkeys(
        [one for site in sites for batch_norm in (False, True) for one in launches_of(site, dtype, batch_norm)]
        + launches_of_pools()
    )
    rows = [report(launch, c) for c in options.capability for launch in tqdm(launches, f"sm_{c}")]
    ordered = sorted(rows, key=lambda row: row["registers"])
    shown = {(row["capability"], row["kernel"], *row["flags"], row["warps"]): row for row in ordered}
    print("sm   kernel              warps  registers  spills  occupancy  16-byte, single accesses  flags")
    for row in sorted(shown.values(), key=lambda row: (row["capability"], row["kernel"], row["flags"])):
        print(
            f"{row['capability']:<4} {row['kernel']:<18} {row['warps']:6} {row['registers']:10} {row['spills']:7} "
            f"{row['occupancy']:10.2f} {row['wide_accesses']:16} {row['single_accesses']:7}  {' '.join(row['flags'])}"
        )
    if options.json:
        write_text(options.json, json.dumps({"triton": triton.__version__, "kernels": rows}, indent=1))
    return rows


if __name__ == "__main__":
    main()
