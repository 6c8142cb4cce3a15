"""What several test files make: videos of known frames, and checkpoints of small networks."""

from dataclasses import fields
from fractions import Fraction
from functools import partial

import av
import numpy as np
import torch
from torch import nn

from video_gn.data.image_data import ImageData
from video_gn.data.settings import Clip, Evaluation, Loading
from video_gn.data.video_data import VideoData
from video_gn.models.resnet3d import RULES, ResNet3d
from video_gn.train.classifier import VideoClassifier
from video_gn.train.optim import SGD
from video_gn.train.schedule import Cosine, Step
from video_gn.train.settings import Execution, Start

H264 = "keyint=12:min-keyint=12:scenecut=0:bframes=3:b-pyramid=normal:ref=4"

NAMES = [f"class {i}" for i in range(5)]

NET = [*RULES]
PARTS = {
    "optimizer": (SGD, [field.name for field in fields(SGD)]),
    "schedule": (Step, [field.name for field in fields(Step)]),
    "start": (Start, [field.name for field in fields(Start)]),
    "execution": (Execution, [field.name for field in fields(Execution)]),
}


def classifier(names, **settings):
    """A classifier of this project's network, from settings of whatever part of it."""
    given = {
        part: {name: settings.pop(name) for name in known if name in settings} for part, (_, known) in PARTS.items()
    }
    net = {name: settings.pop(name) for name in NET if name in settings}
    if settings.pop("lr_schedule", "step") == "cosine":
        settings["schedule"] = Cosine(given.pop("schedule").get("warmup", 0.0))
    parts = {part: PARTS[part][0](**values) for part, values in given.items() if values}
    return VideoClassifier(names, partial(ResNet3d, **net), **parts, **settings)


def resnet3d(num_classes, norm="gn", depth=50, width=64, arch="i3d", crop_size=224, dropout=0.5, zero_init_gamma=True):
    """A network for crops of that size; `norm` is a word, or a function of the channel count."""
    net = ResNet3d(num_classes, arch, depth, width, norm, dropout=dropout, zero_init_gamma=zero_init_gamma)
    net.set_crop_size(crop_size)
    return net


def video_data(**settings):
    """A data module from settings of whatever part of it."""
    parts = {"clip": Clip, "evaluation": Evaluation, "loading": Loading}
    renamed = {"test_short_side": "short_side", "test_protocol": "protocol", "inspect": "inspect"}
    evaluation = {new: settings.pop(old) for old, new in renamed.items() if old in settings}
    given = {"evaluation": evaluation}
    for part in ("clip", "loading"):
        known = [field.name for field in fields(parts[part])]
        given[part] = {name: settings.pop(name) for name in known if name in settings}
    return VideoData(**settings, **{part: parts[part](**values) for part, values in given.items()})


SMALL = {"depth": 11, "width": 8, "arch": "i3d_small", "crop_size": 32, "num_groups": 4}


def sequential(path, count=None):
    """The oracle: PyAV decodes from the beginning, frame by frame, and nothing is sought or left out."""
    frames = []
    with av.open(str(path)) as container:
        for frame in container.decode(container.streams.best("video")):
            frames.append(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90) % 4))
            if len(frames) == count:
                break
    return np.stack(frames)


def moved(packets, shift):
    for packet in packets:
        packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
    return packets


def texture(count, height=96, width=128):
    """So many frames of a moving texture, which no turn or shift leaves as it is."""
    rng = np.random.default_rng(0)
    coarse = np.kron(rng.integers(0, 255, (64, 64, 3), np.uint8), np.ones((4, 4, 1), np.uint8))
    return [np.roll(coarse, (2 * i, 3 * i), (0, 1))[:height, :width] for i in range(count)]


def write(path, frames, codec, options, times=range(60), shift=0, rotation=0, pix_fmt="yuv420p", aspect=None):
    written = {"avoid_negative_ts": "disabled"} if shift else {}  # so that MP4 gets an edit list
    with av.open(str(path), "w", options=written) as container:
        stream = container.add_stream(codec, rate=30)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.options = pix_fmt, options
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = Fraction(1, 30)
        if rotation:
            stream.set_display_rotation(rotation)
        for time, pixels in zip(times, frames, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 30)
            container.mux(moved(stream.encode(frame), shift))
        container.mux(moved(stream.encode(), shift))


def checkpoint(path, num_frames=8, data=None, **options):
    """A checkpoint as Lightning writes them, of random weights; gives the classifier."""
    settings = {"crop_size": 64, "arch": "i3d_8x8", "dropout": 0.5}
    model = classifier(NAMES, **(settings | options)).eval()
    randomize(model.net)
    nn.init.normal_(model.net.blocks[-1].proj.weight, std=0.05)
    crop = model.hparams.crop_size
    if data and data.pop("images", False):
        module = ImageData(class_names=NAMES, crop_size=crop, short_side=72, **data)
    else:
        module = video_data(class_names=NAMES, num_frames=num_frames, crop_size=crop, test_short_side=72,
                            short_side=(72, 80), **(data or {}))  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams), "epoch": 1, "global_step": 2}
    torch.save(content | {"datamodule_hyper_parameters": dict(module.hparams)}, path)
    return model


def nested(depth, value=b"K\x01"):
    """A pickle of {((...1,),): value}, as deep as that."""
    return b"\x80\x02}" + b")" + b"\x85" * depth + value + b"s."


def randomize(net):
    """Every weight, gamma, beta and running statistic away from its start."""
    torch.manual_seed(1)
    for name, value in net.state_dict().items():
        if name.endswith(("running_var", ".moment")):
            value.uniform_(0.5, 1.5)
        elif value.ndim == 1 and value.is_floating_point():
            value.normal_(1 if name.endswith("weight") else 0, 0.2)
    return net.eval()
