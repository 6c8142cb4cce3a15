import math
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning.plugins import MixedPrecision, Precision
from pytorch_lightning.strategies import SingleDeviceStrategy
from samples import classifier
from torch import nn

from video_gn.errors import InputError
from video_gn.models.norm import NORMS
from video_gn.train.metrics import Accuracy
from video_gn.train.optim import scaled_lr
from video_gn.train.schedule import Cosine, Step
from video_gn.train.settings import Execution

NAMES = [f"class {i}" for i in range(6)]


def small(**options):
    settings = {"num_groups": 4, "depth": 11, "width": 8, "arch": "i3d_small", "crop_size": 32, "dropout": 0.0}
    return classifier(NAMES, **(settings | options))


@pytest.mark.parametrize(("clips", "lr"), [(64, 0.01), (32, 0.005), (16, 0.0025), (8, 0.00125)])
def test_linear_rule(clips, lr):
    assert scaled_lr(0.01, clips) == pytest.approx(lr)


def test_step_schedule_decays_at_the_papers_iterations():
    expected = {0: 1, 149_999: 1, 150_000: 0.1, 299_999: 0.1, 300_000: 0.01, 399_999: 0.01}
    for iteration, factor in expected.items():
        assert Step().factor(iteration / 400_000) == pytest.approx(factor)


def test_cosine_and_warmup():
    assert [Cosine().factor(p) for p in (0, 0.5, 1)] == pytest.approx([1, 0.5, 0], abs=1e-9)
    assert Step([0.6], warmup=0.1).factor(0) == 0
    assert Step([0.6], warmup=0.1).factor(0.05) == pytest.approx(0.5)
    assert Step([0.6], warmup=0.1).factor(0.5) == 1
    assert Cosine(warmup=0.5).factor(0.25) == pytest.approx(0.5 * Cosine().factor(0.25))


@pytest.mark.parametrize("name", NORMS)
def test_weight_decay_of_gamma_and_beta_is_the_same_for_every_norm(name):
    model = small(norm=name, weight_decay=0.1, norm_weight_decay=0.02)
    model.trainer = SimpleNamespace(world_size=2, accumulate_grad_batches=3, precision_plugin=None)
    optimizer = model.configure_optimizers()["optimizer"]
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for key, parameter in model.net.named_parameters():
        is_norm = "norm" in key
        assert decay[id(parameter)] == (0.02 if is_norm else 0.1), key
    assert optimizer.param_groups[0]["initial_lr"] == pytest.approx(0.01 * (2 * 8 * 3) / 64)
    assert optimizer.defaults["nesterov"] and optimizer.defaults["momentum"] == 0.9


def test_frozen_parameters_are_not_optimised():
    model = small(norm="frozen_bn")
    model.trainer = SimpleNamespace(world_size=1, accumulate_grad_batches=1, precision_plugin=None)
    assert len(model.configure_optimizers()["optimizer"].param_groups) == 2
    fixed = small(norm="frozen_bn", freeze_affine=True)
    fixed.setup("test")  # its weights come from a checkpoint
    with pytest.raises(InputError, match=r"set model\.start\.init"):
        fixed.setup("fit")


def test_scores_are_softmax_averaged_over_positions_of_each_view():
    model = small().eval()
    clips = torch.randint(0, 256, (2, 3, 3, 8, 40, 56), dtype=torch.uint8)
    with torch.no_grad():
        scores = model.scores(clips)
        x = (clips[1, 2].float() / 255 - 0.45) / 0.225
        logits = model.net(x[None])[0, :, 0]
    assert logits.shape == (6, 2, 4) or logits[0].numel() > 1
    torch.testing.assert_close(scores[1, 2], logits.flatten(1).softmax(0).mean(1), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(scores.sum(2), torch.ones(2, 3))
    assert model.scores(torch.empty(0, 1, 3, 0, 0, 0, dtype=torch.uint8)).shape == (0, 1, 6)


def test_parts_of_a_video_give_the_same_scores():
    clips = torch.randint(0, 256, (1, 10, 3, 8, 32, 32), dtype=torch.uint8)
    torch.manual_seed(0)
    model = small(norm="bn", batch_size=3).eval()
    with torch.no_grad():
        in_parts = model.scores(clips)
        model.clips_per_gpu = 10
        torch.testing.assert_close(in_parts, model.scores(clips), rtol=1e-5, atol=1e-6)


def test_accuracy_by_hand():
    scores = torch.tensor([[[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]], [[0.1, 0.5, 0.4], [0.1, 0.3, 0.6]]])
    labels = torch.tensor([0, 2])  # means: [.4 .5 .1] wrong, [.1 .4 .5] right; clips: right wrong, wrong right
    accuracy = Accuracy(3)
    accuracy.update(scores, labels, [])
    accuracy.update(torch.empty(0, 1, 3), torch.empty(0, dtype=torch.int64), [0, 1])
    values = {name: value.item() for name, value in accuracy.compute().items()}
    assert values["top1"] == 1 / 4 and values["clip_top1"] == (0.5 + 0.5) / 4
    assert values["top5"] == 2 / 4  # all three classes are among five
    assert values["videos"] == 4 and values["unreadable"] == 2
    expected = -(torch.tensor(0.4).log() + torch.tensor(0.5).log()).item() / 2
    assert values["loss"] == pytest.approx(expected, rel=1e-6)


def test_top5():
    scores = torch.zeros(1, 1, 10)
    scores[0, 0, :6] = torch.tensor([0.3, 0.2, 0.15, 0.14, 0.11, 0.1])
    for label, right in ((4, 1), (5, 0)):
        accuracy = Accuracy(10)
        accuracy.update(scores, torch.tensor([label]), [])
        assert accuracy.compute()["top5"] == right


def test_training_is_summed_where_processes_meet():
    """NCCL sums on GPUs alone, and at training's end Lightning has moved the module to the CPU."""

    def reduce(sums, reduce_op):
        assert sums.device.type == "meta" and reduce_op == "sum"
        return torch.full(sums.shape, 2.0)

    model = small()
    model.trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("meta"), reduce=reduce))
    assert set(model.training_means().values()) == {1, 2}


