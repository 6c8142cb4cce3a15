"""The model card that is beside exports: data, norm, clip, recipe, results with their protocol, versions."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from video_gn.console import as_code, as_markdown
from video_gn.data.settings import Augment
from video_gn.errors import InputError
from video_gn.files.text import read_text, write_text
from video_gn.models.norm import make_norm, norm_options
from video_gn.models.resnet3d import norm_of
from video_gn.predict.programs import smallest_side
from video_gn.predict.settings import Settings
from video_gn.rules import plain
from video_gn.train.loss import Loss
from video_gn.train.rebuild import recipe

LOAD = {
    "safetensors": "`python -m video_gn.predict {file} VIDEO`, `--model.start.init {file}`, or "
    "`safetensors.torch.load_file`",
    "onnx": '`onnxruntime.InferenceSession("{file}").run(["logits", "scores"], {{"clips": clips}})`',
    "torch": '`torch.export.load("{file}").module()(clips)` gives logits and scores; it is a program: only if '
    "you trust its maker",
    "pytorchvideo": '`torch.load("{file}", weights_only=True)["model_state"]`, for `create_resnet` (below)',
    "detector": '`torch.load("{file}", weights_only=True)`, for `resnet{depth}` of torchvision (below)',
}


def write_card(
    path: Path,
    model: nn.Module,
    settings: Settings,
    files: Mapping[str, Path],
    differences: Mapping[str, float],
    known: Mapping[str, Any],
    checkpoint: str,
    digest: str,
) -> None:
    """Writes the card as Markdown.

    Args:
        path: Of the card.
        model: The classifier.
        settings: Of it.
        files: By format.
        differences: Of each format's logits from the checkpoint's, as a fraction of the largest logit.
        known: Of the run's `results.json` (`read_results`).
        checkpoint: Name of the file that was exported.
        digest: Of the weights and settings, by which a later export knows them again.
    """
    hp = settings.net
    sections = [
        f"# {as_markdown(settings.run['name'])}",
        _summary(model, settings),
        "## Files",
        _table(
            ("file", "size", "largest difference of logits", "to load it"),
            [
                (
                    as_markdown(file.name),
                    _size(file),
                    f"{differences[one]:.1e} of the largest",
                    LOAD[one].format(file=as_code(file.name)[1:-1], depth=hp.get("depth")),
                )
                for one, file in files.items()
            ],
        ),
        f"Each was loaded again and compared with {as_code(checkpoint)} on random clips of the training crop and, but "
        f"for a detector's backbone, of the test's size. Weights and settings: SHA-256 {as_code(digest)}.",
        *(_pytorchvideo(settings) if "pytorchvideo" in files else ()),
        *(_detector(settings, files["detector"]) if "detector" in files else ()),
        "## Input",
        _table(("", ""), _input(settings)),
        "## Classes",
        f"{len(settings.class_names)}, in the order of the scores: "
        f"{', '.join(map(as_markdown, settings.class_names))}.",
        "## Training",
        _table(("", ""), _training(settings, known)),
        "## Results",
        *_results(known, checkpoint),
        "## Versions",
        ", ".join(as_markdown(f"{name} {value}") for name, value in settings.versions.items() if value) + ".",
    ]
    if hp["norm"] in ("bn", "brn"):
        sections.insert(2, "BatchNorm normalizes by the running statistics of training.")
    write_text(path, "\n\n".join(sections) + "\n")


def earlier_files(card: Path, files: Mapping[str, Path], digest: str) -> dict[str, float] | None:
    """Of the files that are still there as a card names them, by format: the difference of logits.

    None where there is no card, or one of other weights or settings.
    """
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    if as_code(digest) not in text:
        return None
    there = {one: f"| {as_markdown(file.name)} | {_size(file)} | " for one, file in files.items() if file.is_file()}
    rows = {one: re.search(rf"^{re.escape(row)}(\d\.\de[-+]\d+) of", text, re.MULTILINE) for one, row in there.items()}
    return {one: float(row[1]) for one, row in rows.items() if row}


def _size(file: Path) -> str:
    return f"{file.stat().st_size / 2**20:.1f} MiB"


def read_results(path: Path, settings: Settings) -> dict[str, Any]:
    """What a run's `results.json` says, if there is one.

    Raises:
        InputError: It is not what a run writes.
    """
    if not path.is_file():
        return {}
    try:
        known = json.loads(read_text(path))
        _training(settings, known)
        _results(known, "")
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, ArithmeticError, RecursionError) as error:
        raise InputError(f"{path} is not what a run writes ({type(error).__name__}); move it away") from None
    return known


def _summary(model: nn.Module, settings: Settings) -> str:
    hp = settings.net
    norm = norm_of(hp)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    kind = "An image" if settings.clip["images"] else "A video"
    scores = ", multi-label: each class has a score from 0 to 1 of its own (a sigmoid)" if settings.multi_label else ""
    return (
        f"{kind} classifier of video_gn: {settings.kind.summary(hp)}, "
        f"norm `{norm}`, {parameters / 1e6:.2f} M parameters, {len(settings.class_names)} classes{scores}."
    )


def _input(settings: Settings) -> list[tuple[str, str]]:
    clip, (mean, std) = settings.clip, settings.scale
    frames = clip["num_frames"]
    return [
        ("clip", f"{frames} frames at interval {clip['frame_interval']}" if not clip["images"] else "one image"),
        ("tensor", f"`clips`, uint8 RGB `[N, 3, {frames}, H, W]`; H and W at least {smallest_side(settings)} (graphs)"),
        (
            "normalization",
            f"(x / 255 - mean) / std with mean {mean}, std {std}: done by graphs",
        ),
        ("training crop", f"{clip['crop_size']} pixels"),
        ("test", f"short side {clip['test_short_side']}" + ("" if clip["images"] else f", {clip['test_protocol']}")),
    ]


def _changed(given: Any, default: Any) -> str:
    """Those of a group's settings that are not their defaults."""
    known = plain(default)
    found = (
        {name: value for name, value in given.items() if known.get(name) != value} if isinstance(given, dict) else {}
    )
    return as_markdown(", ".join(f"{name} {value}" for name, value in found.items()))


