"""Training by CUDA graphs against one kernel after the other. On a CPU what records and launches is stood in for."""

import copy
import itertools
import json
from types import SimpleNamespace

import pytest
import torch
from command_lines import tiny
from pytorch_lightning.strategies import DDPStrategy, FSDPStrategy, SingleDeviceStrategy
from samples import NAMES, SMALL, classifier
from torch import nn

from video_gn.errors import InputError
from video_gn.train import cli
from video_gn.train.cuda_graph import Graphs
from video_gn.train.network_call import NetworkCall
from video_gn.train.settings import Execution

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CUDA = SingleDeviceStrategy(torch.device("cuda"))
CLIPS = torch.arange(4 * 3 * 8 * 32 * 32).mul(37).view(4, 3, 8, 32, 32).remainder(251).to(torch.uint8)


def record_on_cpu(graphs):
    """Changes buffers and takes random numbers as recording does; each launch computes into the same memory."""

    def forward():
        with torch.enable_grad():
            kept.append(graphs._call())
        graphs._y.copy_(kept[-1].detach())

    def backward():
        for target, found in zip(graphs._gradients, graphs._differentiate(kept.pop(), graphs._dy), strict=True):
            target.copy_(found)
        kept.clear()

    for _ in range(4):  # three before, and one that is recorded
        y = graphs._call()
        used = [gradient is not None for gradient in graphs._differentiate(y, torch.zeros_like(y))]
    graphs._weights = list(itertools.compress(graphs._weights, used))
    kept, graphs._y, graphs._dy = [], y.detach().clone(), torch.empty_like(y)
    graphs._gradients = [torch.empty_like(weight) for weight in graphs._weights]
    graphs._forward, graphs._backward = SimpleNamespace(replay=forward), SimpleNamespace(replay=backward)


@pytest.fixture(autouse=True)
def recorded(monkeypatch):
    """How often a graph was recorded."""
    count, record = [], Graphs._record if DEVICE == "cuda" else record_on_cpu
    monkeypatch.setattr(Graphs, "_record", lambda *args: [count.append(1), record(*args)])
    return count


def prepare(call, strategy=CUDA):
    call.prepare(strategy, True)
    if call._device_type:
        call._device_type = DEVICE


def made(cuda_graph=None, strategy=CUDA, **settings):
    """A classifier of 4 clips, for training."""
    torch.manual_seed(0)
    settings = SMALL | {"dropout": 0.5, "batch_size": 4} | settings
    model = classifier(NAMES, **settings, cuda_graph=cuda_graph).to(DEVICE).train()
    nn.init.normal_(model.net.blocks[-1].proj.weight)
    prepare(model.call, strategy)
    return model


def step(model, clips=CLIPS, seed=0, bf16=False):
    torch.manual_seed(seed)
    with torch.autocast(DEVICE, torch.bfloat16, enabled=bf16):
        logits = model(clips.to(DEVICE))
    loss = nn.functional.cross_entropy(logits.mean(2), torch.arange(len(clips), device=DEVICE))
    loss.backward()
    return loss.detach()


def trained(model, steps=4, accumulate=1, bf16=False):
    """Losses, and all that training leaves."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    losses = []
    for i in range(steps):
        losses.append(step(model, CLIPS.roll(i, 4), i, bf16))
        if (i + 1) % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()
    return {**dict(enumerate(losses)), **model.state_dict()}


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=0, msg=str(name))


@pytest.mark.parametrize(
    "settings",
    [
        {"norm": "gn"},
        {"norm": "gn", "weight_standardization": True, "drop_path": 0.5},
        *({"norm": norm, "num_groups": 32} for norm in ("bn", "brn", "frozen_bn", "mabn")),
        {"norm": "evonorm_s0"},
    ],
    ids=lambda settings: " ".join(map(str, settings.values())),
)
def test_steps_by_graphs_are_the_same(settings, recorded):
    """Running statistics, mabn's history, dropout and stochastic depth too."""
    graphed = made(**settings)
    assert_equal(trained(graphed), trained(made(False, **settings)))
    assert len(recorded) == 1 and graphed.call.graphed


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
@pytest.mark.parametrize(
    "settings",
    [{"recompute": "norms"}, {"recompute": "blocks"}, {"kernels": "torch"}, {"norm": "bn", "ghost_batch": 2}],
)
def test_kernels_of_every_kind_can_be_recorded(settings, recorded):
    settings = {"num_groups": 32} | settings if "norm" in settings else settings
    found, expected = (trained(made(how, **settings), bf16=True) for how in (True, False))
    assert_equal(found, expected)
    assert len(recorded) == 1


