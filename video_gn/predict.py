"""Classes of videos from a checkpoint or an export alone: `python -m video_gn.predict MODEL VIDEO ...`.

MODEL is a checkpoint (`.ckpt`) or what `video_gn.export` wrote (`.safetensors`, `.pth`, `.onnx`; a `.pt2` is a program,
whose code runs: it needs `--trust`). VIDEO is a file, a folder or a pattern. The scores are those of `train.py
predict`, which spreads long lists over GPUs; a picture of each shows what the model saw.
"""

import argparse
import dataclasses
import os
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from video_gn.console import exit_code, set_up_messages
from video_gn.data import sampling, transforms
from video_gn.data.dataset import VideoDataset
from video_gn.data.decoding.open import IMAGE, open_video
from video_gn.data.lists import IMAGE_SUFFIXES, SUFFIXES, find_videos
from video_gn.data.loader import RowSampler, VideoLoader
from video_gn.data.video_list import VideoList
from video_gn.data.views import CentreImage, ProtocolViews, Views, spread
from video_gn.errors import DecodeError, InputError
from video_gn.files.writing import make_folder
from video_gn.picture import class_activation, overlay, strip, write_video
from video_gn.train.callbacks.predictions import TOP, entry, json_lines, table
from video_gn.trained import Trained, open_trained

SHOWN = 8  # frames in a strip
LONGEST_STEM = 200  # bytes of a picture's name; file systems take 255, endings included


class Scored(NamedTuple):
    """A video and its softmax scores, `[V, K]` of its views in their order; None if it cannot be read, for a reason."""

    row: int
    scores: Tensor | None
    reason: str = ""


def score(
    model: Trained,
    videos: VideoList,
    batch_size: int = 8,
    num_workers: int = 2,
    protocol: str | None = None,
    backend: str = "decord",
) -> Iterator[Scored]:
    """Scores of every view of each video, in the order of the list.

    Args:
        model: Of `open_trained`.
        videos: What to look at.
        batch_size: Clips that go through the network at once; of several videos, where their sizes are equal.
        num_workers: Processes that decode.
        protocol: A name of `video_gn.data.sampling.PROTOCOLS`; None takes the model's.
        backend: Which one decodes.
    """
    clip = model.settings.clip
    loader = VideoLoader(
        VideoDataset(videos, _views(model, protocol), backend=IMAGE if clip["images"] else backend),
        RowSampler(len(videos), 0, False),
        batch_size if clip["images"] else 1,
        min(num_workers, len(videos)),
    )
    waiting: list[tuple[int, Tensor]] = []

    def scored() -> Iterator[Scored]:
        if not waiting:
            return
        clips = torch.cat([views for _, views in waiting])
        scores = torch.cat([model.scores(part) for part in clips.split(batch_size)])
        parts = scores.split([len(views) for _, views in waiting])
        yield from (Scored(row, part) for (row, _), part in zip(waiting, parts, strict=True))
        waiting.clear()

    given = 0
    for batch in loader:
        batch = spread(batch)
        failed = {failure.path: failure.reason for failure in batch.failures}
        views = dict(zip(batch.rows.tolist(), batch.clips, strict=True))
        ends = given + len(views) + len(batch.failures)
        for row in range(given, ends):
            if row not in views:
                yield from scored()
                yield Scored(row, None, failed[videos.path(row)])
                continue
            if waiting and waiting[0][1].shape[2:] != views[row].shape[2:]:
                yield from scored()
            waiting.append((row, views[row]))
            if sum(len(one) for _, one in waiting) >= batch_size:
                yield from scored()
        given = ends
    yield from scored()


def _views(model: Trained, protocol: str | None) -> Views:
    clip = model.settings.clip
    if clip["images"]:
        return CentreImage(clip["test_short_side"], clip["crop_size"])
    named = sampling.find_protocol(protocol or clip["test_protocol"])
    return ProtocolViews(clip["num_frames"], clip["frame_interval"], clip["test_short_side"], named)


# Pictures


