"""The package in Python: lazily imported names, and docs/python.md as it stands."""

import json
import re
import subprocess
import sys
from functools import partial

import onnxruntime
import pytest
import pytorch_lightning as pl
import torch
from conftest import REPO
from pytorch_lightning.callbacks import BatchSizeFinder, EarlyStopping, LearningRateFinder, RichProgressBar
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

import video_gn
from video_gn.batch import as_batch
from video_gn.errors import InputError
from video_gn.train.callbacks.bn_statistics import EvaluationStatistics

LIGHT = "import json, sys, video_gn; print(json.dumps([sorted(sys.modules), video_gn.__version__, video_gn.__all__]))"


def test_the_import_is_light():
    modules, version, names = json.loads(subprocess.check_output([sys.executable, "-c", LIGHT], cwd=REPO))
    assert not {"torch", "numpy", "pytorch_lightning", "torchvision", "av"} & set(modules)
    assert re.match(r"\d+\.\d+", version) and {"create_model", "load_model", "VideoData"} <= set(names)
    assert all(getattr(video_gn, name) is not None for name in names)
    with pytest.raises(AttributeError, match="video_gn has no Resnet"):
        video_gn.Resnet  # noqa: B018


def test_the_page_of_the_kernels_runs():
    blocks = re.findall(r"```python\n(.*?)```", (REPO / "docs" / "kernels_in_networks.md").read_text(), re.DOTALL)
    page: dict = {}
    for block in blocks:
        exec(compile(block, "docs/kernels_in_networks.md", "exec"), page)
    assert len(blocks) == 2 and page["instance"].kernels == "torch"
    torch.testing.assert_close(page["z"], (page["y"] + page["x"]).relu())


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (REPO / "docs" / "python.md").read_text(), re.DOTALL)
    page: dict = {}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), page)
    assert len(blocks) == 4 and page["batch"].clips.shape == (4, 1, 3, 8, 32, 32)
    assert page["sample"].clips.shape == (1, 8, 32, 32, 3)
    assert len(page["net"].blocks[-1].proj.bias) == 12 and isinstance(page["layer"], video_gn.GroupNorm)
    state = page["model"].net.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in page["again"].net.state_dict().items())
    assert "data/motion12-2f50beae/" in capsys.readouterr().out
    found = page["trained"].predict([str(tmp_path / "data")])
    assert len(found) == 24 and all(abs(sum(one.scores) - 1) < 1e-4 and len(one.classes) == 12 for one in found)


def test_the_page_on_conversion_runs(capsys):
    """And prints what it says that it prints, but for the percentages of random weights."""
    page = (REPO / "docs" / "convert.md").read_text()
    code, printed = re.search(r"```python\n(.*?)```\n\n    ([^\n]*\n)", page, re.DOTALL).groups()
    exec(compile(code, "docs/convert.md", "exec"), {})
    said, expected = (re.sub(r"[\d.]+%", "%", text) for text in (capsys.readouterr().out, printed))
    assert said == expected and "53 BatchNorm2d are gn now" in said


class Mean(nn.Module):
    """The least that a network can be."""

    def __init__(self, num_classes: int, hidden: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, hidden), nn.LayerNorm(hidden), nn.Linear(hidden, num_classes))

    def forward(self, clips):
        return self.layers(clips.mean((2, 3, 4)))


@pytest.fixture
def little(data_root, motion):
    clip = video_gn.Clip(4, 8, 64, (40, 40), 32, False)
    loading = video_gn.Loading(num_workers=0)
    return video_gn.VideoData(str(data_root), motion=motion, clip=clip, loading=loading, batch_size=8)


def fitted(net, data, *callbacks, **settings):
    model = video_gn.VideoClassifier(data.class_names, net, video_gn.AdamW(head_lr=1.0), crop_size=32, **settings)
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
                         enable_progress_bar=any(isinstance(one, RichProgressBar) for one in callbacks),
                         limit_val_batches=1, limit_train_batches=2, callbacks=list(callbacks))  # fmt: skip
    trainer.fit(model, data)
    return trainer, model


