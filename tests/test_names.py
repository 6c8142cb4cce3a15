"""Names of files are bytes: every tool works with those that are not UTF-8, and in a system without UTF-8."""

import json
import os
import subprocess
import sys

import pytest
from command_lines import fit, short
from conftest import REPO

from video_gn.console import printable
from video_gn.data.decoding.open import BACKENDS, open_video
from video_gn.data.lists import read_list
from video_gn.data.tools import check_videos, make_list, prepare_videos
from video_gn.files.names import as_label, as_path, as_text
from video_gn.files.tables import read_table, write_table
from video_gn.predict.__main__ import main as predict
from video_gn.train import cli

NAMES = [b"caf\xe9.mp4", "é.mp4".encode(), b"\x1b[31m\n.mp4", b'\xff,".mp4']


@pytest.fixture
def root(motion_folder, tmp_path):
    """A data set in which nothing is named as it should be, with a file that is no video."""
    root = tmp_path / os.fsdecode(b"r\xe9p")
    for label, source in ((b"a", "slow_up"), (b"b\xff", "fast_up")):
        folder = os.path.join(os.fsencode(root), b"train", label)
        os.makedirs(folder)
        content = (motion_folder / "train" / source / "0000.mp4").read_bytes()
        for name in NAMES:
            with open(os.path.join(folder, name), "wb") as file:
                file.write(content)
    with open(os.path.join(folder, b"bad\xe9.mp4"), "wb") as file:
        file.write(b"text")
    return root


def every_tool(root, run_dir):
    """A list, its check, copies, training, test and predictions; the exit codes."""
    settings = ["--data.motion", "null", "--data.train", "train.csv", "--data.val", "train.csv", "--data.batch_size", 2]
    settings += [
        "--data.loading.max_bad",
        1,
        "--trainer.max_epochs",
        1,
        "--data.loading.num_workers",
        1,
        "--data.clip.frame_interval",
        2,
    ]
    checkpoint = str(run_dir / "checkpoints" / "last.ckpt")
    yield make_list.main([str(root)])
    yield check_videos.main([str(root / "train.csv"), "--workers", "1"])
    yield prepare_videos.main([str(root / "train.csv"), str(root / "copies"), "--workers", "1"])
    yield cli.main(fit(run_dir, root, *short(*settings)))
    yield cli.main(["test", "--ckpt_path", checkpoint])
    videos = ["--videos", str(root / "train"), "--json", str(root / "all.jsonl")]
    yield cli.main(["predict", "--ckpt_path", checkpoint, *videos])
    one = os.fsdecode(os.fsencode(root) + b"/train/a/\xc3\xa9.mp4")
    yield predict([checkpoint, one, "--pictures", str(root / "pictures"), "--workers", "0"])


@pytest.mark.slow
def test_names_that_are_not_utf8(root, capsys):
    assert list(every_tool(root, root / "runs" / "x")) == [0] * 7
    said = capsys.readouterr()
    assert "train/b\\udcff/bad\\udce9.mp4: not a video file" in said.err
    assert "\x1b[31m" not in said.out + said.err and "\\x1b[31m\\n.mp4" in said.out
    videos = read_list(root / "train.csv", root, ["a", "b\\xff"])
    assert len(videos) == 9 and len(videos.set_aside) == 1
    assert all(os.path.isfile(path) for path in videos.paths)
    assert sum(videos.known(row) == (["decord", "pyav"], 64, 1.0) for row in range(9)) == 8
    copies = read_list(root / "copies" / "train.csv", root / "copies", ["a", "b\\xff"])
    assert sum(os.path.isfile(path) for path in copies.paths) == 8
    with open(root / "all.jsonl", encoding="utf-8") as lines:
        predicted = [json.loads(line) for line in lines]
    assert {os.fsencode(one["video"]) for one in predicted} == {os.fsencode(path) for path in videos.paths}
    assert sum("error" in one for one in predicted) == 1
    (bad,) = {row["path"] for row in read_table(root / "runs" / "x" / "bad_videos.csv")}
    assert os.fsencode(bad).endswith(b"/train/b\xff/bad\xe9.mp4")


def test_class_folders_named_so(root):
    videos = read_list(root / "train", root, ["a", "b\\xff"])
    assert videos.labels.tolist() == [0] * 4 + [1] * 5 and all(map(os.path.isfile, videos.paths))


@pytest.mark.long
@pytest.mark.slow
def test_a_system_without_utf8(root, motion_folder, tmp_path):
    """In a process of its own: Python learns its encoding when it starts."""
    other = tmp_path / "donnéés"
    os.rename(root, other)
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, 'tests'); from test_names import every_tool;"
        "assert sys.getfilesystemencoding() == 'ascii', sys.getfilesystemencoding();"
        "print('codes', list(every_tool(Path(sys.argv[1]), Path(sys.argv[1], 'runs', 'x'))))"
    )
    env = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG"))}
    env |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-W", "ignore", "-c", code, str(other)]
    done = subprocess.run(command, cwd=REPO, env=env, capture_output=True, timeout=300, check=False)
    assert b"codes [0, 0, 0, 0, 0, 0, 0]" in done.stdout, done.stderr.decode(errors="replace")[-3000:]
    videos = read_list(other / "train.csv", other, ["a", "b\\xff"])  # and what it wrote is the same here
    assert all(map(os.path.isfile, videos.paths)) and len(videos.set_aside) == 1
    assert sum(videos.known(row) is not None for row in range(9)) == 8


@pytest.mark.parametrize("name", NAMES)
def test_every_backend_reads_such_names(name, root):
    path = os.fsdecode(os.path.join(os.fsencode(root), b"train", b"a", name))
    for backend in BACKENDS:
        with open_video(path, backend) as video:
            assert video.num_frames == 64 and video.read([3]).shape == (1, 64, 64, 3)


def test_names_in_tables_come_back(tmp_path):
    names = [as_text(os.fsdecode(name)) for name in NAMES]
    write_table(tmp_path / "a.csv", ("path",), [(name,) for name in names])
    assert [os.fsencode(as_path(row["path"])) for row in read_table(tmp_path / "a.csv")] == NAMES
    assert as_label(os.fsdecode(b"caf\xe9")) == "caf\\xe9" and as_label("café") == "café"


def test_printable():
    assert printable("café 😀 \x1b[31m\n\r\t\x00\u2028\ude00\udce9") == (
        "café 😀 \\x1b[31m\\n\\r\\t\\x00\\u2028\\ude00\\udce9"
    )
