"""Classes of videos from a checkpoint or an export alone: `python -m video_gn.predict MODEL VIDEO ...`.

MODEL is a checkpoint (`.ckpt`) or what `video_gn.export` wrote (`.safetensors`, `.pth`, `.onnx`; a `.pt2` is a program,
whose code runs: it needs `--trust`). VIDEO is a file, a folder or a pattern. The scores are those of `train.py
predict`, which spreads long lists over GPUs; a picture of each shows what the model saw.
"""

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from video_gn.console import exit_code, progress, set_up_messages
from video_gn.data import protocols
from video_gn.data.folders import IMAGE_SUFFIXES, SUFFIXES
from video_gn.data.lists import find_videos
from video_gn.errors import DecodeError, InputError
from video_gn.files.writing import make_folder
from video_gn.predict.model_file import open_trained
from video_gn.predict.pictures import Pictures
from video_gn.predict.score import make_views, score
from video_gn.train.callbacks.predictions import entry, json_lines, table


def run(given: argparse.Namespace) -> None:
    """Predicts what a command line asks for.

    Raises:
        InputError: Something that the user can correct; or none of the videos can be read.
    """
    if given.json and given.json != "-" and Path(given.json).exists():
        raise InputError(f"{given.json} already exists; name another file with --json")
    if given.batch_size < 1 or given.workers < 0:
        raise InputError(f"--batch_size is {given.batch_size} and --workers {given.workers}; at least 1, and 0")
    if (given.cam or given.mp4) and not given.pictures:
        raise InputError("--cam and --mp4 are about pictures; name a folder for them with --pictures")
    model = open_trained(str(given.model), _device(given.device), given.trust)
    if given.cam and model.model is None:
        raise InputError("--cam needs the network: take the checkpoint or its .safetensors, not a graph")
    videos = find_videos(given.videos, IMAGE_SUFFIXES if model.settings.clip["images"] else SUFFIXES)
    pictures = Pictures(given.pictures, model, make_views(model, given.protocol), given.cam, given.mp4)
    scored = score(model, videos, given.batch_size, given.workers, given.protocol, given.backend)
    to_file = given.json and given.json != "-"
    for folder in ([Path(given.json).parent] if to_file else []) + ([given.pictures] if given.pictures else []):
        make_folder(folder)
    failed = 0
    with open(given.json, "w", encoding="utf-8") if to_file else nullcontext(sys.stdout) as lines:
        for result in progress(scored, "predicting", len(videos), unit=" videos", leave=False, disable=len(videos) < 2):
            path = videos.path(result.row)
            if result.scores is None:
                said: dict[str, Any] = {"video": path, "error": result.reason}
                failed += 1
            else:
                said = entry(path, result.scores.mean(0), model.settings.class_names)
                if given.pictures and "top" in said:
                    try:
                        said["pictures"] = [str(file) for file in pictures.make(path, result.scores)]
                    except DecodeError as error:
                        said["pictures_error"] = error.reason
            if given.json:
                lines.write(json_lines([said]))
                lines.flush()
            if given.json != "-":
                tqdm.write(table(said))
    if failed == len(videos):
        raise InputError(f"none of {failed} videos can be read; the reasons are above")


def _device(given: str | None) -> str:
    device = given or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0]
        raise InputError(
            f"--device {device} cannot be used ({why}); take cpu, or cuda on a machine with a GPU"
        ) from None
    return device


def main(args: list[str] | None = None, prog: str = "python -m video_gn.predict") -> int:
    """Runs the command line; gives its exit code."""
    how = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog, description=__doc__, formatter_class=how)
    parser.add_argument("model", type=Path, help="a checkpoint or an export")
    parser.add_argument("videos", nargs="+", help="files, folders, patterns")
    parser.add_argument("--json", help="file for JSON lines; - is standard output, in the table's place")
    parser.add_argument("--pictures", type=Path, help="folder for a picture (PNG) of each video")
    parser.add_argument("--cam", action="store_true", help="show in them where the model looks, over time")
    parser.add_argument("--mp4", action="store_true", help="and write each video with the classes beside it")
    parser.add_argument("--protocol", choices=protocols.PROTOCOLS, help="views of a video (default: the model's)")
    parser.add_argument("--batch_size", type=int, default=8, help="clips at once (8)")
    parser.add_argument("--workers", type=int, default=2, help="processes that decode (2)")
    parser.add_argument("--backend", choices=("decord", "pyav"), default="decord", help="what decodes (decord)")
    parser.add_argument("--device", help="of torch: cpu, cuda, cuda:1 (default: cuda where there is one)")
    parser.add_argument("--trust", action="store_true", help="let the code in a .pt2 run; only if you trust its maker")
    given = parser.parse_args(args)
    set_up_messages()
    return exit_code(lambda: run(given), "stopped; what was said is kept")


if __name__ == "__main__":
    sys.exit(main())
