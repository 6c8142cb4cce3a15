"""The formats: each writes a file, and gives what runs it, so that it is compared before it is kept."""

import copy
import hashlib
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision
from pytorchvideo.models.resnet import create_resnet
from safetensors.torch import save
from torch import Tensor, nn

from video_gn.console import progress
from video_gn.errors import InputError
from video_gn.export.card import earlier_files, read_results, write_card
from video_gn.export.graph import folded, program_of, tested_size
from video_gn.extras import optional
from video_gn.files.names import as_label, is_utf8
from video_gn.files.writing import make_folder
from video_gn.models.architectures import ARCHS, DEPTHS
from video_gn.models.contract import resnet
from video_gn.models.input import normalize
from video_gn.models.norm import make_norm, norm_options
from video_gn.predict.programs import Program, smallest_side
from video_gn.predict.settings import Settings
from video_gn.train.callbacks.results import versions
from video_gn.train.classifier import VideoClassifier
from video_gn.train.rebuild import rebuild
from video_gn.weights.layouts import torchvision_name
from video_gn.weights.match import places
from video_gn.weights.opening import METADATA
from video_gn.weights.stored import CLASSES

TOLERANCE = 1e-4  # of logits, relative to the largest one, and of scores
ROUNDINGS = 4  # as many times the checkpoint's own distance from float64, where its float32 is less exact than that


# Formats: each writes a file and gives what runs it, from clips to logits


Runs = Callable[[Tensor], Tensor]


def _safetensors(model: VideoClassifier, settings: Settings, path: Path) -> Runs:
    tensors = {name: value.contiguous() for name, value in model.net.state_dict().items()}
    path.write_bytes(save(tensors, {"format": "pt", METADATA: settings.to_json()}))
    again = rebuild(VideoClassifier, str(path), settings.model, settings.clip)
    return lambda clips: again(clips).mean(2)


def _onnx(model: VideoClassifier, settings: Settings, path: Path) -> Runs:
    for package in ("onnx", "onnxscript"):
        optional(package)
    ort = optional("onnxruntime")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        written = torch.onnx.export(
            program_of(model, settings), (), input_names=["clips"], output_names=["logits", "scores"], verbose=False
        )
    assert written is not None
    written.model.metadata_props[METADATA] = settings.to_json()
    for node in written.model.graph:
        node.metadata_props.clear()
    written.save(str(path), external_data=False)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda clips: torch.from_numpy(session.run(["logits"], {"clips": clips.numpy()})[0])


def _torch(model: VideoClassifier, settings: Settings, path: Path) -> Runs:
    torch.export.save(program_of(model, settings), path, extra_files={f"{METADATA}.json": settings.to_json()})
    again = Program(str(path))
    return lambda clips: again(clips)[0]


