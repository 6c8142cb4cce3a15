"""The benchmarks run, on one small video: their figures are for people to take on real ones."""

import json
from functools import partial, partialmethod

import numpy as np
import pytest
import torch
from conftest import script
from torch import nn

from video_gn.data.decoding.open import BACKENDS
from video_gn.data.image_data import ImageData
from video_gn.data.settings import Loading
from video_gn.models.resnet3d import ResNet3d
from video_gn.train.classifier import VideoClassifier

script("benchmarks/machine.py")  # which the others import
loader = script("benchmarks/loader.py")
prepared = script("benchmarks/prepared.py")
steps = script("benchmarks/step.py")
memory = script("benchmarks/memory.py")
reading = script("benchmarks/reading.py")
convert = script("benchmarks/convert.py")


@pytest.fixture
def threads():
    """Benchmarks set how many torch uses in the whole process; given back here."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.long
@pytest.mark.slow
def test_loader(motion_folder, tmp_path, monkeypatch, capsys, threads):
    monkeypatch.setattr(loader, "BATCHES", 3)
    video = str(motion_folder / "train" / "fast_up" / "0000.mp4")
    options = ["--repeats", "1", "--clips", "10", "--workers", "1", "--num_frames", "8"]
    loader.main([video, *options, "--json", str(tmp_path / "out.json")])
    result = json.loads((tmp_path / "out.json").read_text())
    seconds = result["per_core"][0]["seconds"]
    assert {"pytorchvideo", "limit", *BACKENDS, *(f"prepared: {name}" for name in BACKENDS)} <= set(seconds)
    assert all(value > 0 for value in seconds.values())
    assert {row["method"] for row in result["workers"]} >= {"decord", "pyav", "pytorchvideo"}
    assert set(result["memory"]) == set(BACKENDS)
    out = capsys.readouterr().out
    assert "clips/s/core" in out and "10-clip test" in out and "resident memory" in out


def test_a_measurement_that_fails_is_no_hang(capfd):
    with pytest.raises(SystemExit, match="a measurement failed"):
        loader.in_a_process(int, "no number")
    assert "no number" in capfd.readouterr().err


def test_likeness_measures():
    """PSNR by hand; SSIM of a picture with itself is 1 and falls with noise."""
    a = torch.full((1, 1, 32, 32), 100.0)
    assert prepared.compare(a, a + 5)[0] == np.float64(10 * np.log10(255**2 / 25))
    texture = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 255
    assert prepared.compare(texture, texture)[1] == 1
    noisy = [prepared.compare(texture, texture + s * torch.randn(texture.shape))[1] for s in (5, 50)]
    assert 1 > noisy[0] > noisy[1] > 0


@pytest.mark.slow
def test_steps(tmp_path, capsys, threads):
    found = steps.main(
        ["--device", "cpu", "--workloads", "0", "--rounds", "1", "--repeats", "1", "--json", str(tmp_path / "out.json")]
    )
    assert found == json.loads((tmp_path / "out.json").read_text())
    ways = found["steps"]["8x3x16x32x32 (demo)"]
    assert list(ways) == list(steps.cpu_ways(steps.CPU_WORKLOADS[0])) and all(
        way["clips_per_second"] > 0 for way in ways.values()
    )
    assert "GN, contiguous" in capsys.readouterr().out


@pytest.mark.long
@pytest.mark.slow
def test_each_workload_is_compiled_for_its_own_sizes(monkeypatch):
    """What torch.compile saw before would make later graphs' sizes dynamic, and leave a ninth uncompiled."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(all(isinstance(one, torch.Tensor) for one in inputs))  # a dynamic size is one, too
        return graph.forward

    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend=backend))
    ways = {name: steps.Way(norm, compiled=True) for name, norm in (("BN", nn.BatchNorm3d), ("no norm", nn.Identity))}
    sizes = ((2, 4), (1, 8), (1, 4), (2, 8), (3, 4))
    for clips, frames in sizes:
        steps.measure_steps(steps.Workload(clips, frames, 32, demo=True), ways, torch.device("cpu"), 1, 1)
    assert graphs == [True] * len(ways) * len(sizes)


def test_a_way_that_fails_loses_no_other(monkeypatch, capsys):
    """Wherever it does; and each round is kept as soon as it is there."""
    kept, turns = [], []

    class Step:
        def __init__(self, way, workload, device):
            self.way, self.device, self.net = way, device, None
            if way == "at once":
                raise torch.OutOfMemoryError("no room")

        def __call__(self):
            turns.append(self.way)
            if self.way == "later" and turns.count("later") > 3:
                raise RuntimeError("it breaks")

    monkeypatch.setattr(steps, "Step", Step)
    ways = {name: name for name in ("good", "at once", "later", "last")}
    workload = steps.Workload(2, 4, 32)
    found = steps.measure_steps(workload, ways, torch.device("cpu"), 3, 1, lambda rows: kept.append(sorted(rows)))
    assert sorted(found) == ["good", "last", "later"] and len(kept) == 3 and kept[0] == ["good", "last", "later"]
    assert turns.count("good") == turns.count("last") == 2 + 3 and turns.count("later") == 4
    out = capsys.readouterr().out
    assert "at once does not fit" in out and "later fails: it breaks" in out


@pytest.mark.parametrize(
    ("args", "words"), [(["--workloads", "9"], "numbered from 0 to 5"), (["--ways", "XN"], "there is no 'XN'")]
)
def test_steps_that_are_not_there(args, words, capsys):
    with pytest.raises(SystemExit):
        steps.main(["--device", "cpu", *args])
    assert words in capsys.readouterr().err