def test_gradients_are_accumulated(recorded):
    assert_equal(trained(made(), 6, 3), trained(made(False), 6, 3))
    assert len(recorded) == 1


def test_what_a_graph_takes_for_granted_is_looked_at(recorded):
    """What is frozen, layers' modes and values, other parameters, other sizes: recorded again, no other result."""

    def replace(layer):
        layer.weight = nn.Parameter(layer.weight.data)  # at the same address

    changes = [
        lambda model: None,
        lambda model: setattr(model.net.blocks[1].res_blocks[0].branch2.norm_a, "momentum", 0.5),
        lambda model: setattr(model.net.blocks[-1].dropout, "p", 0.1),
        lambda model: replace(model.net.blocks[-1].proj),
        lambda model: model.net.blocks[1].requires_grad_(False),
        lambda model: model.net.blocks[1].eval(),
        lambda model: [setattr(weight, "data", weight.data.clone()) for weight in model.net.parameters()],
    ]
    results = []
    for cuda_graph in (None, False):
        model = made(cuda_graph, norm="bn", num_groups=32)
        results.append({})
        for i, change in enumerate(changes):
            change(model)
            results[-1] |= {f"{i} {name}": value.clone() for name, value in trained(model, 1).items()}
    assert_equal(*results)
    assert len(recorded) == len(changes)
    step(made(), CLIPS[..., :24])
    assert len(recorded) == len(changes) + 1


def test_what_is_no_full_training_step_is_not_by_graphs(recorded):
    model = made()
    step(model, CLIPS[:3])
    with torch.no_grad():
        model(CLIPS.to(DEVICE))
    step(model.eval())
    assert not recorded and not model.call.graphed
    step(model.train())
    assert len(recorded) == 1 and model.call.graphed
    model.call.end()
    step(model)
    assert len(recorded) == 1


def averages_all_batches(model):
    layer = model.net.blocks[1].res_blocks[0].branch2.norm_a
    layer.momentum, layer.num_batches_tracked = None, layer.num_batches_tracked + 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda model: model.net.blocks[2].register_forward_hook(lambda *_: None), "there are hooks on the network"),
        (lambda model: model.net.blocks[2].register_full_backward_hook(lambda *_: None), "there are hooks"),
        (lambda model: nn.modules.module.register_module_forward_hook(lambda *_: None), "there are hooks"),
        (lambda model: model.net.blocks[-1].proj.weight.register_hook(lambda grad: grad / 2), "there are hooks"),
        (lambda model: setattr(model.net.blocks[1], "extra", nn.SyncBatchNorm(2)), "between processes"),
        (averages_all_batches, "averages over all batches"),
        (lambda model: torch.autograd.set_detect_anomaly(True, False), "looks for anomalies"),
    ],
)
def test_what_hinders_graphs(change, words, recorded):
    """It may come at any time. The steps are the same; where graphs are demanded, they are refused."""
    results, handles = [], []
    for cuda_graph in (None, False):
        model = made(cuda_graph, norm="bn", num_groups=32)
        found = trained(model, 1)
        handles.append(change(model))
        results.append({str(name): value.clone() for name, value in found.items()} | trained(model, 2))
        assert not model.call.graphed
    demanded = made(True, norm="bn", num_groups=32)
    handles.append(change(demanded))
    with pytest.raises(InputError, match=rf"cuda_graph is true, and .*{words}.*; take null"):
        step(demanded)
    for handle in handles:
        if hasattr(handle, "remove"):
            handle.remove()
    torch.autograd.set_detect_anomaly(False)
    assert len(recorded) == 1
    assert_equal(*results)


def test_a_graph_keeps_one_forward_for_one_backward():
    """What it gave stays as it was."""
    model = made(dropout=0.0)
    first = model(CLIPS.to(DEVICE))
    before = first.detach().clone()
    second = model(CLIPS.roll(1, 4).to(DEVICE))
    assert torch.equal(first, before) and not torch.equal(first, second)
    with pytest.raises(InputError, match=r"once, and before its next forward.* set model\.execution\.cuda_graph to"):
        first.sum().backward()
    second.sum().backward(retain_graph=True)
    with pytest.raises(InputError, match="once, and before"):
        second.sum().backward()


class Asks(nn.Module):
    """It cannot be recorded; half of its parameters it does not use."""

    def __init__(self, num_classes, error=None):
        super().__init__()
        self.layer, self.other = nn.Conv3d(3, num_classes, 1), nn.Linear(2, 2)
        self.register_buffer("seen", torch.zeros(()))
        self.error = error

    def forward(self, x):
        self.seen += 1
        if self.error and (torch.cuda.is_current_stream_capturing() if x.is_cuda else self.seen == 4):
            raise self.error
        return self.layer(x).mean((2, 3, 4))


