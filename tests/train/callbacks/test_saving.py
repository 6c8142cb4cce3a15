"""Disks that are full, processes that are killed while they write, and two runs in one folder."""

import errno
import json
import os
import signal
import subprocess
import time

import pytest
import torch
from command_lines import stopped, tiny
from conftest import few

from video_gn.errors import InputError
from video_gn.files.locks import FolderLock
from video_gn.files.text import to_json, write_json, write_text
from video_gn.train import cli, commands
from video_gn.train.callbacks.saving import WholeCheckpoints


def states(folder):
    return {path.name: path.read_bytes() for path in folder.glob("checkpoints/*")}


@pytest.mark.slow
@pytest.mark.parametrize("where", few(["write", "flush"], (), ("write",)))
def test_a_full_disk_leaves_the_last_checkpoint(where, pictures, tmp_path, monkeypatch, capsys):
    stopped(pictures, tmp_path, monkeypatch, 3)
    before = states(tmp_path)
    capsys.readouterr()
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with monkeypatch.context() as patched:
        if where == "flush":
            patched.setattr(os, "fsync", lambda number: (_ for _ in ()).throw(full))
        else:

            def save(content, file):  # as torch.save does where the disk is full
                file.write(b"begun")
                try:
                    raise full
                except OSError:
                    raise RuntimeError("unexpected pos 704 vs 598")  # noqa: B904

            patched.setattr(torch, "save", save)
        assert cli.main(tiny(pictures, tmp_path)) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "No space left on device; free space there, or take another folder" in errors[0]
    assert f"cannot write {tmp_path}" in errors[0]
    assert states(tmp_path) == before and not list(tmp_path.rglob("*.part"))
    assert cli.main(tiny(pictures, tmp_path)) == 0


def test_a_small_disk(pictures, tmp_path, capsys):
    """A real one, on which the second checkpoint has no room."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("a file system cannot be mounted here")
    try:
        assert cli.main(tiny(pictures, disk / "run", **{"checkpoint.every_n_train_steps": 1})) == 2
        assert f"error: cannot write {disk}/run/checkpoints/" in capsys.readouterr().err
        left = [torch.load(path, weights_only=True) for path in disk.glob("run/checkpoints/*.ckpt")]
        assert left and not list(disk.rglob("*.part"))
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_kill_while_a_checkpoint_is_written(tmp_path):
    path = tmp_path / "last.ckpt"
    files = WholeCheckpoints()
    for step in (1, 2):
        files.save_checkpoint({"step": step}, path)
    child = os.fork()
    if not child:

        def save(content, file):
            for _ in range(1000):
                file.write(b"x")
                file.flush()
                time.sleep(0.01)

        torch.save = save
        files.save_checkpoint({"step": 3}, path)
        os._exit(1)
    while not path.with_name("last.ckpt.part").exists():
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert torch.load(path, weights_only=True) == {"step": 2}
    assert torch.load(tmp_path / "previous.ckpt", weights_only=True) == {"step": 1}
    files.save_checkpoint({"step": 3}, path)
    assert torch.load(path, weights_only=True) == {"step": 3}
    assert sorted(one.name for one in tmp_path.iterdir()) == ["last.ckpt", "previous.ckpt"]


def test_a_damaged_last_checkpoint_gives_way_to_the_one_before(pictures, tmp_path, monkeypatch, capsys):
    assert cli.main(tiny(pictures, tmp_path / "whole", **{"checkpoint.every_n_train_steps": 1})) == 0
    stopped(pictures, tmp_path / "run", monkeypatch, 3, **{"checkpoint.every_n_train_steps": 1})
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:5000])
    assert cli.main(tiny(pictures, tmp_path / "run", **{"checkpoint.every_n_train_steps": 1})) == 0
    assert "last.ckpt is not a checkpoint, or is damaged" in capsys.readouterr().err
    ends = [torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True) for name in ("whole", "run")]
    assert all(torch.equal(a, b) for a, b in zip(*(end["state_dict"].values() for end in ends), strict=True))


# Two at once


def holding(folder):
    """A process that has a folder's lock, and a child of its own, as a loader has workers."""
    ready, theirs = os.pipe()
    child = os.fork()
    if not child:
        lock = FolderLock(folder)
        if not os.fork():
            time.sleep(60)
            os._exit(0)
        os.write(theirs, b"x")
        time.sleep(60)
        os._exit(lock is None)
    os.read(ready, 1)
    return child


def test_the_second_run_in_a_folder_is_refused_until_the_first_ends(pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(commands, "PATIENCE", 0.3)
    child = holding(tmp_path)
    assert cli.main(tiny(pictures, tmp_path)) == 2
    assert f"{tmp_path} is in use by another run (process {child} on " in capsys.readouterr().err
    assert not (tmp_path / "config.yaml").exists()
    os.kill(child, signal.SIGKILL)  # its own child lives on
    os.waitpid(child, 0)
    assert cli.main(tiny(pictures, tmp_path)) == 0


@pytest.mark.slow
def test_a_folder_is_taken_as_soon_as_a_run_began(pictures, tmp_path, monkeypatch, capsys):
    def dies(self, *_):
        raise KeyError("in the first step")

    fresh = tiny(pictures, tmp_path)
    at = fresh.index("--ckpt_path")
    fresh[at : at + 2] = []
    with monkeypatch.context() as patched:
        patched.setattr(cli.VideoClassifier, "training_step", dies)
        with pytest.raises(KeyError):
            cli.main(fresh)
    assert cli.main(fresh) == 2
    assert f"{tmp_path} already holds a run; start it again with --ckpt_path last" in capsys.readouterr().err
    assert cli.main(tiny(pictures, tmp_path)) == 0


# Small files


def test_json_is_strict(tmp_path):
    content = {"a": float("nan"), "b": [float("inf"), 1.5], "c": ({"d": -float("inf")},), "e": "NaN", "f": True}
    write_json(tmp_path / "x.json", content)
    text = (tmp_path / "x.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {
        "a": None,
        "b": [None, 1.5],
        "c": [{"d": None}],
        "e": "NaN",
        "f": True,
    }
    assert to_json(float("nan")) == "null"


def test_a_file_is_whole_or_the_old_one(tmp_path, monkeypatch):
    write_text(tmp_path / "a.txt", "old")
    full = OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
    monkeypatch.setattr(os, "fsync", lambda number: (_ for _ in ()).throw(full))
    with pytest.raises(InputError, match=r"cannot write .*a.txt: Disk quota exceeded; free space there"):
        write_text(tmp_path / "a.txt", "new")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        write_text(tmp_path / "file" / "b.txt", "new")
