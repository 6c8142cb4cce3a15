"""Predictions from a file alone: batches, patterns, JSON lines, pictures."""

import json
import re
import shutil
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from PIL import Image

from video_gn.data.decoding.open import open_video
from video_gn.data.lists import find_videos
from video_gn.data.video_list import VideoList
from video_gn.errors import InputError
from video_gn.predict.__main__ import main as predict
from video_gn.predict.model_file import open_trained
from video_gn.predict.pictures import bars, class_activation, overlay, strip
from video_gn.predict.score import score
from video_gn.train import cli


@pytest.fixture(scope="module")
def model(run):
    return open_trained(str(run / "checkpoints" / "epoch=2.ckpt"))


def test_batches_of_several_videos_give_the_same_scores(model, motion_folder):
    """One clip each, so that a batch is of several videos; an unreadable one keeps its place."""
    paths = [str(motion_folder / "val" / "slow_up"), "gone.mp4", str(motion_folder / "val" / "fast_left")]
    videos = find_videos(paths)
    calls = []
    scores, model.scores = model.scores, lambda clips: calls.append(len(clips)) or scores(clips)
    try:
        one_by_one = list(score(model, videos, 1, 0, "center-1clip"))
        assert set(calls) == {1}
        calls.clear()
        together = list(score(model, videos, 3, 2, "center-1clip"))
        assert calls == [2, 2]  # the one that is missing ends the first
    finally:
        model.scores = scores
    assert [one.row for one in together] == list(range(5)) and together[2].scores is None
    assert "no such file" in together[2].reason
    for a, b in zip(one_by_one, together, strict=True):
        if a.scores is not None:
            torch.testing.assert_close(a.scores, b.scores, rtol=1e-5, atol=1e-6)


def test_images_go_in_batches_and_keep_their_rows(tmp_path):
    """A batch of images with the same damaged file twice in it."""
    bad = tmp_path / "bad.png"
    bad.write_text("no image")
    files = []
    for i in range(3):
        files.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(np.full((40, 50, 3), 80 * i, np.uint8)).save(files[-1])
    videos = VideoList([files[0], str(bad), files[1], str(bad), files[2]], [-1] * 5)
    clip = {"images": True, "test_short_side": 36, "crop_size": 32}
    shade = lambda clips: clips.float().mean((1, 2, 3, 4))[:, None]  # noqa: E731
    model = SimpleNamespace(settings=SimpleNamespace(clip=clip), scores=shade)
    for batch_size in (1, 4, 8):
        found = list(score(model, videos, batch_size, 0))
        assert [one.row for one in found] == list(range(5))
        assert [one.scores if one.scores is None else round(one.scores.item()) for one in found] == [
            0,
            None,
            80,
            None,
            160,
        ]


def test_command_line(run, motion_folder, tmp_path, capsys):
    pattern = str(motion_folder / "val" / "*" / "0000.mp4")
    bad = tmp_path / "bad.mp4"
    bad.write_text("no video")
    checkpoint, lines = str(run / "checkpoints" / "epoch=2.ckpt"), tmp_path / "new" / "out.jsonl"
    args = [checkpoint, pattern, str(bad), "--protocol", "center-1clip", "--workers", "0"]
    assert predict([*args, "--json", str(lines)]) == 0
    out = capsys.readouterr().out
    entries = [json.loads(line) for line in lines.read_text().splitlines()]
    assert len(entries) == 13 and "not a video" in entries[-1]["error"]
    for one in entries[:-1]:
        assert f"\n{one['video']}\n" in out and len(one["top"]) == 5
        assert f"{100 * one['top'][0]['score']:6.2f} %  {one['top'][0]['class']}" in out
    assert predict([*args, "--json", "-"]) == 0
    printed = capsys.readouterr().out
    assert [json.loads(line) for line in printed.splitlines()] == entries
    assert predict([*args, "--json", str(lines)]) == 2
    assert "already exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["*.nothing"], "no file fits the pattern"),
        (["gone.mp4"], "none of 1 videos can be read"),
        (["gone.mp4", "--cam"], "name a folder for them with --pictures"),
        (["gone.mp4", "--batch_size", "0"], "--batch_size is 0"),
        (["gone.mp4", "--device", "cuda:77"], "--device cuda:77 cannot be used"),
        (["gone.mp4", "--device", "abacus"], "--device abacus cannot be used"),
    ],
)
def test_slips(args, words, run, capsys):
    assert predict([str(run / "checkpoints" / "epoch=2.ckpt"), *args, "--workers", "0"]) == 2
    err = capsys.readouterr().err
    assert words in err and "Traceback" not in err


def test_pictures(run, motion_folder, tmp_path, capsys):
    video, folder = str(motion_folder / "val" / "fast_up" / "0001.mp4"), tmp_path / "pictures"
    args = [str(run / "checkpoints" / "epoch=2.ckpt"), video, "--pictures", str(folder), "--cam", "--mp4"]
    assert predict([*args, "--workers", "0", "--json", str(tmp_path / "a.jsonl")]) == 0
    said = json.loads((tmp_path / "a.jsonl").read_text())["pictures"]
    assert said == [str(folder / "0001.png"), str(folder / "0001.mp4")]
    with Image.open(said[0]) as image:
        assert image.width > 8 * 150 and image.height > 2 * 150 + 5 * 30
    with av.open(said[1]) as film, open_video(video, "pyav") as original:
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
        assert film.streams.video[0].average_rate == pytest.approx(original.fps / 2, rel=0.01)  # every other frame
    assert frames[0].shape == (320, 320 + 380, 3)
    assert predict([*args, "--workers", "0"]) == 0  # the first ones stay
    assert sorted(path.name for path in folder.iterdir()) == ["0001-1.mp4", "0001-1.png", "0001.mp4", "0001.png"]