def own(cuda_graph, error=None):
    torch.manual_seed(0)
    net = Asks(len(NAMES), error).to(DEVICE)
    call = NetworkCall(net, lambda clips: clips / 255, Execution(cuda_graph=cuda_graph), 4, 32)
    prepare(call)
    return net, call


def test_what_cannot_be_recorded(recorded, caplog, monkeypatch):
    """Networks of others are recorded only where that is asked for. Too little memory is no error by itself."""
    forbidden = RuntimeError("operation not permitted when stream is capturing\nand more")
    net, call = own(None, forbidden)
    call(CLIPS.to(DEVICE)).sum().backward()
    assert not recorded and net.seen == 1
    net, call = own(True, forbidden)
    with pytest.raises(InputError, match=r"cannot be recorded .* when stream is capturing; set model.*_graph to false"):
        call(CLIPS.to(DEVICE))
    assert net.seen == 0
    monkeypatch.setattr("video_gn.train.network_call._is_ours", lambda net: True)
    net, call = own(None, torch.OutOfMemoryError("too large"))
    for _ in range(2):
        call(CLIPS.to(DEVICE)).sum().backward()
    assert net.seen == 2 and not call.graphed
    assert caplog.text.count("too little memory to record CUDA graphs; kernels are launched one by one") == 1


def test_blocks_of_others_are_not_recorded_by_themselves(recorded):
    model = made()
    model.net.blocks[2].extra = Asks(2)
    prepare(model.call)
    step(model)
    assert not recorded


def test_parameters_that_are_not_used_get_no_gradients():
    net, call = own(True)
    call(CLIPS.to(DEVICE)).sum().backward()
    assert net.other.weight.grad is None and net.layer.weight.grad is not None and net.seen == 1


class Sees(torch.autograd.Function):
    """Whether backward is under autocast."""

    @staticmethod
    def forward(ctx, x, seen):
        ctx.seen = seen
        return x.clone()

    @staticmethod
    def backward(ctx, dy):
        ctx.seen.append(torch.is_autocast_enabled(DEVICE))
        return dy, None


def test_backward_is_outside_autocast_as_lightnings_is(monkeypatch):
    seen = []
    net, call = own(True)
    monkeypatch.setattr(net, "forward", lambda x: Sees.apply(net.layer(x).mean((2, 3, 4)), seen))
    with torch.autocast(DEVICE, torch.bfloat16):
        y = call(CLIPS.to(DEVICE))
    y.sum().backward()
    assert y.dtype == torch.bfloat16 and seen and not any(seen)


def test_where_graphs_can_be(recorded):
    cpu, there = SingleDeviceStrategy(torch.device("cpu")), {"parallel_devices": [torch.device("cuda")]}
    for cuda_graph, strategy in ((None, cpu), (None, FSDPStrategy(**there)), (False, CUDA)):
        step(made(cuda_graph, strategy))
    assert not recorded
    with pytest.raises(InputError, match="there is no CUDA device; take null"):
        made(True, cpu)
    step(made(None, DDPStrategy(**there)))
    assert len(recorded) == 1


def test_a_copy_has_no_graphs(recorded):
    model = made()
    step(model)
    model.zero_grad()
    other = copy.deepcopy(model)
    assert_equal(trained(other), trained(model))
    assert len(recorded) == 2


def test_a_run_by_graphs_is_the_same(pictures, tmp_path, monkeypatch):
    """Through the command: weights after steps of two batches."""
    real = NetworkCall.prepare

    def as_on_a_gpu(call, strategy, trains):
        real(call, strategy, trains)
        call._device_type = "cpu" if trains and call.execution.cuda_graph is None else ""

    if DEVICE == "cpu":
        monkeypatch.setattr(NetworkCall, "prepare", as_on_a_gpu)
    settings = {"trainer.accumulate_grad_batches": 2, "ckpt_path": "null",
                "trainer.accelerator": "gpu" if DEVICE == "cuda" else "cpu"}  # fmt: skip
    found = {}
    for cuda_graph in ("null", "false"):
        run = tmp_path / cuda_graph
        assert cli.main(tiny(pictures, run, **settings, **{"model.execution.cuda_graph": cuda_graph})) == 0
        found[cuda_graph] = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
        results = json.loads((run / "results.json").read_text())
        assert results["fit"]["cuda_graph"] == (cuda_graph == "null")
        assert (torch.cuda.is_available() and torch.cuda.get_device_name()) in (False, results["run"]["device"])
        assert results["fit"]["peak_memory_of"].startswith("GPU" if DEVICE == "cuda" else "main process")
    assert_equal(found["null"]["state_dict"], found["false"]["state_dict"])
