"""What the kernels are given beyond numbers: NaN, wrong shapes, nothing, transforms. PyTorch's result, or one line."""

import pytest
import torch
from conftest import few

pytest.importorskip("triton")

from video_gn.errors import InputError
from video_gn.kernels import ops
from video_gn.kernels.layers import norm_act
from video_gn.models.blocks import MaxPool3d
from video_gn.models.norm import make_norm

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LAST = torch.channels_last_3d
NAN, INF = float("nan"), float("inf")


def layer_of(name, kernels, channels=8):
    layer = make_norm(name, num_groups=4)(channels).to(DEVICE)
    layer.kernels = kernels
    return layer


def features(*shape, seed=0):
    values = torch.randn(shape, generator=torch.manual_seed(seed))
    return values.to(DEVICE).contiguous(memory_format=LAST)


def outcome(layer, x, residual, relu):
    """Result, every gradient and every buffer."""
    inputs = [x.clone().requires_grad_(), *layer.parameters()]
    if residual is not None:
        residual = residual.clone().requires_grad_()
        inputs.append(residual)
    y = norm_act(layer, inputs[0], residual, relu)
    gradients = torch.autograd.grad(y, inputs, torch.ones_like(y))
    return [y.detach(), *gradients, *layer.buffers()]


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # numpy's, of the interpreter
@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("size", [(2, 4, 5), (2, 24, 24)], ids=["at once", "in chunks"])
@pytest.mark.parametrize("name", few(["gn", "bn", "frozen_bn"], ("gn",)))
def test_nan_and_inf_reach_what_they_reach_in_pytorch(name, size, value):
    for residual, relu in ((False, True), (True, True)):
        x = features(2, 8, *size)
        x[0, 3, 1, 2, 2] = value
        other = features(2, 8, *size, seed=1) if residual else None
        found, expected = (outcome(layer_of(name, kernels), x, other, relu) for kernels in ("triton", "torch"))
        assert not all(tensor.isfinite().all() for tensor in expected)
        for ours, theirs in zip(found, expected, strict=True):
            finite = theirs.isfinite()
            assert torch.equal(ours.isfinite(), finite)
            torch.testing.assert_close(ours[finite], theirs[finite], rtol=1e-2, atol=2e-2)


@pytest.mark.parametrize(
    ("channels", "residual", "running", "words"),
    [
        (4, None, None, r"weight is \[4\], and has to be \[8\]"),
        (16, None, None, r"weight is \[16\], and has to be \[8\]"),
        (8, (2, 8, 2, 4, 4), None, r"residual is \[2, 8, 2, 4, 4\], and has to be \[2, 8, 2, 4, 5\]"),
        (8, (1, 8, 2, 4, 5), None, r"residual is \[1, 8, 2, 4, 5\]"),
        (8, None, 4, r"running mean is \[4\], and has to be \[8\]"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(channels, residual, running, words):
    x, weight = features(2, 8, 2, 4, 5), torch.ones(channels, device=DEVICE)
    given = features(*residual) if residual else None
    kept = (torch.zeros(running, device=DEVICE), torch.ones(running, device=DEVICE)) if running else None
    with pytest.raises(InputError, match=words):
        ops.norm(x, weight, weight, given, 1, 8, 1e-5, True, None, kept)


def test_groups_that_do_not_divide_are_refused():
    weight = torch.ones(8, device=DEVICE)
    with pytest.raises(InputError, match="8 channels cannot be split into 2 sets of 3 groups"):
        ops.norm(features(2, 8, 2, 4, 5), weight, weight, None, 2, 3, 1e-5, True)


@pytest.mark.parametrize("name", ["gn", "in", "bn", "brn", "frozen_bn"])
@pytest.mark.parametrize("shape", [(2, 8, 0, 4, 5), (0, 8, 2, 4, 5), (2, 8, 1, 1, 1), (1, 8, 1, 1, 1)], ids=str)
def test_nothing_and_one_position_give_pytorchs_answer(name, shape):
    answers = []
    for kernels in ("triton", "torch"):
        try:
            answers.append(norm_act(layer_of(name, kernels), features(*shape), None))
        except (ValueError, RuntimeError) as error:
            answers.append(str(error))
    assert type(answers[0]) is type(answers[1])
    if isinstance(answers[0], str):
        assert answers[0] == answers[1]
    else:
        torch.testing.assert_close(*answers, rtol=1e-4, atol=1e-5)


def test_a_second_derivative_is_one_line_that_names_the_setting():
    x = features(2, 8, 2, 4, 5).requires_grad_()
    pool = MaxPool3d((1, 2, 2), (1, 2, 2), (0, 0, 0))
    pool.kernels = "triton"
    for y in (norm_act(layer_of("gn", "triton"), x), pool(x)):
        with pytest.raises(InputError, match=r"create_graph=True.*model\.execution\.kernels=torch"):
            torch.autograd.grad(y.square().sum(), x, create_graph=True)
    y = norm_act(layer_of("gn", "torch"), x).square().sum()
    (gradient,) = torch.autograd.grad(y, x, create_graph=True)
    assert torch.autograd.grad(gradient.square().sum(), x)[0].isfinite().all()


def test_transforms_of_torch_func_give_pytorchs_result():
    x = features(2, 8, 2, 4, 5)
    found = []
    for kernels in ("triton", "torch"):
        layer = layer_of("gn", kernels)

        def loss(value, layer=layer):
            return norm_act(layer, value).square().sum()

        batched = torch.func.vmap(lambda clip, layer=layer: norm_act(layer, clip[None])[0])(x)
        found.append((torch.func.grad(loss)(x), batched, torch.func.jvp(loss, (x,), (torch.ones_like(x),))[1]))
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value encountered")
def test_a_variance_that_overflows_is_not_taken_for_0():
    x = features(1, 8, 2, 24, 24)
    x[0, 3, 1] = 1e25
    layer = layer_of("bn", "triton")
    layer(x)
    assert not layer.running_var[3].isfinite() and layer.running_var[2].isfinite()