def test_too_short_clips_say_what_to_do():
    with pytest.raises(InputError, match=r"3 frames are too short .* raise data\.clip\.num_frames"):
        small()(torch.zeros(1, 3, 3, 32, 32, dtype=torch.uint8))


@pytest.mark.parametrize("channels_last", [False, True])
def test_memory_order_does_not_change_the_logits(channels_last):
    torch.manual_seed(0)
    model = small(channels_last=channels_last).eval()
    nn.init.normal_(model.net.blocks[-1].proj.weight)
    clips = torch.arange(3 * 8 * 32 * 32, dtype=torch.uint8).view(1, 3, 8, 32, 32) * 37
    with torch.no_grad():
        logits = model(clips)
        model.call.execution = Execution(channels_last=not channels_last)
        torch.testing.assert_close(logits, model(clips), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("setting", "device", "last"),
    [(None, "cuda", True), (None, "cpu", False), (False, "cuda", False), (True, "cpu", True)],
)
def test_memory_order_follows_the_device_unless_set(setting, device, last):
    order = torch.channels_last_3d if last else torch.contiguous_format
    assert Execution(channels_last=setting).layout(torch.device(device)) == order


@pytest.mark.parametrize(
    ("settings", "bf16", "last"),
    [
        ({}, False, True),
        ({"crop_size": 224}, False, False),  # measured to be no faster
        ({"channels_last": False}, False, False),
        ({"kernels": "torch"}, False, False),  # whose GroupNorm in that order is inexact
        ({}, True, False),
    ],
)
def test_memory_order_on_a_cpu(settings, bf16, last):
    """The network's own, in training and without a trainer, and its GroupNorm is the exact one."""
    given = {"depth": 11, "width": 8, "num_groups": 4, "arch": "i3d_small", "crop_size": 32, "batch_size": 2}
    model, seen = classifier(NAMES, **given | settings), []
    precision = MixedPrecision("bf16-mixed", "cpu") if bf16 else Precision()
    strategy = SingleDeviceStrategy(torch.device("cpu"), precision_plugin=precision)
    model.net.blocks[1].register_forward_hook(lambda _, inputs, y: seen.append((inputs[0], type(y.grad_fn).__name__)))
    for prepared in (False, True):
        if prepared:
            model.call.prepare(strategy, True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            model(torch.randint(0, 255, (2, 3, 8, 32, 32), dtype=torch.uint8))
    assert [x.is_contiguous(memory_format=torch.channels_last_3d) for x, _ in seen] == [last] * 2
    assert [name == "_NormBackward" for _, name in seen] == [last] * 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kernels": "fast"}, "one of: auto, triton, torch"),
        ({"recompute": "blocks", "compile": True}, "recompute is blocks and model.execution.compile true"),
        ({"cuda_graph": True, "compile": True}, "cuda_graph and model.execution.compile are both true"),
        ({"std": (0.2, 0.0, 0.2)}, "model.start.std"),
        ({"decay_points": [150_000]}, "fractions of training"),
        ({"norm": "x"}, "one of: bn, gn"),
    ],
)
def test_bad_settings(options, words):
    with pytest.raises(InputError, match=words):
        small(**options)


FLOATS = (
    "base_lr", "head_lr", "momentum", "weight_decay", "norm_weight_decay", "dropout", "warmup", "r_max", "d_max",
)  # fmt: skip


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, -math.inf, True, "1", None, [1.0]])
@pytest.mark.parametrize("name", FLOATS)
def test_a_number_is_a_finite_one(name, value):
    """A comparison with nan is false, and so passes what only asks for what is wrong."""
    assert small(**{name: 1.0 if name in ("r_max", "head_lr") else 0.0})
    with pytest.raises(InputError, match=rf"model\.\w+\.{name} is .*it has to be a (number|fraction)") as caught:
        small(**{name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "values"),
    {
        "width": (10**6, 0, -1, 1025), "num_groups": (0, -1, 10**20), "channels_per_group": (0, -1, 10**6),
        "crop_size": (0, 10**6), "batch_size": (0, 10**12), "seed": (-1,),
        "decay_points": ([math.nan], [-1.0], [2.0], ["x"]), "mean": ((math.nan,) * 3, (1.0, 2.0), (math.inf, 0, 0)),
        "std": ((0.2, 0.2, math.nan), (0.2, -0.2, 0.2), (1e-300,) * 3), "depth": (10**6, -1, 0), "ghost_batch": (0, -1),
        "freeze_stages": (-1, 10**6),
    }.items(),
)  # fmt: skip
def test_bounds(name, values):
    for value in values:
        with pytest.raises(InputError) as caught:
            small(**{name: value})
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