def pytorchvideo_arguments(settings: Settings) -> dict[str, Any]:
    """What pytorchvideo's `create_resnet` has to be given to build a model's network.

    Raises:
        InputError: It cannot build that network.
    """
    hp, clip = _resnet(settings, "pytorchvideo's create_resnet"), settings.clip
    geo, depths = ARCHS[hp["arch"]], DEPTHS[hp["depth"]]
    _without_nonlocal(hp, "pytorchvideo's create_resnet")
    if hp["width"] != 64 or hp["depth"] not in (50, 101) or geo.pool1 is None or geo.preactivated:
        raise InputError(
            f"pytorchvideo's create_resnet builds depths 50 and 101 at width 64, not arch={hp['arch']}, "
            f"depth={hp['depth']}, width={hp['width']}; take another format"
        )
    window = -(-clip["crop_size"] // geo.spatial_stride(len(depths)))
    return {
        "model_depth": hp["depth"],
        "model_num_class": len(settings.class_names),
        "norm": _norm(hp),
        "stem_conv_kernel_size": geo.stem_kernel,
        "stem_conv_stride": geo.stem_stride,
        "stem_pool": lambda kernel_size, stride, padding: nn.MaxPool3d(kernel_size, stride, geo.pool1_padding),
        "stem_pool_kernel_size": geo.pool1,
        "stem_pool_stride": geo.pool1_stride,
        "stage1_pool": nn.MaxPool3d if geo.temporal_pools else None,
        "stage_conv_a_kernel_size": tuple(
            tuple((3, 1, 1) if inflated[i % len(inflated)] else (1, 1, 1) for i in range(depth))
            for depth, inflated in zip(depths, geo.inflated, strict=True)
        ),
        "head_pool_kernel_size": (geo.frames_out(clip["num_frames"]), window, window),
    }


def _pytorchvideo(model: VideoClassifier, settings: Settings, path: Path) -> Runs:
    arguments, crop = pytorchvideo_arguments(settings), settings.clip["crop_size"]
    if (short := min(tested_size(settings))) < crop:
        raise InputError(
            f"pytorchvideo's head takes frames from the training crop's {crop} pixels a side, and this model is tested "
            f"at {short} (data.evaluation.short_side); take another format"
        )
    torch.save({"model_state": folded(model.net).state_dict(), METADATA: settings.to_json()}, path)
    net = create_resnet(**arguments)
    net.load_state_dict(torch.load(path, weights_only=True)["model_state"])
    net.eval()
    return lambda clips: net(normalize(clips, *settings.scale))


def _detector(model: VideoClassifier, settings: Settings, path: Path) -> Runs:
    hp = _resnet(settings, "torchvision's ResNet")
    _without_nonlocal(hp, "torchvision's ResNet")
    if hp["arch"] != "flat" or hp["depth"] not in (50, 101) or hp["width"] != 64:
        raise InputError(
            f"a 2D detector's backbone is a network for images: arch=flat, depth 50 or 101, width 64; this one is "
            f"arch={hp['arch']}, depth={hp['depth']}, width={hp['width']} (configs/imagenet trains such ones)"
        )
    net = resnet(folded(model.net), "a detector's backbone")
    named = places(net)
    state = {
        torchvision_name(named[name]): value.squeeze(2) if value.ndim == 5 else value
        for name, value in net.state_dict().items()
    }
    torch.save(state, path)
    norm, layers = _norm(hp), {50: torchvision.models.resnet50, 101: torchvision.models.resnet101}
    flat = layers[hp["depth"]](num_classes=len(settings.class_names), norm_layer=lambda c: _flat_norm(norm(c)))
    flat.load_state_dict(torch.load(path, weights_only=True))
    flat.eval()
    return lambda clips: flat(normalize(clips, *settings.scale)[:, :, 0])


def _resnet(settings: Settings, whose: str) -> Mapping[str, Any]:
    """The settings of a network that is a ResNet of this project."""
    if "arch" not in settings.net:
        raise InputError(f"{whose} is another network than {settings.kind.__name__}; take another format")
    return settings.net


def _without_nonlocal(hp: Any, whose: str) -> None:
    if blocks := hp.get("nonlocal_blocks"):
        raise InputError(f"{whose} has no non-local blocks, and this model has {blocks}; take another format")


def _norm(hp: Any) -> Callable[[int], nn.Module]:
    if hp["norm"] == "evonorm_s0":
        raise InputError(
            "this format is of networks with a ReLU behind each norm, and norm=evonorm_s0 is both; take another format"
        )
    return make_norm("bn" if hp["norm"] == "mabn" else hp["norm"], **norm_options(hp))


def _flat_norm(layer: nn.Module) -> nn.Module:
    """A norm of images: GroupNorm knows no dimensions, the batch norms become torch's own."""
    return layer if isinstance(layer, nn.GroupNorm) else nn.BatchNorm2d(len(layer.weight))  # type: ignore[arg-type]


FORMATS: dict[str, tuple[str, Callable[[VideoClassifier, Settings, Path], Runs]]] = {
    "safetensors": (".safetensors", _safetensors),
    "onnx": (".onnx", _onnx),
    "torch": (".pt2", _torch),
    "pytorchvideo": (".pth", _pytorchvideo),
    "detector": (".backbone.pth", _detector),
}
DEFAULT = ("safetensors", "onnx", "torch")


def export(checkpoint: Path, formats: list[str], out: Path | None = None, overwrite: bool = False) -> Path:
    """Writes a checkpoint in the formats asked for, and the model card; gives the card's path.

    A card of the same weights is written again with the files that it names and the further ones.

    Args:
        checkpoint: Of this project.
        formats: Keys of `FORMATS`.
        out: The folder; by default `export` in the run's folder.
        overwrite: Whether files that exist may be replaced.

    Raises:
        InputError: There is no such checkpoint, the model has no such format, or a file already exists.
    """
    settings = Settings.of_checkpoint(str(checkpoint))
    if (own := settings.model["net"]["class_path"]) not in CLASSES["net"]:
        raise InputError(
            f"{checkpoint} has a network of class {own}; exports are of this project's networks. From Python, "
            "video_gn.VideoClassifier.load_from_checkpoint(FILE, net=CLASS) gives it to torch.onnx or torch.export"
        )
    there = checkpoint.absolute().parent
    run_dir = there.parent if there.name == "checkpoints" else there
    out, name = out or run_dir / "export", as_label(run_dir.name)
    if not is_utf8(str(out)):
        raise InputError(f"the formats' libraries need a folder whose name is UTF-8, not {out}; name one with --out")
    settings = Settings(settings.model, settings.clip, {"name": name, **settings.run}, versions())
    named = {one: out / f"{name}{ending}" for one, (ending, _) in FORMATS.items()}
    files, card = {one: named[one] for one in formats}, out / f"{name}.md"
    taken = [path for path in files.values() if path.exists()]
    known = read_results(run_dir / "results.json", settings)
    model = rebuild(VideoClassifier, str(checkpoint), settings.model, settings.clip)
    digest = _digest(model, settings)
    differences = earlier_files(card, named, digest)
    if differences is None and card.exists():
        taken.append(card)
    if taken and not overwrite:
        raise InputError(f"{taken[0]} already exists; pass --overwrite to replace it, or --out FOLDER")
    differences = differences or {}
    tested = {one.get("bn_statistics") for one in known.get("tests", [])} - {None, "running"}
    if tested and settings.net["norm"] in ("bn", "brn"):
        logging.getLogger(__name__).warning(
            "exports normalize by the running statistics of %s, the run was tested with those of %s",
            settings.net["norm"], ", ".join(sorted(tested)),
        )  # fmt: skip
    make_folder(out)
    try:
        with tempfile.TemporaryDirectory(dir=out) as folder:  # all of them, or none
            for kind, path in progress(files.items(), "exporting", unit=" files"):
                part = Path(folder, path.name)
                differences[kind] = _difference(model, settings, FORMATS[kind][1](model, settings, part), kind)
            for path in files.values():
                Path(folder, path.name).replace(path)
    finally:
        if not any(out.iterdir()):
            out.rmdir()
    files = {one: path for one, path in named.items() if one in differences}
    write_card(card, model, settings, files, differences, known, checkpoint.name, digest)
    return card


def _digest(model: VideoClassifier, settings: Settings) -> str:
    """Of weights and settings, not of the versions that wrote them."""
    digest = hashlib.sha256(json.dumps([settings.model, settings.clip, settings.run], sort_keys=True).encode())
    for name, value in sorted(model.net.state_dict().items()):
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _difference(model: VideoClassifier, settings: Settings, runs: Runs, name: str) -> float:
    """Largest difference of logits between a file and the model, as a fraction of the largest logit.

    On two clips of the training crop, or the least that a graph takes, and, but for a detector's backbone, one of the
    test's size.

    Raises:
        InputError: It is above `TOLERANCE` and above `ROUNDINGS` times the checkpoint's own, of float32 and float64.
    """
    crop, frames = settings.clip["crop_size"], settings.clip["num_frames"]
    if name in ("onnx", "torch"):
        crop = max(crop, smallest_side(settings))
    sizes = [(2, crop, crop)] + ([(1, *tested_size(settings))] if name != "detector" else [])
    largest = 0.0
    for count, height, width in sizes:
        random = torch.manual_seed(0)
        clips = torch.randint(0, 256, (count, 3, frames, height, width), dtype=torch.uint8, generator=random)
        with torch.no_grad():
            logits = model(clips).mean(2)
            found = runs(clips).reshape(logits.shape)
        difference = _off(found, logits)
        if not difference < TOLERANCE and not difference < ROUNDINGS * _off(logits, _exact(model, settings, clips)):
            raise InputError(
                f"the {name} export gives other logits than the checkpoint on frames of {height} x {width} pixels, by "
                f"{difference:.1e}; it is not kept"
            )
        largest = max(largest, difference)
    return largest


def _off(found: Tensor, logits: Tensor) -> float:
    return ((found - logits).abs().max() / logits.abs().max().clamp_min(1)).item()


def _exact(model: VideoClassifier, settings: Settings, clips: Tensor) -> Tensor:
    """Logits in float64."""
    with torch.no_grad():
        logits = copy.deepcopy(model.net).double()(normalize(clips, *settings.scale).double())
    return logits.flatten(2).mean(2) if logits.ndim > 2 else logits
