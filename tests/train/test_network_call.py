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


def record_on_cpu(graphs, run):
    """Changes buffers and takes random numbers as recording does; each launch computes into the same memory."""

    def differentiate(y, dy):
        return torch.autograd.grad(y, graphs._parameters, dy, allow_unused=True)

    def forward():
        with torch.enable_grad():
            kept.append(run(graphs._x))
        graphs._y.copy_(kept[-1].detach())

    def backward():
        for target, found in zip(graphs._gradients, differentiate(kept.pop(), graphs._dy), strict=True):
            target.copy_(found)
        kept.clear()

    for _ in range(3):
        y = run(graphs._x)
        used = [one is not None for one in differentiate(y, torch.zeros_like(y))]
    graphs._parameters = list(itertools.compress(graphs._parameters, used))
    kept, graphs._y, graphs._dy = [], y.detach().clone(), torch.empty_like(y)
    graphs._gradients = [torch.empty_like(one) for one in graphs._parameters]
    graphs._forward, graphs._backward = SimpleNamespace(replay=forward), SimpleNamespace(replay=backward)


@pytest.fixture(autouse=True)
def recorded(monkeypatch):
    """How often a graph was recorded."""
    count, record = [], Graphs._record if DEVICE == "cuda" else record_on_cpu
    monkeypatch.setattr(Graphs, "_record", lambda *args: [count.append(1), record(*args)])
    return count


def made(cuda_graph=None, strategy=CUDA, **settings):
    """A classifier of 4 clips, for training."""
    torch.manual_seed(0)
    settings = SMALL | {"dropout": 0.5, "batch_size": 4} | settings
    model = classifier(NAMES, **settings, cuda_graph=cuda_graph).to(DEVICE).train()
    nn.init.normal_(model.net.blocks[-1].proj.weight)
    model.call.prepare(strategy)
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


@pytest.mark.parametrize("norm", ["gn", "bn", "brn", "frozen_bn"])
def test_steps_by_graphs_are_the_same(norm, recorded):
    """Running statistics and dropout too."""
    settings = {"norm": norm} | ({} if norm == "gn" else {"num_groups": 32})
    graphed = made(**settings)
    assert_equal(trained(graphed), trained(made(False, **settings)))
    assert len(recorded) == 1 and graphed.call.graphed


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
@pytest.mark.parametrize("settings", [{"low_memory": True}, {"kernels": "torch"}, {"norm": "bn", "ghost_batch": 2}])
def test_kernels_of_every_kind_can_be_recorded(settings, recorded):
    settings = {"num_groups": 32} | settings if "norm" in settings else settings
    found, expected = (trained(made(how, **settings), bf16=True) for how in (True, False))
    assert_equal(found, expected)
    assert len(recorded) == 1


def test_gradients_are_accumulated(recorded):
    assert_equal(trained(made(), 6, 3), trained(made(False), 6, 3))
    assert len(recorded) == 1


def test_what_a_graph_takes_for_granted_is_looked_at(recorded):
    """Frozen layers, layers in another mode, parameters elsewhere, other sizes: recorded again, no other result."""
    changes = [
        lambda model: None,
        lambda model: model.net.blocks[1].requires_grad_(False),
        lambda model: model.net.blocks[1].eval(),
        lambda model: [setattr(one, "data", one.data.clone()) for one in model.net.parameters()],
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
    hook = model.net.blocks[2].register_forward_hook(lambda *_: None)
    step(model)
    hook.remove()
    model.eval()
    model(CLIPS.to(DEVICE))
    assert not recorded and not model.call.graphed
    step(model.train())
    assert len(recorded) == 1


def test_a_graph_keeps_one_forward_for_one_backward():
    model = made()
    first, second = model(CLIPS.to(DEVICE)), model(CLIPS.to(DEVICE))
    with pytest.raises(InputError, match=r"once, and before its next forward.* set model\.execution\.cuda_graph to"):
        first.sum().backward()
    second.sum().backward(retain_graph=True)
    with pytest.raises(InputError, match="once, and before"):
        second.sum().backward()


class Asks(nn.Module):
    """It asks the device for a number, which cannot be recorded; half of its parameters it does not use."""

    def __init__(self, num_classes):
        super().__init__()
        self.layer, self.other = nn.Conv3d(3, num_classes, 1), nn.Linear(2, 2)
        self.register_buffer("seen", torch.zeros(()))
        self.fails = True

    def forward(self, x):
        self.seen += 1
        if self.fails and self.seen == 2:
            raise RuntimeError("operation not permitted when stream is capturing\nand more")
        return self.layer(x).mean((2, 3, 4))


def own(cuda_graph, fails=True):
    torch.manual_seed(0)
    net = Asks(len(NAMES)).to(DEVICE)
    net.fails = fails
    call = NetworkCall(net, lambda clips: clips / 255, Execution(cuda_graph=cuda_graph), 4)
    call.prepare(CUDA)
    return net, call


def test_what_cannot_be_recorded(recorded, caplog):
    """Of another's network only where that is asked for, and then it is an error; of ours it is a warning."""
    net, call = own(None)
    call(CLIPS.to(DEVICE)).sum().backward()
    assert not recorded and net.seen == 1
    net, call = own(True)
    with pytest.raises(
        InputError, match=r"cannot be recorded: operation not permitted when .* capturing; set it to fa"
    ):
        call(CLIPS.to(DEVICE))
    assert net.seen == 0
    ours = made(norm="bn", num_groups=32)
    ours.net.blocks[1].extra = nn.SyncBatchNorm(2)
    step(ours)
    step(ours)
    assert caplog.text.count("kernels are launched one by one: BatchNorm's statistics are exchanged") == 1
    assert not ours.call.graphed


def test_parameters_that_are_not_used_get_no_gradients():
    net, call = own(True, fails=False)
    call(CLIPS.to(DEVICE)).sum().backward()
    assert net.other.weight.grad is None and net.layer.weight.grad is not None and net.seen == 1


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
    prepare = NetworkCall.prepare

    def as_on_a_gpu(call, strategy):
        prepare(call, strategy)
        call._records = call.execution.cuda_graph is None

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
        assert results["run"]["cuda_graph"] == (cuda_graph == "null")
        assert (torch.cuda.is_available() and torch.cuda.get_device_name()) in (False, results["run"]["device"])
        assert results["fit"]["peak_memory_of"].startswith("GPU" if DEVICE == "cuda" else "main process")
    assert_equal(found["null"]["state_dict"], found["false"]["state_dict"])
