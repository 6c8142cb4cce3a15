"""Lists of data sets that are known by their files, on small sets that are laid out as the real ones."""

import csv
import re
import shutil

import av
import numpy as np
import pytest
from conftest import REPO

from video_gn.data.copies import Signature
from video_gn.data.decoding.open import open_video
from video_gn.data.tools import known_sets, make_list
from video_gn.data.tools.known_sets import same_background
from video_gn.train import cli


def rows(path):
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def write_video(path, frames, title="plain"):
    """An AVI of MPEG-4, as HMDB51 and UCF101 have; its title may be bytes that are no UTF-8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as out:
        out.metadata["title"] = "TITLE-OF-IT"
        stream = out.add_stream("mpeg4", rate=30)
        stream.height, stream.width = frames.shape[1:3]
        for frame in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode())
    if isinstance(title, bytes):
        content = path.read_bytes()
        assert content.count(b"TITLE-OF-IT") == 1
        path.write_bytes(content.replace(b"TITLE-OF-IT", title.ljust(11, b"\xff")))
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    frames = np.random.default_rng(0).integers(0, 255, (20, 48, 64, 3), np.uint8)
    return write_video(tmp_path_factory.mktemp("video") / "a.avi", frames)


@pytest.fixture
def ucf101(tmp_path, video):
    """Three classes of two groups; a video of the second split's test is missing."""
    root = tmp_path / "ucf101"
    lists = root / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    classes = ["ApplyEyeMakeup", "HandstandPushups", "JumpRope", "JumpingJack"]
    (lists / "classInd.txt").write_text("".join(f"{i + 1} {name}\r\n" for i, name in enumerate(classes)))
    for split in (1, 2, 3):
        train, test = [], []
        for i, name in enumerate(classes):
            spelled = name.replace("HandstandPushups", "HandStandPushups")  # as its files are
            for group in (1, 2, 3):
                file = f"{name}/v_{spelled}_g{group:02d}_c01.avi"
                (root / "UCF-101" / name).mkdir(parents=True, exist_ok=True)
                if (i, group) != (3, 2):
                    shutil.copy(video, root / "UCF-101" / file)
                test.append(file) if group == split else train.append(f"{file} {i + 1}")
        (lists / f"trainlist0{split}.txt").write_text("\r\n".join(train) + "\r\n")
        (lists / f"testlist0{split}.txt").write_text("\r\n".join(test) + "\r\n")
    return root


