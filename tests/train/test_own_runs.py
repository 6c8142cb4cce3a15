"""A run on a user's own videos: how they are divided is kept, and what comes later changes nothing of it."""

import csv
import shutil

import pytest
import torch
from command_lines import stop_at
from states import difference, ends

from video_gn.train import cli
from video_gn.train.callbacks.split_table import find_table
from video_gn.train.shipped import with_configs

QUICK = {
    "model.net.width": 4, "model.net.num_groups": 2, "data.clip.num_frames": 4, "data.clip.short_side": "[16,16]",
    "data.clip.crop_size": 16, "data.evaluation.short_side": 16, "data.evaluation.protocol": "center-1clip",
    "data.clips_per_epoch": 64, "data.loading.num_workers": 0, "trainer.max_epochs": 2,
    "trainer.enable_progress_bar": "false", "trainer.num_sanity_val_steps": 0, "trainer.logger": "false",
}  # fmt: skip


@pytest.fixture
def videos(motion_folder, tmp_path, monkeypatch):
    """A folder of 4 classes with 4 videos each."""
    monkeypatch.chdir(tmp_path)
    for path in sorted(motion_folder.glob("*/slow_*/*.mp4")):
        target = tmp_path / "set" / path.parent.name / f"{path.parts[-3]}_{path.name}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return tmp_path / "set"


def own(root, *words):
    settings = (word for key, value in QUICK.items() for word in (f"--{key}", str(value)))
    return ["fit", "-c", "own", "--data.root", str(root), *settings, *map(str, words)]


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def add_videos(root):
    for path in list(root.rglob("*.mp4")):
        shutil.copy(path, path.with_name(f"more_{path.name}"))


@pytest.mark.long
@pytest.mark.slow
def test_the_division_is_the_runs(videos, tmp_path, monkeypatch, capsys):
    assert cli.main(own(videos, "--run_dir", "whole")) == 0
    with monkeypatch.context() as patched:
        stop_at(patched, 15, ("training_step", 5))  # of 8: in the fifth of eight passes over 8 videos
        assert cli.main(own(videos, "--run_dir", "run")) == 143
    table = rows("run/split.csv")
    counts = {split: sum(row["split"] == split for row in table) for split in ("train", "val", "test")}
    assert counts == {"train": 8, "val": 4, "test": 4} and len({row["path"] for row in table}) == 16
    add_videos(videos)
    assert cli.main(own(videos, "--run_dir", "run", "--ckpt_path", "last")) == 0
    assert rows("run/split.csv") == rows("whole/split.csv") == table
    assert not difference(ends(tmp_path / "run"), ends(tmp_path / "whole"))
    tested = {row["path"].rpartition("/")[2] for row in rows("run/test-0.csv")}
    assert tested == {row["path"].rpartition("/")[2] for row in table if row["split"] == "test"}
    checkpoint = "run/checkpoints/last.ckpt"
    assert cli.main(["test", "--ckpt_path", checkpoint, "--trainer.enable_progress_bar", "false"]) == 0
    assert rows("run/test-1.csv") == rows("run/test-0.csv")
    # Alone, and without the run's table.
    shutil.copy(checkpoint, "alone.ckpt")
    alone = ["test", "--ckpt_path", "alone.ckpt", "--data.root", str(videos), "--data.loading.num_workers", "0"]
    assert cli.main(alone) == 0
    assert rows("runs/tested/alone/test-0.csv") == rows("run/test-0.csv")
    # Lists that are named come first.
    (videos / "other.csv").write_text("path,label\n" + "".join(f"{row['path']},{row['label']}\n" for row in table[:3]))
    assert cli.main([*alone, "--data.val", "other.csv"]) == 0
    assert cli.main(["test", "--ckpt_path", checkpoint, "--data.val", "other.csv", "--data.root", str(videos)]) == 0
    assert len(rows("runs/tested/alone/test-1.csv")) == len(rows("run/test-2.csv")) == 3
    (tmp_path / "lists.yaml").write_text("data: {test: other.csv}")
    assert cli.main(["test", "--ckpt_path", checkpoint, "-c", "lists.yaml", "--data.root", str(videos)]) == 0
    assert len(rows("run/test-3.csv")) == 3
    # Another checkpoint of the same name has a table of its own, and neither replaces the other's.
    content = torch.load("alone.ckpt", weights_only=True)
    kept = next(row for row in content["split"] if row[3] == "test")
    for row in content["split"]:
        row[3] = "train" if row[3] == "test" and row != kept else row[3]
    (tmp_path / "b").mkdir()
    torch.save(content, "b/alone.ckpt")
    before = {path: path.read_bytes() for path in (tmp_path / "runs/tested/alone").glob("split*.csv")}
    assert cli.main([word.replace("alone.ckpt", "b/alone.ckpt") for word in alone]) == 0
    tested = [row["path"].rpartition("/")[2] for row in rows("runs/tested/alone/test-2.csv")]
    assert tested == [kept[0].rpartition("/")[2]]
    after = {path: path.read_bytes() for path in (tmp_path / "runs/tested/alone").glob("split*.csv")}
    assert len(before) == 1 and len(after) == 2 and before.items() <= after.items()
    capsys.readouterr()
    content = torch.load("alone.ckpt", weights_only=True)
    content["split"][0][0] = "../outside.mp4"
    torch.save(content, "alone.ckpt")
    assert cli.main(alone) == 2
    assert "names the video '../outside.mp4', which is not below data.root" in capsys.readouterr().err


@pytest.mark.parametrize("table", [3, [["a"]], [["a", "b", "c", "d", 5]], [["", "b", "c", "d", "e"]]])
def test_a_table_that_cannot_be_one(table, tmp_path):
    with pytest.raises(ValueError, match="cannot be one"):
        find_table({"split": table}, tmp_path, "x.ckpt", True)
    assert not list(tmp_path.iterdir())


def test_a_gpu_has_its_overlay(tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text("a: 1")
    (tmp_path / "mine.gpu.yaml").write_text("a: 2")
    words = ["fit", "-c", f"{tmp_path}/mine.yaml", "--run_dir", "x"]
    assert with_configs(words) == words
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert with_configs(words) == [*words[:3], "--config", f"{tmp_path}/mine.gpu.yaml", *words[3:]]
    assert len(with_configs([*words, "--trainer.accelerator", "cpu"])) == 7
