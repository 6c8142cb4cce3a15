"""The first look at a training: what it shows is what the network gets, and training is the same with it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command_lines import STEPS, stopped, tiny
from PIL import Image
from pytorch_lightning.loggers import CSVLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_position import difference, ends

from video_gn.batch import Batch
from video_gn.data.contact_sheet import GAP, HEAD, SIDE, labelled, sheet
from video_gn.files.tables import read_table
from video_gn.train import cli, show
from video_gn.train.callbacks import first_look, speed
from video_gn.train.classifier import VideoClassifier


class Noting(CSVLogger):
    """A logger that keeps what it is given, as W&B's and TensorBoard's do."""

    def __init__(self, save_dir="."):
        super().__init__(save_dir)
        self.settings, self.pictures = [], []
        kept.append(self)

    def log_hyperparams(self, params=None):
        self.settings.append(params)

    def log_image(self, key, images):
        self.pictures.append((key, images[0].size))


kept = []


def test_training_is_the_same_with_and_without_it(pictures, tmp_path, monkeypatch):
    assert cli.main(tiny(pictures, tmp_path / "with")) == 0
    with monkeypatch.context() as patched:
        for hook in ("on_fit_start", "on_train_batch_start", "on_train_epoch_end"):
            patched.setattr(first_look.FirstLook, hook, lambda *_: None)
        assert cli.main(tiny(pictures, tmp_path / "without")) == 0
    assert not difference(ends(tmp_path / "with"), ends(tmp_path / "without"))
    assert not (tmp_path / "without" / "data.json").exists()
    found = json.loads((tmp_path / "with" / "data.json").read_text())["splits"]
    assert {split: its["videos"] for split, its in found.items()} == {"train": 2 * STEPS, "val": 8}


def test_the_picture_is_of_what_the_network_gets(pictures, tmp_path, monkeypatch, capsys):
    """Those of the forward pass; `data show` has the same without a run."""
    seen, real = [], VideoClassifier.forward

    def forward(self, clips):
        if self.training:
            seen.extend(clips.clone())
        return real(self, clips)

    monkeypatch.setattr(VideoClassifier, "forward", forward)
    monkeypatch.setattr(first_look, "CLIPS", 6)
    monkeypatch.setattr(show, "CLIPS", 6)
    monkeypatch.setattr(first_look, "CLIPS_FILE", "clips.png")
    words = tiny(pictures, tmp_path / "run", **{"trainer.max_epochs": 1})
    assert cli.main(words) == 0
    shown = np.asarray(Image.open(tmp_path / "run" / "clips.png"))
    assert len(seen) == 2 * STEPS
    for i, clip in enumerate(seen[:6]):
        x, y = 2 * GAP - GAP + i % 4 * (SIDE + 2 * GAP), GAP + HEAD + i // 4 * (HEAD + SIDE + GAP)
        big = clip[:, 0].permute(1, 2, 0).numpy().repeat(SIDE // 16, 0).repeat(SIDE // 16, 1)
        assert np.array_equal(shown[y : y + SIDE, x : x + SIDE], big), i
    out = tmp_path / "shown.png"
    at = words.index("--run_dir")
    rest = words[1:at] + words[at + 2 :]
    assert show.main([*rest, f"--out={out}"]) == 0
    assert np.array_equal(np.asarray(Image.open(out)), shown)
    said = capsys.readouterr().out
    assert "train: 8 videos of 2 classes (4 each), 20x20" in said and f"the first 6 training clips: {out}" in said
    assert show.main([*rest, "--out", str(out)]) == 2 and show.main([*rest, "--out", "clips.gif"]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 2 and "already exists; name another file with --out" in lines[0]
    assert show.main(["-c", "nosuch"]) == 2 and show.main([]) == 2
    monkeypatch.chdir(tmp_path)
    for name in ("training_clips.jpg", "training_clips-1.jpg", "training_clips-2.jpg"):  # typed again and again
        assert show._take_out(["-c", "own"]) == (["-c", "own"], Path(name))
        Path(name).touch()


def test_mixed_clips_have_both_labels(rng):
    clips = torch.from_numpy(rng.integers(0, 256, (2, 1, 3, 5, 8, 8), np.uint8))
    batch = Batch(clips, torch.tensor([0, 1]), torch.tensor([0, 1]), [], [], [])
    found = labelled(batch, ["a", "b"], 1)
    assert [words for _, words in found] == ["a"] and torch.equal(found[0][0], clips[0, 0])
    mixed = batch._replace(seconds=torch.tensor([1, 0]), shares=torch.tensor([0.75, 1.0]))
    assert [words for _, words in labelled(mixed, ["a", "b"])] == ["0.75 a + 0.25 b", "b"]
    assert sheet(found).size[0] == 2 * (4 * (SIDE + GAP) + GAP) + GAP
    assert sheet([(found[0][0], "\x1b[31m" + "x" * 10**6)] * 3).size[1] == 2 * (HEAD + SIDE + GAP) + GAP


def test_loggers_get_the_settings_and_the_picture(pictures, tmp_path):
    """A stand-in of W&B's kind, and TensorBoard's own."""
    kept.clear()
    others = {"class_path": "TensorBoardLogger", "init_args": {"save_dir": str(tmp_path), "name": "tb", "version": ""}}
    given = [{"class_path": f"{__name__}.Noting", "init_args": {"save_dir": str(tmp_path)}}, others]
    settings = {"trainer.logger": json.dumps(given), "trainer.max_epochs": 1}
    assert cli.main(tiny(pictures, tmp_path / "run", **settings)) == 0
    (said,) = kept[-1].settings
    assert said["model"]["optimizer"]["init_args"]["base_lr"] == 0.3 and said["data"]["batch_size"] == 2
    assert [key for key, _ in kept[-1].pictures] == ["training clips"]
    found = EventAccumulator(str(tmp_path / "tb")).Reload()
    assert found.Tags()["images"] == ["training clips"]
    assert "base_lr: 0.3" in (tmp_path / "tb" / "hparams.yaml").read_text()
    assert "_hparams_/session_start_info" in found.summary_metadata


def test_time_continues_where_a_run_was_stopped(pictures, tmp_path, monkeypatch):
    """Seconds and clips a second are in a table of their own: history.csv is the same however often it was stopped."""
    stopped(pictures, tmp_path, monkeypatch, STEPS + 2)
    first = read_table(tmp_path / "speed.csv")
    assert [row["steps"] for row in first] == [str(STEPS)] and first[0]["lr"]
    said = json.loads((tmp_path / "progress.json").read_text())
    (tmp_path / "progress.json").write_text(json.dumps(said | {"seconds": 1000.0}))
    picture = (tmp_path / "training_clips.jpg").read_bytes()
    assert cli.main(tiny(pictures, tmp_path)) == 0
    rows = read_table(tmp_path / "speed.csv")
    assert rows[0] == first[0] and [row["steps"] for row in rows] == [str(STEPS * i) for i in (1, 2, 3)]
    assert 1000 <= float(rows[1]["seconds"]) <= float(rows[2]["seconds"]) < 1100
    assert (tmp_path / "training_clips.jpg").read_bytes() == picture
    assert speed.seconds_of(tmp_path / "nothing.json") == 0


def test_a_damaged_table_of_speed_is_one_line(pictures, tmp_path, capsys):
    (tmp_path / "speed.csv").write_text("epoch,steps,seconds,clips_per_s,lr\n0,x,1,1,1\n")
    assert cli.main(tiny(pictures, tmp_path)) == 2
    assert "speed.csv is damaged: it is not what a run wrote; move it away" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "[]", '{"splits": 1}', '{"splits": {"train": {}}}'])
def test_a_damaged_summary_is_none(content, tmp_path):
    (tmp_path / "data.json").write_text(content)
    assert first_look.read_summary(tmp_path) == {}