def _training(settings: Settings, known: Mapping[str, Any]) -> list[tuple[str, str]]:
    hp, run, used = settings.model, known.get("run", {}), recipe(settings.model)
    optimizer = used.get("optimizer")
    named = {
        part: as_markdown(str(used.get(part) or hp.get(part, {}).get("class_path", "")))
        for part in ("optimizer", "schedule")
    }
    at_64 = f"{optimizer.base_lr:g} at 64 clips" if optimizer else ""
    data = run.get("data", {})
    clip, fit = settings.clip, known.get("fit")
    crops = "a random part" if clip["images"] else f"random short side in {list(clip['short_side'])}"
    rows = [
        (
            "data",
            f"{as_code(str(data['root']))}, {as_markdown(str(data['train']))}"
            if data and not data.get("motion")
            else "",
        ),
        ("data", f"the embedded set motion12, {as_markdown(str(data['motion']))}" if data.get("motion") else ""),
        ("augmentation", f"{crops}, crop {clip['crop_size']}" + (", flip" if clip["flip"] else ", no flip")),
        ("further augmentation, mixing", _changed(data.get("augment"), Augment())),
        ("sampling", as_markdown(str(data.get("sampling", "")).replace("shuffled", ""))),
        ("loss", _changed(hp.get("loss"), Loss())),
        ("BN frozen after", f"{hp['freeze_bn_after']:g} of training" if hp.get("freeze_bn_after") is not None else ""),
        ("started from", as_code(hp["start"]["init"]) if hp["start"].get("init") else "random weights"),
        (
            "converted",
            f"from BN: gamma and beta of each layer re-fitted on {hp['start']['convert']} training clips"
            if hp["start"].get("convert")
            else "",
        ),
        ("length", f"{settings.run['steps']} steps, to epoch {settings.run['epochs']}"),
        ("epochs, steps of the whole run", f"{fit['epochs']:d}, {fit['steps']:d}" if fit else ""),
        ("clips per step", f"{run['clips_per_step']:d} ({hp['batch_size']} per process)" if "lr" in run else ""),
        ("learning rate", f"{run['lr']:g}" if "lr" in run else at_64),
        ("schedule", named["schedule"]),
        ("optimizer", named["optimizer"]),
        ("learning rate of the head", f"x {optimizer.head_lr:g}" if optimizer and optimizer.head_lr != 1 else ""),
        ("weight decay", f"{optimizer.weight_decay:g}, of norms {optimizer.norm_weight_decay:g}" if optimizer else ""),
        ("dropout", f"{settings.net.get('dropout', 0.5):g}"),
        ("drop path", f"up to {settings.net['drop_path']:g}" if settings.net.get("drop_path") else ""),
        ("device", as_markdown(str(run.get("device", "")))),
    ]
    return [row for row in rows if row[1]]