@dataclasses.dataclass
class Pictures:
    """Makes pictures of predictions.

    Args:
        folder: Where they go.
        model: What predicted.
        views: How it saw them.
        cam: Whether to show where it looks.
        video: Whether to write an MP4 too.
    """

    folder: Path
    model: Trained
    views: Views
    cam: bool = False
    video: bool = False

    def make(self, path: str, scores: Tensor) -> list[Path]:
        """Writes the pictures of one video; gives their paths, none of which was there before."""
        frames, clips, fps = self._look(path)
        per_clip = scores.unflatten(0, (len(clips), -1)).mean(1)
        label = int(scores.mean(0).argmax())
        middle = len(clips) // 2
        at = clips[middle][np.linspace(0, clips.shape[1] - 1, min(SHOWN, clips.shape[1])).round().astype(int)]
        maps = self._maps(frames, clips, label, range(len(clips)) if self.video else [middle]) if self.cam else None
        title = f"{Path(path).name}: clip {middle + 1} of {len(clips)}" if len(clips) > 1 else Path(path).name
        if maps is not None:
            title += f"; where it sees {self._names[label]}"
        shown = strip(frames[at], self._top(scores.mean(0)), title, None if maps is None else maps[at])
        target = self._free(Path(path).stem)
        shown.save(target)
        if not self.video or len(frames) == 1:
            return [target]
        nearest = np.abs(np.arange(len(frames))[:, None] - np.median(clips, 1)).argmin(1)
        tops = [self._top(one) for one in per_clip]
        film = frames if maps is None else overlay(frames, maps)
        write_video(target.with_suffix(".mp4"), film, (tops[i] for i in nearest), fps)
        return [target, target.with_suffix(".mp4")]

    @property
    def _names(self) -> list[str]:
        return self.model.settings.class_names

    def _top(self, scores: Tensor) -> list[tuple[str, float]]:
        best = scores.topk(min(TOP, len(scores)))
        return [(self._names[i], value) for value, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)]

    def _free(self, stem: str) -> Path:
        """A name that is not taken, from the beginning of one that may be as long as names can be."""
        while len(os.fsencode(stem)) > LONGEST_STEM:
            stem = stem[:-1]
        names = (self.folder / f"{stem}{f'-{i}' if i else ''}.png" for i in range(10**6))
        return next(path for path in names if not path.exists() and not path.with_suffix(".mp4").exists())

    def _look(self, path: str) -> tuple[np.ndarray, np.ndarray, float]:
        """Frames `[F, H, W, 3]` as the model saw them, those of each clip `[clips, T]`, and frames a second."""
        if not isinstance(self.views, ProtocolViews):
            with open_video(path, IMAGE) as image:
                frame = self.views(image, np.random.default_rng())[0][0]
            return frame, np.zeros((1, 1), np.int64), 1.0
        views = self.views
        with open_video(path, "pyav") as video:
            clips = views.protocol.clips(views.num_frames, views.frame_interval, video.num_frames)
            needed, where = np.unique(clips, return_inverse=True)
            frames = video.read(needed, partial(transforms.resize_short_side, short_side=views.short_side))
            step = np.median(np.diff(needed)) if len(needed) > 1 else 1.0
            return frames, where.reshape(clips.shape), float(np.clip(video.fps / step, 1, 60))

    def _maps(self, frames: np.ndarray, clips: np.ndarray, label: int, of: Any) -> np.ndarray:
        """Activation of each frame `[F, H, W]`, the mean over the clips that it is in."""
        if self.model.model is None:
            raise InputError("--cam needs the network: take the checkpoint or its .safetensors, not a graph")
        total, count = np.zeros(frames.shape[:3], np.float32), np.zeros(len(frames), np.float32)
        for i in of:
            clip = torch.from_numpy(frames[clips[i]]).permute(3, 0, 1, 2).contiguous()
            for place, found in zip(clips[i], class_activation(self.model.model, clip, label), strict=True):
                total[place] += found
                count[place] += 1
        return total / np.maximum(count, 1)[:, None, None]


# The command line


def run(given: argparse.Namespace) -> None:
    """Predicts what a command line asks for.

    Raises:
        InputError: Something that the user can correct; or none of the videos can be read.
    """
    if given.json and given.json != "-" and Path(given.json).exists():
        raise InputError(f"{given.json} is there already; name another file with --json")
    if given.batch_size < 1 or given.workers < 0:
        raise InputError(f"--batch_size is {given.batch_size} and --workers {given.workers}; at least 1, and 0")
    if (given.cam or given.mp4) and not given.pictures:
        raise InputError("--cam and --mp4 are about pictures; name a folder for them with --pictures")
    model = open_trained(str(given.model), _device(given.device), given.trust)
    if given.cam and model.model is None:
        raise InputError("--cam needs the network: take the checkpoint or its .safetensors, not a graph")
    videos = find_videos(given.videos, IMAGE_SUFFIXES if model.settings.clip["images"] else SUFFIXES)
    pictures = Pictures(given.pictures, model, _views(model, given.protocol), given.cam, given.mp4)
    scored = score(model, videos, given.batch_size, given.workers, given.protocol, given.backend)
    to_file = given.json and given.json != "-"
    for folder in ([Path(given.json).parent] if to_file else []) + ([given.pictures] if given.pictures else []):
        make_folder(folder)
    failed = 0
    with open(given.json, "w", encoding="utf-8") if to_file else nullcontext(sys.stdout) as lines:
        for one in tqdm(scored, "predicting", len(videos), unit=" videos", leave=False, disable=len(videos) < 2):
            path = videos.path(one.row)
            if one.scores is None:
                said: dict[str, Any] = {"video": path, "error": one.reason}
                failed += 1
            else:
                said = entry(path, one.scores.mean(0), model.settings.class_names)
                if given.pictures and "top" in said:
                    try:
                        said["pictures"] = [str(file) for file in pictures.make(path, one.scores)]
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


def main(args: list[str] | None = None) -> int:
    """Runs the command line; gives its exit code."""
    how = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("video_gn.predict", description=__doc__, formatter_class=how)
    parser.add_argument("model", type=Path, help="a checkpoint or an export")
    parser.add_argument("videos", nargs="+", help="files, folders, patterns")
    parser.add_argument("--json", help="file for JSON lines; - is standard output, in the table's place")
    parser.add_argument("--pictures", type=Path, help="folder for a picture (PNG) of each video")
    parser.add_argument("--cam", action="store_true", help="show in them where the model looks, over time")
    parser.add_argument("--mp4", action="store_true", help="and write each video with the classes beside it")
    parser.add_argument("--protocol", choices=sampling.PROTOCOLS, help="views of a video (default: the model's)")
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
