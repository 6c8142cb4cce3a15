"""The benchmarks run, on one small video: their figures are for people to take on real ones."""

import json
from functools import partialmethod

import numpy as np
import pytest
import torch
from conftest import script
from torch import nn

from video_gn.data.decoding.open import BACKENDS

script("benchmarks/machine.py")  # which the others import
loader = script("benchmarks/loader.py")
prepared = script("benchmarks/prepared.py")
steps = script("benchmarks/step.py")
memory = script("benchmarks/memory.py")
reading = script("benchmarks/reading.py")


@pytest.fixture
def threads():
    """Benchmarks set how many torch uses in the whole process; given back here."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


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
    assert list(ways) == list(steps.cpu_ways()) and all(way["clips_per_second"] > 0 for way in ways.values())
    assert "GN, contiguous" in capsys.readouterr().out


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


@pytest.mark.parametrize(
    ("args", "words"), [(["--workloads", "9"], "numbered from 0 to 1"), (["--ways", "XN"], "there is no 'XN'")]
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


@pytest.mark.slow
def test_kept_for_backward():
    """GN by the kernels keeps 0.85 of what BN keeps, and 0.75 at the second level; PyTorch's keeps twice as much."""
    kept = memory.main(["--frames", "32", "--arch", "i3d"])["i3d, 8 clips of 32 frames"]
    of_bn = {way: size / kept["BN"] for way, size in kept.items()}
    assert of_bn["GN"] > 2 and of_bn["GN ours"] <= 0.85 and of_bn["BN ours"] <= 0.85
    assert of_bn["GN ours, low memory"] <= 0.75 and of_bn["BN ours, low memory"] <= 0.75
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