def _results(known: Mapping[str, Any], checkpoint: str) -> list[str]:
    tests = known.get("tests", [])
    if not tests:
        return ["No test of the run is beside the checkpoint."]
    figures = {"mAP": "map", "macro-F1": "macro_f1"} if any("map" in test for test in tests) else {}
    figures |= {"top-1": "top1", "top-5": "top5"}
    rows = [
        (
            as_markdown(f"{one['protocol']} ({one['views']})"),
            *(f"{100 * one[key]:.2f} %" for key in figures.values()),
            f"{one['videos']:.0f} ({one['unreadable']:.0f} unreadable, counted wrong)",
            as_markdown(Path(one["checkpoint"]).name if one["checkpoint"].endswith(".ckpt") else one["checkpoint"]),
            as_markdown(one["date"][:10]),
        )
        for one in tests
    ]
    head = ("protocol", *figures, "files", "tested", "date")
    return [_table(head, rows), f"Exported is {as_code(checkpoint)}; a row of another file is of other weights."]


def _pytorchvideo(settings: Settings) -> list[str]:
    return [
        "`create_resnet(**video_gn.export.formats.pytorchvideo_arguments(settings))` builds the network, with "
        "`settings = video_gn.predict.model_file.open_trained(file).settings`: "
        f"arch `{settings.net['arch']}`. "
        "Its input is normalized before, and it averages logits over positions."
    ]


def _detector(settings: Settings, file: Path) -> list[str]:
    hp, (mean, std) = settings.net, settings.scale
    layer = make_norm(hp["norm"], **norm_options(hp))(64)
    norm = f"lambda c: nn.GroupNorm({_groups(hp)}, c)" if isinstance(layer, nn.GroupNorm) else "nn.BatchNorm2d"
    classes = len(settings.class_names)
    return [
        "As the backbone of a Mask R-CNN with FPN (Wu & He 2018, section 4.2):",
        "\n".join(
            [
                "```python",
                f"norm = {norm}",
                f"trunk = torchvision.models.resnet{hp['depth']}(num_classes={classes}, norm_layer=norm)",
                f"trunk.load_state_dict(torch.load({json.dumps(file.name)}, weights_only=True))",
                "backbone = BackboneWithFPN(trunk, {f'layer{i}': str(i - 1) for i in (1, 2, 3, 4)},",
                "                           [256, 512, 1024, 2048], 256, norm_layer=norm)",
                "model = MaskRCNN(backbone, num_classes=91,",
                f"                 image_mean={mean}, image_std={std})",
                "```",
            ]
        ),
    ]


def _groups(hp: Mapping[str, Any]) -> str:
    """Number of groups of a GN, LN or IN over c channels, as Python."""
    if hp["norm"] == "gn" and hp.get("channels_per_group") is not None:
        return f"c // {hp['channels_per_group']}"
    return {"gn": str(hp["num_groups"]), "ln": "1", "in": "c"}[hp["norm"]]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(re.sub(r"(?<!\\)\|", r"\\|", str(cell)) for cell in line) + " |" for line in lines
    )
