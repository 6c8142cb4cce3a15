#!/usr/bin/env python
"""Measures settings of prepared videos: size, likeness to the scaled source, and clips a second of each backend.

PSNR and SSIM are of luma, over all frames, against the frames as they went into the encoder. Clips are finished uint8
224 crops at random places, in CPU time of one core; all settings of a file take turns.
"""

import argparse
import json
import os
import statistics
import tempfile
import warnings
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loader import in_a_process, limit, make_videos, random_clip, take_turns
from machine import cpu_name
from tqdm import tqdm

from video_gn.data import reencode
from video_gn.data.decoding.damage import decode_all
from video_gn.data.decoding.open import BACKENDS
from video_gn.data.reencode import Encoding
from video_gn.files.text import write_text

NEVER = "1000000000"


def h264(b_frames: int, crf: int, gop: int, psy: int = 0) -> tuple[str, dict[str, str], int, int]:
    """x264 at its quickest to decode, with GOPs that refer to nothing outside."""
    params = f"keyint={gop}:min-keyint={gop}:scenecut=0:b-adapt=0:b-pyramid=none:bframes={b_frames}:psy={psy}"
    return "libx264", {"preset": "medium", "tune": "fastdecode", "x264-params": params}, crf, gop


def mpeg4(b_frames: int, quantiser: int) -> tuple[str, dict[str, str], int, int]:
    """MPEG-4 part 2 with closed GOPs of 16."""
    flags = "+cgop" if b_frames else "+mv4+aic"
    options = {"mbd": "rd", "flags": flags, "bf": str(b_frames), "sc_threshold": NEVER}
    return "mpeg4", options, quantiser, 16


GRID = {  # name: codec, options, quality, gop
    "h264 as in Kinetics, crf 20, gop 250": ("libx264", {"preset": "medium"}, 20, 250),
    "h264 fastdecode, no B, crf 20, gop 32": h264(0, 20, 32),
    "h264 fastdecode, no B, crf 20, gop 16": h264(0, 20, 16),
    "h264 fastdecode, 1 B, crf 20, gop 32": h264(1, 20, 32),
    "h264 fastdecode, 1 B, crf 20, gop 16": h264(1, 20, 16),
    "h264 fastdecode, 1 B, crf 20, gop 8": h264(1, 20, 8),
    "h264 fastdecode, 3 B, crf 20, gop 16": h264(3, 20, 16),
    "h264 fastdecode, 3 B, crf 20, gop 32": h264(3, 20, 32),
    "the same with psy": h264(3, 20, 32, psy=1),
    "h264 fastdecode, 3 B, crf 18, gop 32": h264(3, 18, 32),
    "h264 fastdecode, 3 B, crf 21, gop 32": h264(3, 21, 32),
    "h264 fastdecode, 3 B, crf 22, gop 32": h264(3, 22, 32),
    "mpeg4 no B, q 3, gop 16": mpeg4(0, 3),
    "mpeg4 no B, q 4, gop 16": mpeg4(0, 4),
    "mpeg4 3 B, q 3, gop 16": mpeg4(3, 3),
}


def main(args: list[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="*", help="files to prepare; default: made here")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--short_side", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=25, help="clips of each file and setting; default: 25")
    given = parser.parse_args(args)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as folder:
        videos = given.videos or make_videos(Path(folder))
        rows = []
        for path in videos:
            rows += in_a_process(measure, path, Path(folder), given.short_side, given.repeats)
    print(f"\n{os.cpu_count()} x {cpu_name()}, {date.today().isoformat()}, clips 32x2, short side {given.short_side}")
    print(f"{'mean over ' + str(len(videos)) + ' videos':40} {'kB':>6} {'PSNR':>6} {'SSIM':>6} {'limit':>6}", end="")
    print("".join(f"{name:>8}" for name in BACKENDS), " clips/s/core")
    for name in GRID:
        mine = [row for row in rows if row["settings"] == name]
        kb, psnr, ssim = (statistics.mean(row[key] for row in mine) for key in ("kb", "psnr", "ssim"))
        speeds = [1 / statistics.mean(row["seconds"][key] for row in mine) for key in ("limit", *BACKENDS)]
        print(f"{name:40} {kb:6.0f} {psnr:6.2f} {ssim:6.4f} " + " ".join(f"{speed:6.1f} " for speed in speeds))
    if given.json:
        write_text(given.json, json.dumps(rows, indent=1) + "\n")


def measure(path: str, folder: Path, short_side: int, repeats: int) -> list[dict[str, Any]]:
    """Every setting on one video."""
    rows, methods = [], {}
    for number, (name, (codec, options, quality, gop)) in enumerate(tqdm(GRID.items(), Path(path).name)):
        target = str(folder / f"{number}.mp4")
        reencode.CODECS[name] = (codec, options, quality, gop)
        settings = Encoding.of(short_side, name)
        count, _ = reencode.write_copy(path, target, settings)
        psnr, ssim = likeness(path, target, short_side)
        row = {"video": Path(path).name, "settings": name, "psnr": psnr, "ssim": ssim}
        rows.append(row | {"kb": os.path.getsize(target) / 1e3})
        methods[name, "limit"] = partial(limit, path=target, clip=(32, 2))
        for backend in BACKENDS:
            methods[name, backend] = partial(random_clip, path=target, backend=backend, clip=(32, 2), checked=count)
    seconds = take_turns(methods, repeats, Path(path).name)  # type: ignore[arg-type, type-var]
    for row in rows:
        row["seconds"] = {key: seconds[row["settings"], key] for key in ("limit", *BACKENDS)}  # type: ignore[index]
    return rows


def likeness(source: str, target: str, short_side: int) -> tuple[float, float]:
    """Mean luma PSNR in dB and mean SSIM (7 x 7 windows) over all frames."""
    found = [
        compare(luma(before), luma(after))
        for before, after in zip(reencode.scaled(source, short_side), decode_all(target), strict=True)
    ]
    return statistics.mean(psnr for psnr, _ in found), statistics.mean(ssim for _, ssim in found)


def luma(picture: Any) -> torch.Tensor:
    """Luma as float32 `[1, 1, H, W]`."""
    plane = picture.planes[0]
    rows = np.frombuffer(plane, np.uint8).reshape(picture.height, plane.line_size)
    return torch.from_numpy(rows[:, : picture.width].astype(np.float32))[None, None]


def compare(a: torch.Tensor, b: torch.Tensor) -> tuple[float, float]:
    """PSNR and SSIM of two pictures (Wang et al. 2004, with a uniform window)."""
    error = max(float((a - b).square().mean()), 1e-2)
    mean = partial(torch.nn.functional.avg_pool2d, kernel_size=7, stride=1)
    ma, mb = mean(a), mean(b)
    va, vb, cov = mean(a * a) - ma * ma, mean(b * b) - mb * mb, mean(a * b) - ma * mb
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    ssim = (2 * ma * mb + c1) * (2 * cov + c2) / ((ma * ma + mb * mb + c1) * (va + vb + c2))
    return 10 * float(np.log10(255**2 / error)), float(ssim.mean())


if __name__ == "__main__":
    main()
