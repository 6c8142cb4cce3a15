"""The benchmarks run, on one small video: their figures are for people to take on real ones."""

import json

import numpy as np
import pytest
import torch
from conftest import script

from video_gn.decode import BACKENDS

loader = script("benchmarks/loader.py")
prepared = script("benchmarks/prepared.py")


@pytest.fixture
def threads():
    """Benchmarks set how many torch uses in the whole process; given back here."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


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