def test_activation_maps_are_the_last_layer_over_the_features(model):
    """Their mean over time and space, before negative ones are cut, is the logit less its bias."""
    net = model.model.net
    clip = torch.randint(0, 256, (3, 8, 32, 32), dtype=torch.uint8, generator=torch.manual_seed(0))
    with torch.no_grad():
        x = (clip[None].float() / 255 - 0.45) / 0.225
        for block in net.blocks[:-1]:
            x = block(x)
        weight, bias = net.blocks[-1].proj.weight[3], net.blocks[-1].proj.bias[3]
        maps = (x[0] * weight.view(-1, 1, 1, 1)).sum(0)
        torch.testing.assert_close(maps.mean() + bias, model.model(clip[None])[0, 3, 0], rtol=1e-4, atol=1e-5)
        expected = torch.nn.functional.interpolate(maps.relu()[None, None], (8, 32, 32), mode="trilinear")[0, 0]
    found = class_activation(model.model, clip, 3)
    np.testing.assert_allclose(found, (expected / expected.max()).numpy(), rtol=1e-3, atol=1e-4)
    assert found.shape == (8, 32, 32) and found.min() >= 0 and found.max() == pytest.approx(1)


def test_bars_are_as_long_as_their_scores():
    image = np.asarray(bars([("a", 1.0), ("b", 0.5), ("c", 0.0)], 400)).astype(int)
    blue = ((image - np.array([52, 104, 176])) == 0).all(2)
    lengths = [blue[30 * i + 15].sum() for i in range(3)]
    assert lengths[1] == pytest.approx(lengths[0] / 2, abs=2) and lengths[2] <= 1


def test_long_names_and_other_shapes_fit():
    frames = np.zeros((3, 40, 20, 3), np.uint8)
    page = strip(frames, [("a very long name of a class that goes on " * 5, 0.3)], "title", np.zeros((3, 40, 20)))
    assert page.width >= 480
    assert np.array_equal(overlay(frames, np.zeros((3, 40, 20)))[0].shape, (40, 20, 3))


@pytest.mark.slow
def test_graphs_have_no_maps(exported, motion_folder, tmp_path, capsys):
    video = str(motion_folder / "val" / "fast_up" / "0001.mp4")
    assert predict([str(exported[1][".onnx"]), video, "--pictures", str(tmp_path), "--cam"]) == 2
    assert re.search("--cam needs the network", capsys.readouterr().err)


def test_pictures_of_names_as_long_as_names_can_be(run, motion_folder, tmp_path, capsys):
    """Two of them, which differ at the end alone."""
    for end in "ab":
        shutil.copy(motion_folder / "val" / "fast_up" / "0001.mp4", tmp_path / f"{'é' * 125}{end}.mp4")
    args = [str(run / "checkpoints" / "epoch=2.ckpt"), str(tmp_path), "--protocol", "center-1clip", "--workers", "0"]
    assert predict([*args, "--pictures", str(tmp_path / "pictures")]) == 0
    assert {file.name for file in (tmp_path / "pictures").iterdir()} == {f"{'é' * 100}.png", f"{'é' * 100}-1.png"}


@pytest.mark.slow
def test_a_file_in_a_folders_place_is_said_before_the_work(run, motion_folder, tmp_path, capsys):
    (tmp_path / "file").touch()
    checkpoint, video = str(run / "checkpoints" / "epoch=2.ckpt"), str(motion_folder / "val" / "fast_up" / "0001.mp4")
    commands = [
        (predict, [checkpoint, video, "--pictures", str(tmp_path / "file")]),
        (predict, [checkpoint, video, "--json", str(tmp_path / "file" / "x.jsonl")]),
        (cli.main, ["predict", "--ckpt_path", checkpoint, "--videos", video, "--json", f"{tmp_path}/file/x"]),
        (cli.main, ["test", "--ckpt_path", checkpoint, "--run_dir", str(tmp_path / "file")]),
        (cli.main, ["test", "--ckpt_path", checkpoint, "--run_dir", str(tmp_path / "file" / "x")]),
    ]
    for main, args in commands:
        assert main(args) == 2
        out, err = capsys.readouterr()
        assert f"error: cannot write {tmp_path / 'file'}" in err and "%" not in out


def test_a_folder_that_cannot_be_made_is_one_line(run, motion_folder, tmp_path, capsys):
    """Below /proc mkdir says that there is no such file, and not that it is not writable."""
    checkpoint, video = str(run / "checkpoints" / "epoch=2.ckpt"), str(motion_folder / "val" / "fast_up" / "0001.mp4")
    for words in (["--json", "/proc/x/y.jsonl"], ["--pictures", "/proc/x"]):
        assert predict([checkpoint, video, *words]) == 2
        err = capsys.readouterr().err
        assert "error: cannot write /proc/x: No such file" in err and err.count("\n") == 1, err


def test_nothing_given():
    with pytest.raises(InputError, match="nothing to predict"):
        find_videos([])