def test_any_module_that_gives_logits(little, tmp_path):
    trainer, model = fitted(partial(Mean, hidden=6), little)
    groups = trainer.optimizers[0].param_groups
    assert [group["weight_decay"] for group in groups] == [0.05, 0.0]  # LayerNorm's gamma and beta have none
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    with pytest.raises(InputError, match=r"the network in .*own.ckpt is test_api\.Mean"):
        video_gn.VideoClassifier.load_from_checkpoint(tmp_path / "own.ckpt")
    again = video_gn.VideoClassifier.load_from_checkpoint(tmp_path / "own.ckpt", net=partial(Mean, hidden=6))
    assert all(map(torch.equal, again.net.parameters(), model.net.parameters()))
    with pytest.raises(InputError, match="the network that net makes is not the one in"):
        video_gn.VideoClassifier.load_from_checkpoint(tmp_path / "own.ckpt", net=Mean)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"start": video_gn.Start(freeze_stages=1)},
            "freeze_stages needs a network that has `stages`, and Mean",
        ),
        ({"start": video_gn.Start(init="x.pth")}, "no file x.pth"),
    ],
)
def test_what_needs_more_than_logits_says_so(settings, words):
    with pytest.raises(InputError, match=words):
        video_gn.VideoClassifier(["a", "b"], Mean, **settings)


def test_networks_that_are_none(little):
    with pytest.raises(InputError, match="gives int, which is no"):
        video_gn.VideoClassifier(["a"], lambda k: k)
    with pytest.raises(InputError, match=r"Mean gives \[8, 3\] for 8 clips"):
        fitted(lambda k: Mean(3), little)
    model = video_gn.VideoClassifier(["a"], Mean, video_gn.AdamW(head_lr=2.0))
    model.trainer = type("T", (), {"world_size": 1, "accumulate_grad_batches": 1, "precision_plugin": None})()
    with pytest.raises(InputError, match="head_lr needs a network that has `head`"):
        model.configure_optimizers()


def test_lightnings_callbacks(little):
    trainer, _ = fitted(Mean, little, EarlyStopping("val/top1"), RichProgressBar())
    assert trainer.global_step == 2
    for finder in (LearningRateFinder(), BatchSizeFinder()):
        with pytest.raises(InputError, match=f"{type(finder).__name__} changes .* set .* instead"):
            fitted(Mean, little, finder)


