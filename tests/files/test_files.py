import logging
import multiprocessing
import os
import socket
import subprocess
import sys
import time

import pytest
from samples import video_data

from video_gn.data.mp4 import create_mp4
from video_gn.data.quarantine import set_known_aside
from video_gn.data.video_list import VideoList
from video_gn.errors import InputError
from video_gn.files.locks import FolderLock, holder, locked, take_lock
from video_gn.files.tables import Journal
from video_gn.files.text import write_text
from video_gn.files.writing import replacing
from video_gn.train.callbacks.saving import WholeCheckpoints

fork = multiprocessing.get_context("fork")


def test_a_journal_goes_on_behind_its_last_whole_line(tmp_path):
    with Journal(tmp_path / "t.csv", ("path", "why")) as journal:
        assert journal.rows == []
        journal.add({"path": "a", "why": "no, not ok"})
    with open(journal.path, "a") as file:
        file.write("b,cut in the mid")
    with Journal(tmp_path / "t.csv", ("path", "why")) as journal:
        assert journal.rows == [{"path": "a", "why": "no, not ok"}]
        journal.add({"path": "c", "why": ""})
    assert [row["path"] for row in Journal(tmp_path / "t.csv", ("path", "why")).rows] == ["a", "c"]
    journal = Journal(tmp_path / "t.csv", ("path", "other"))  # of another version
    assert journal.rows == []
    journal.remove()
    assert not list(tmp_path.iterdir())


# Links in a folder from elsewhere


def test_what_is_written_and_replaced_leads_nowhere_else(tmp_path):
    victim, folder = tmp_path / "victim", tmp_path / "set"
    folder.mkdir()
    victim.write_text("mine")
    (tmp_path / "link").symlink_to(folder)  # that a folder is one is common
    for name in ("t.csv", "t.csv.journal", "a.mp4", "a.ckpt"):
        (folder / f"{name}.part").symlink_to(victim)
    write_text(tmp_path / "link/t.csv", "x")
    with Journal(folder / "t.csv", ("path",)) as journal:
        journal.add({"path": "a"})
    with replacing(folder / "a.mp4") as part, create_mp4(part) as container:
        container.add_stream("mpeg4", rate=25)
    WholeCheckpoints().save_checkpoint({}, folder / "a.ckpt")
    assert victim.read_text() == "mine"
    assert (folder / "t.csv").read_text() == "x" and not any(path.is_symlink() for path in folder.iterdir())
    (folder / "t.csv.part").write_text("what a killed process left")
    write_text(folder / "t.csv", "y")
    assert (folder / "t.csv").read_text() == "y" and not (folder / "t.csv.part").exists()


def test_what_is_appended_to_is_no_link(tmp_path):
    victim, link = tmp_path / "victim", tmp_path / "set/link"
    victim.write_text("mine")
    link.parent.mkdir()
    link.symlink_to(victim)
    with pytest.raises(InputError, match=f"{link} is a link"), locked(link):
        pass
    with pytest.raises(InputError, match=f"{link} is a link"):
        FolderLock(link.parent, name="link")
    journal = Journal(link.parent / "t.csv", ("path",))
    journal.path.unlink()
    journal.path.symlink_to(victim)
    with pytest.raises(InputError, match=f"{journal.path} is a link"), journal:
        pass
    data = video_data(root=str(link.parent), class_names=["a"], quarantine="link")
    data.lists["val"] = VideoList(["a.mp4"], [0])
    with pytest.raises(InputError, match=f"{link} is a link"):
        set_known_aside("val", data.lists["val"], data.quarantine)
    with pytest.raises(InputError, match=f"{link} is a link"):
        data._set_aside(data.lists["val"], 0, "hung")
    link.unlink()
    link.symlink_to(tmp_path / "new")
    with pytest.raises(InputError, match=f"{link} is a link"), locked(link):
        pass
    assert victim.read_text() == "mine" and not (tmp_path / "new").exists()


# Locks


def test_a_lock_ends_with_its_process_and_not_with_its_children(tmp_path):
    with locked(tmp_path / "lock"):
        child = fork.Process(target=time.sleep, args=(60,), daemon=True)
        child.start()
        with pytest.raises(TimeoutError), locked(tmp_path / "lock", patience=0):
            pass
    with locked(tmp_path / "lock", patience=0):
        assert child.is_alive()
    child.kill()
    child.join()


def hold(path, taken):
    with locked(path):
        taken.set()
        time.sleep(60)


def test_who_waits_says_for_whom(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("video_gn"), "propagate", True)  # a command of an earlier test ended it
    path, taken = tmp_path / "lock", fork.Event()
    process = fork.Process(target=hold, args=(path, taken), daemon=True)
    process.start()
    assert taken.wait(10)
    with pytest.raises(TimeoutError), locked(path, patience=1.5):
        pass
    process.kill()
    process.join()
    (said,) = {record.getMessage() for record in caplog.records}
    assert said == f"waiting for process {process.pid} on {socket.gethostname()}, which holds {path}; " \
        "if it should not run, end it"  # fmt: skip
    with locked(path, patience=0.5):  # a killed process holds nothing
        assert holder(path) == f"process {os.getpid()} on {socket.gethostname()}"


def test_a_lock_can_be_handed_to_a_child(tmp_path):
    with open(tmp_path / "lock", "a") as file:
        take_lock(file, 0)
        command = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]
        child = subprocess.Popen(command, pass_fds=[file.fileno()], preexec_fn=lambda: None)
    with pytest.raises(TimeoutError), locked(tmp_path / "lock", patience=0):
        pass
    child.kill()
    child.wait()
    with locked(tmp_path / "lock", patience=0):
        pass


def test_a_lock_file_of_an_earlier_version_is_no_riddle(tmp_path):
    for content in ("", "x", "a b", "\udce9"):
        (tmp_path / "lock").write_bytes(os.fsencode(content))
        assert holder(tmp_path / "lock") == "another process"