def test_ucf101_by_its_official_lists(ucf101, capsys):
    assert make_list.main([str(ucf101)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("UCF101:\ntrain1: 8 expected, 7 found, 1 missing\ntest1: 4 expected, 4 found, 0 missing")
    assert "test2: 4 expected, 3 found, 1 missing; no video of 1 classes, e.g. JumpingJack" in said
    test = rows(ucf101 / "test1.csv")
    assert [row["label"] for row in test] == ["ApplyEyeMakeup", "HandstandPushups", "JumpRope", "JumpingJack"]
    assert test[1] == {"path": "UCF-101/HandstandPushups/v_HandStandPushups_g01_c01.avi", "label": "HandstandPushups",
                       "group": "HandstandPushups g01"}  # fmt: skip
    train = rows(ucf101 / "train1.csv")
    assert not {row["group"] for row in train} & {row["group"] for row in test} and len(train) == 7
    assert (ucf101 / "classes.txt").read_text().split() == ["ApplyEyeMakeup", "HandstandPushups", "JumpRope",
                                                            "JumpingJack"]  # fmt: skip
    assert rows(ucf101 / "test2.missing.csv")[0]["video"] == "JumpingJack/v_JumpingJack_g02_c01.avi"
    assert make_list.main([str(ucf101)]) == 2 and "train1.csv already exists" in capsys.readouterr().err


@pytest.fixture
def hmdb51(tmp_path):
    """Two classes, with names and metadata as the real ones have them."""
    root = tmp_path / "hmdb51"
    lists = root / "test_train_splits" / "testTrainMulti_7030_splits"
    lists.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for label in ("brush_hair", "climb_stairs"):
        names = [f"#{i}_It's_me;(and_[you])!_{label}_u_nm_np1_ba_goo_0.avi" for i in range(6)]
        for i, name in enumerate(names):
            title = b"\xe9\xff caf\xe9" if i % 2 else "plain"
            write_video(root / "hmdb51_org" / label / name, rng.integers(0, 255, (20, 48, 64, 3), np.uint8), title)
        for split in (1, 2, 3):
            uses = np.roll([1, 1, 1, 2, 2, 0], split)
            lines = "".join(f"{name} {use} \n" for name, use in zip(names, uses, strict=True))
            (lists / f"{label}_test_split{split}.txt").write_text(lines)
    return root


def test_hmdb51_by_its_official_lists(hmdb51, capsys):
    assert make_list.main([str(hmdb51)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("HMDB51:\ntrain1: 6 expected, 6 found, 0 missing\ntest1: 4 expected, 4 found, 0 missing")
    assert "2 classes" in said and (hmdb51 / "classes.txt").read_text() == "brush_hair\nclimb_stairs\n"
    for split in (1, 2, 3):
        train, test = rows(hmdb51 / f"train{split}.csv"), rows(hmdb51 / f"test{split}.csv")
        assert not {row["path"] for row in train} & {row["path"] for row in test}
        assert all(f"/{row['label']}/" in row["path"] for row in (*train, *test))


def test_videos_whose_metadata_is_no_text_are_read_alike_by_both(hmdb51):
    path = next(
        path for path in (hmdb51 / "hmdb51_org" / "brush_hair").iterdir() if b"\xe9\xff caf" in path.read_bytes()
    )
    frames = []
    for backend in ("decord", "pyav"):
        with open_video(str(path), backend) as video:
            frames.append(np.asarray(video.read(np.arange(0, 20, 3))))
    assert frames[0].shape == (7, 48, 64, 3) and np.array_equal(*frames)


@pytest.mark.slow
def test_a_training_on_each(hmdb51, ucf101, capsys):
    """`hmdb51.yaml` and `ucf101.yaml` with a small network on a CPU: their lists, their tests."""
    small = ["--model.net.arch", "i3d_small", "--model.net.depth", "11", "--model.net.width", "8",
             "--model.net.num_groups", "4", "--data.clip.num_frames", "4", "--data.clip.crop_size", "32",
             "--data.clip.short_side", "[36,40]", "--data.evaluation.short_side", "40", "--trainer.accelerator", "cpu",
             "--trainer.max_epochs", "1", "--trainer.precision", "null", "--trainer.enable_progress_bar", "false",
             "--model.start.init", "null", "--data.batch_size", "2", "--data.loading.num_workers", "0"]  # fmt: skip
    for name, root, videos in (("ucf101", ucf101, 4), ("hmdb51", hmdb51, 4)):
        assert make_list.main([str(root)]) == 0
        places = ["--data.root", str(root), "--data.class_names", str(root / "classes.txt")]
        words = ["fit", "-c", str(REPO / "configs" / f"{name}.yaml"), *small, *places]
        assert cli.main([*words, "--run_dir", str(root / "run")]) == 0
        groups = [row.get("group") for row in rows(root / "run" / "test-0.csv")]
        assert groups == [row.get("group") for row in rows(root / "test1.csv")]  # HMDB51's list has none
        assert re.search(rf"nonlocal-10clip.*\n.*\n.* {videos}  +0\n", capsys.readouterr().out)


def test_ut_interaction_by_the_names_of_its_clips(tmp_path, video, capsys):
    for sequence in range(1, 21):
        for action in range(6):
            if (sequence, action) != (13, 5):
                path = tmp_path / f"segmented_set{1 + (sequence > 10)}" / f"{action + 2}_{sequence}_{action}.avi"
                path.parent.mkdir(exist_ok=True)
                path.touch()
    assert make_list.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("UT-Interaction:\nfolds: 120 expected, 119 found, 1 missing\n6 classes")
    found = rows(tmp_path / "folds.csv")
    assert rows(tmp_path / "folds.missing.csv") == [{"video": "seq13 push", "label": "push"}]
    assert {"path": "segmented_set2/2_11_0.avi", "label": "handshake", "group": "seq11"}.items() <= next(
        row for row in found if row["group"] == "seq11"
    ).items()
    folds = {fold: {row["group"] for row in found if row["fold"] == str(fold)} for fold in range(5)}
    assert sum(map(len, folds.values())) == 20 and set(map(len, folds.values())) == {4}


def test_one_camera_is_one_group_of_the_fights(tmp_path, capsys):
    """Two cameras by what stays, whatever moves in front of it; a third video of neither."""
    rng = np.random.default_rng(0)
    scenes = [np.kron(rng.integers(0, 255, (6, 8)), np.ones((8, 8)))[None, ..., None].repeat(3, 3) for _ in range(3)]
    for number, (label, scene) in enumerate(
        (("fight", 0), ("fight", 1), ("noFight", 0), ("noFight", 1), ("noFight", 2))
    ):
        frames = scenes[scene].repeat(20, 0)
        for i in range(20):
            x = 3 * i if number % 2 else 40 - 2 * i
            frames[i, 10 + number : 20, max(0, x) : x + 8] = 255 * (number % 2)
        write_video(tmp_path / label / f"v{number}.mp4", frames.astype(np.uint8))
    assert make_list.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("Surveillance Camera Fight:\nfolds: 5 expected, 5 found, 0 missing")
    group = {row["path"]: row["group"] for row in rows(tmp_path / "folds.csv")}
    assert group["fight/v0.mp4"] == group["noFight/v2.mp4"] != group["fight/v1.mp4"] == group["noFight/v3.mp4"]
    assert len(set(group.values())) == 3


def test_a_video_that_cannot_be_read_has_a_background_of_its_own():
    same, none = np.arange(256).reshape(1, 16, 16).astype(np.uint8), np.empty((0, 16, 16), np.uint8)
    assert same_background([Signature(none, ""), Signature(same, ""), Signature(none, ""), Signature(same, "")]) == [
        (1, 3)
    ]
    assert same_background([Signature(none, "")]) == []


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("ucfTrainTestlist/trainlist01.txt", "a.avi 1\n", "names 'a.avi'; its videos are called CLASS/v_CLASS_g01_c01"),
        ("ucfTrainTestlist/trainlist01.txt", "", "testlist01.txt cannot be read"),
        ("test_train_splits/wave_test_split1.txt", "a.avi 3\n", "has the line 'a.avi 3'; it ends in 0, 1 or 2"),
        ("test_train_splits/other.txt", "", "holds no lists of HMDB51"),
        ("test_train_splits/wave_test_split1.txt", "a.avi 1\n", "none of the videos that HMDB51's lists in"),
        ("fight/x.txt", "", None),
    ],
)
def test_slips(name, text, words, tmp_path, capsys):
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text(text)
    (tmp_path / "noFight").mkdir()
    assert make_list.main([str(tmp_path)]) == 2
    err = capsys.readouterr().err.strip()
    assert (words or "and no video in them") in err and len(err.splitlines()) == 1


def test_nothing_known(tmp_path):
    assert known_sets.read_known_set(tmp_path / "none") is None and known_sets.read_known_set(tmp_path) is None