def test_networks_by_name():
    """The norm may be behind a name."""
    assert video_gn.list_models("x3d_*") == ["x3d_xs", "x3d_s", "x3d_m", "x3d_l"]
    assert "i3d_r50" in video_gn.list_models("*r50") and not video_gn.list_models("resnet50*")
    assert len(video_gn.list_models()) == len(set(video_gn.list_models())) == 82
    assert video_gn.list_models()[-12:] == [
        *("r3d_18", "mc3_18", "r2plus1d_18", "s3d", "r2plus1d_r50", "x3d_xs", "x3d_s", "x3d_m", "x3d_l"),
        *("slowfast_r50", "slowfast_r101", "csn_r101"),
    ]
    assert video_gn.create_model("i3d_small_r11_frozen_bn", 3, width=8).norm == "frozen_bn"
    assert video_gn.create_model("x3d_xs_in", 3, num_groups=8).settings["norm"] == "in"
    net = video_gn.create_model("i3d_small_r11", 3, norm="bn", width=8)
    assert net.norm == "bn" and net(torch.zeros(1, 3, 8, 32, 32)).flatten(1).shape == (1, 3)
    assert "i3d_r101_nl5" in video_gn.list_models() and "i3d_r101_nl10" not in video_gn.list_models()
    net = video_gn.create_model("i3d_r50_nl10", 3, norm="in", width=2)
    assert net.settings["nonlocal_blocks"] == 10 and net.settings["norm"] == "in"
    for name, given, words in (
        ("i3d_r101_nl10", {"width": 8}, "no network"),
        ("x3d_s", {"arch": "i3d"}, "x3d_s: .*arch"), ("i3d_r50_nl7", {}, "no network"),
        ("resnet50", {}, "no network 'resnet50'"), ("i3d_r18", {}, "no network"),
        ("i3d_r50_gn", {"norm": "bn"}, "say one"),
        ("i3d_r50", {"size": 3}, "size"), ("i3d_small_r11", {"width": 8}, "8 channels cannot be split"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            video_gn.create_model(name, 3, **given)


def test_a_network_keeps_the_scale_that_it_was_made_with():
    net = video_gn.create_model("i3d_small_r11", 2, num_groups=8, width=16)
    net.mean, net.std = (0.1, 0.2, 0.3), (0.2, 0.2, 0.4)  # as weights give them
    model = video_gn.VideoClassifier(["a", "b"], lambda _: net)
    assert model.mean == [0.1, 0.2, 0.3] and model.hparams["start"]["std"] == [0.2, 0.2, 0.4]
    other = video_gn.Start(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    assert video_gn.VideoClassifier(["a", "b"], lambda _: net, start=other).mean == [0.5] * 3 == list(net.mean)


class Odd(Mean):
    """A norm in the head, a BatchNorm without gamma, and attributes of its own that ours have too."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.register_buffer("mean", torch.zeros(3))
        self.settings = "mine"
        self.batch_norm = nn.BatchNorm1d(3, affine=False)
        self.head = nn.Sequential(nn.LayerNorm(3), nn.Linear(3, num_classes))

    def forward(self, clips):
        return self.head(self.batch_norm(clips.mean((2, 3, 4))))


@pytest.mark.slow
def test_networks_with_parts_of_every_kind(little):
    trainer, model = fitted(Odd, little)
    assert trainer.global_step == 2 and model.hparams["net"]["init_args"] == {}
    groups = video_gn.SGD(head_lr=10, norm_weight_decay=0.5).groups(model.net, list(model.net.head.parameters()), 0.1)
    decays = [(group["weight_decay"], group.get("lr")) for group in groups]
    assert decays == [(1e-4, None), (0.5, None), (1e-4, 1.0), (0.5, 1.0)]
    together = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(together) == sorted(map(id, model.net.parameters()))
    trainer.callbacks.append(EvaluationStatistics("precise", 1))
    trainer.validate(model, little, verbose=False)
    assert [one["layer"] for one in model.norm_layers] == ["batch_norm"]


def test_each_pass_without_a_trainer_is_the_next_epoch(little):
    little.setup("fit")
    loader = little.train_dataloader()
    first, second = ([row for batch in loader for row in batch.rows.tolist()] for _ in range(2))
    assert first != second and sorted(first) == sorted(second) == list(range(24))
    again = video_gn.VideoData(**{name: getattr(little, name) for name in ("root", "motion")} | {
        "clip": video_gn.Clip(4, 8, 64, (40, 40), 32, False), "loading": video_gn.Loading(num_workers=0)})  # fmt: skip
    again.setup("fit")
    assert [row for batch in again.train_dataloader() for row in batch.rows.tolist()] == first


def test_a_training_without_an_end_has_no_warm_up(little):
    model = video_gn.VideoClassifier(little.class_names, Mean, schedule=video_gn.Cosine(0.1), crop_size=32)
    trainer = pl.Trainer(max_epochs=-1, max_time={"seconds": 1}, accelerator="cpu", logger=False,
                         enable_checkpointing=False, enable_progress_bar=False)  # fmt: skip
    with pytest.raises(InputError, match=r"warmup is 0\.1 of a training without end"):
        trainer.fit(model, little)


LOADERS_OWN = pytest.mark.filterwarnings(  # what Lightning says of such loaders
    "ignore:.*does not have many workers", "ignore:The number of training batches", "ignore:.*no `val_dataloader`"
)


def plain(dtype=torch.uint8, keys=False):
    """A loader of anybody's: clips and labels."""
    clips = torch.randint(0, 256, (8, 3, 4, 32, 32), dtype=torch.uint8, generator=torch.manual_seed(0))
    clips = clips if dtype is torch.uint8 else clips.to(dtype) / 255
    data = [{"video": clip, "label": i % 2} if keys else (clip, i % 2) for i, clip in enumerate(clips)]
    return DataLoader(data, batch_size=4)


def bare_trainer():
    return pl.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
                      enable_progress_bar=False, enable_model_summary=False)  # fmt: skip


@pytest.mark.parametrize("keys", [False, True], ids=["tuples", "pytorchvideo"])
@pytest.mark.parametrize("first", ["validate", "test"])
@pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:The number of training batches", "ignore:.*no `val_dataloader`"
)
def test_a_plain_loader_of_clips_and_labels(keys, first):
    """Evaluated before training too, whose sums are tensors of inference then."""
    trainer, model = bare_trainer(), video_gn.VideoClassifier(["a", "b"], Mean, crop_size=32, batch_size=4)
    before = getattr(trainer, first)(model, plain(keys=keys), verbose=False)[0]
    trainer.fit(model, plain(keys=keys), plain(keys=keys))
    assert trainer.global_step == 2
    after = trainer.validate(model, plain(keys=keys), verbose=False)[0]
    scores = torch.cat([model.eval().scores(clips[:, None])[:, 0] for clips, _ in plain()])
    labels = torch.arange(8) % 2
    assert after["val/top1"] == pytest.approx((scores.argmax(1) == labels).double().mean().item())
    assert after["val/loss"] == pytest.approx(-scores.gather(1, labels[:, None]).log().mean().item(), rel=1e-5)
    assert before.keys() and model.results["val"]["videos"] == 8


class Endless(IterableDataset):
    """Clips of a stream, which has no length."""

    def __iter__(self):
        return ((torch.zeros(3, 4, 32, 32, dtype=torch.uint8), i % 2) for i in range(8))


@LOADERS_OWN
def test_a_loader_without_a_length_ends_by_steps():
    """Where in a training of so many epochs a step is, is not known."""

    def fit(after, schedule, **end):
        model = video_gn.VideoClassifier(["a", "b"], Mean, schedule=schedule, crop_size=32, batch_size=4,
                                         freeze_bn_after=after)  # fmt: skip
        trainer = pl.Trainer(**end, accelerator="cpu", logger=False, enable_checkpointing=False,
                             enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
        trainer.fit(model, DataLoader(Endless(), batch_size=4))
        return trainer.optimizers[0].param_groups[0]["lr"]

    with pytest.raises(InputError, match=r"freeze_bn_after is 0\.8 of a training without end; set .*without a length"):
        fit(0.8, video_gn.Step(), max_epochs=2)
    first = fit(None, video_gn.Cosine(), max_epochs=2)
    assert first == fit(None, video_gn.Step(), max_epochs=2) > 0  # as it is at first
    assert fit(None, video_gn.Cosine(), max_steps=4) == pytest.approx(0, abs=1e-9)


@LOADERS_OWN
def test_a_classifier_whose_norms_were_converted_later_is_saved_as_what_it_is(little, tmp_path):
    model = video_gn.VideoClassifier(little.class_names, partial(video_gn.ResNet3d, arch="i3d_small", depth=11, width=8,
                                     norm="gn", num_groups=4), crop_size=32, batch_size=4)  # fmt: skip
    video_gn.convert_norm(model.net, "ln")
    trainer = bare_trainer()
    clips = torch.randint(0, 256, (4, 3, 8, 32, 32), dtype=torch.uint8)
    trainer.fit(model, little)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    again = video_gn.VideoClassifier.load_from_checkpoint(tmp_path / "a.ckpt")
    assert again.net.settings["norm"] == "ln" and torch.equal(again(clips), model.eval()(clips))


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ("text", r"a batch has a str for clips; it has to be \(clips, labels\)"),
        ((torch.zeros(2, 4, 8, 8),), r"a batch has a tensor \[2, 4, 8, 8\] for clips"),
        ((torch.zeros(2, 4, 3, 8, 8), torch.zeros(2).long()), r"a tensor \[2, 4, 3, 8, 8\] for clips"),
        ((torch.zeros(2, 3, 4, 8, 8), torch.zeros(2)), r"torch.float32 \[2\] for labels; they have to be integers"),
        ((torch.zeros(2, 3, 4, 8, 8), torch.zeros(3).long()), r"a batch of 2 videos has torch.int64 \[3\] for labels"),
        ((torch.zeros(2, 3, 4, 8, 8), torch.zeros(2) * 1j), r"torch.complex64 \[2\] for labels"),
        ((torch.zeros(2, 3, 4, 8, 8), torch.tensor([0, 4])), r"labels from 0 to 4; those of 3 classes are from 0 to 2"),
        (torch.zeros(2, 3, 4, 8, 8), r"labels from -1 to -1; .* training and tests need them"),
    ],
)
def test_batches_that_are_none(batch, words):
    with pytest.raises(InputError, match=words):
        as_batch(batch, 3)


@pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:The number of training batches", "ignore:.*no `val_dataloader`"
)
def test_clips_of_floats_are_not_scaled_twice():
    model = video_gn.VideoClassifier(["a", "b"], Mean, crop_size=32, batch_size=4)
    words = r"clips are float32 \[4, 3, 4, 32, 32\]; they have to be uint8 .* \(clips \* 255\)\.round\(\)\.byte\(\)"
    with pytest.raises(InputError, match=words):
        bare_trainer().fit(model, plain(torch.float32))


@pytest.mark.filterwarnings("ignore:.*", "default:.*inference tensor.*")  # the exporters' own
@pytest.mark.slow
def test_a_model_that_was_trained_is_traced_and_exported(little, tmp_path):
    _, model = fitted(partial(video_gn.ResNet3d, arch="i3d_small", depth=11, width=8, num_groups=4), little)
    model.eval()
    clips = torch.randint(0, 256, (2, 3, 4, 32, 32), dtype=torch.uint8)
    expected = model(clips)
    traced = [torch.jit.trace(model, clips), model.to_torchscript(method="trace", example_inputs=clips)]
    assert all(torch.allclose(trace(clips), expected, atol=1e-5) for trace in traced)
    model.to_onnx(tmp_path / "model.onnx", clips)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    torch.testing.assert_close(
        torch.from_numpy(session.run(None, {name: clips.numpy()})[0]), expected, rtol=1e-4, atol=1e-4
    )
    with pytest.raises(InputError, match='cannot be scripted; trace it: method="trace"'):
        model.to_torchscript()


@pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:The number of training batches", "ignore:.*no `val_dataloader`"
)
def test_a_step_of_more_batches_than_an_epoch_has_is_refused():
    """Lightning steps at the epoch's end all the same: the rate would be one for clips that no step sees."""
    model = video_gn.VideoClassifier(["a", "b"], Mean, crop_size=32, batch_size=4)
    for accumulated in (2, 3):
        trainer = bare_trainer()
        trainer.accumulate_grad_batches = accumulated
        if accumulated == 2:
            trainer.fit(model, plain())
            assert trainer.global_step == 1
            continue
        with pytest.raises(InputError, match=r"accumulate_grad_batches is 3, and an epoch has 2 batches .* at most 2"):
            trainer.fit(model, plain())