def test_norms_of_the_network():
    """53 of them, of which each block's last has the residual; sizes by hand (Wu & He 2018, section 4.3)."""
    sites = steps.norm_sites(8, 32, 224)
    assert len(sites) == 53 and sites[0] == ((8, 64, 16, 112, 112), True, False)
    assert sum(site.residual for site in sites) == 16 and sum(not site.relu for site in sites) == 4
    assert sites[-1].shape == (8, 2048, 4, 7, 7)


@pytest.mark.long
@pytest.mark.slow
def test_kept_for_backward():
    """GN by the kernels keeps 0.85 of what BN keeps, and 0.75 at the second level; PyTorch's keeps twice as much."""
    kept = memory.main(["--frames", "32", "--arch", "i3d"])["i3d, 8 clips of 32 frames"]
    of_bn = {way: size / kept["BN"] for way, size in kept.items()}
    assert of_bn["GN"] > 2 and of_bn["GN ours"] <= 0.85 and of_bn["BN ours"] <= 0.85
    assert of_bn["GN ours, recompute norms"] <= 0.75 and of_bn["BN ours, recompute norms"] <= 0.75
    assert of_bn["GN ours, recompute blocks"] <= 0.4
    # Per site of 8 x 64 x 16 x 112 x 112 elements, the largest: what goes into the norm, and what comes out.
    assert kept["GN ours"] > 8 * 64 * 16 * 112 * 112 * 2 * 2


@pytest.mark.slow
def test_reading(monkeypatch, capsys):
    monkeypatch.setattr(reading, "alone", lambda job: job())
    found = reading.main(["--rows", "800", "--files", "400", "--frames", "20", "--size", "320", "240"])
    assert set(found["memory"]) == set(BACKENDS)
    assert all(set(sizes) == {"", *reading.VIEWS} for sizes in found["memory"].values())
    assert 0 < found["list"] < 60 and 0 < found["folders"] < 60
    assert "folders: 400 videos in" in capsys.readouterr().out


@pytest.fixture
def trained(pictures, tmp_path):
    """Makes a checkpoint of a network with a norm, trained on pictures for an epoch; gives its test's top-1 too."""

    def make(norm):
        data = ImageData(str(pictures), crop_size=16, short_side=16, loading=Loading(num_workers=0), batch_size=4)
        net = partial(ResNet3d, arch="flat_small", depth=11, width=8, norm=norm, num_groups=4)
        model = VideoClassifier(data.class_names, net, batch_size=4, crop_size=16)
        trainer = convert.trainer(max_epochs=1, limit_val_batches=0)
        trainer.fit(model, data)
        trainer.test(model, data, verbose=False)
        trainer.save_checkpoint(path := tmp_path / f"{norm}.ckpt")
        return str(path), model.results["test"]["top1"]

    return make


@pytest.mark.long
@pytest.mark.slow
def test_conversion(trained, tmp_path, capsys, monkeypatch):
    """BN is as it was tested when it was trained; frozen BN is BN; a seed gives the same figures again."""
    path, top1 = trained("bn")
    train, moved = convert.Bench._trained, []

    def watched(bench, net):
        before = [value.clone() for name, value in net.named_buffers() if name.endswith("running_mean")]
        model = train(bench, net)
        after = [value for name, value in model.net.named_buffers() if name.endswith("running_mean")]
        moved.append([not torch.equal(*pair) for pair in zip(before, after, strict=True)])
        return model

    monkeypatch.setattr(convert.Bench, "_trained", watched)
    options = ["--to", "frozen_bn", "gn", "--clips", "6", "2", "--steps", "2", "--seeds", "0", "0"]
    found = convert.main([path, *options, "--json", str(tmp_path / "out.json")])
    assert found["runs"] == json.loads((tmp_path / "out.json").read_text())["runs"]
    rows, again = found["runs"]
    assert rows == again
    assert all(moved[0]) and moved[0]  # BN learns its statistics, frozen BN does not
    assert not any(moved[1]) and moved[1]
    by_name = {(row["norm"], row["begun"], row["steps"]): row for row in rows}
    of_gn = [("blind", 0), ("blind", 2), ("2 clips", 0), ("6 clips", 0), ("6 clips", 2), ("random", 2)]
    exact = [("bn", "BN"), ("frozen_bn", "exact")]
    assert list(by_name) == [*((*name, steps) for name in exact for steps in (0, 2)), *(("gn", *key) for key in of_gn)]
    for name in exact:
        row = by_name[*name, 0]
        assert (row["top1"], row["as_bn"], row["fitted"]) == (top1, 1, None)
    fitted = [by_name["gn", f"{count} clips", 0]["fitted"] * count for count in (2, 6)]
    assert fitted == pytest.approx([round(right) for right in fitted])  # of so many clips
    assert "top-1          as BN   on its clips\nbn         BN              0" in capsys.readouterr().out


def test_what_is_no_bn_is_not_converted(trained, capsys):
    path, _ = trained("gn")
    with pytest.raises(SystemExit):
        convert.main([path])
    assert f"the network in {path} has norm=gn; give one with bn" in capsys.readouterr().err


def test_spread():
    assert [convert.spread(values) for values in ([0.5, 1.0], [0.25], [None, None])] == ["75.0 +- 35.4", "25.0", ""]
