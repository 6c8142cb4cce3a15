import pytest

from video_gn.errors import InputError
from video_gn.kinetics import KineticsData
from video_gn.lists import NO_LABEL, find_videos, names_of, read_list, read_rows


@pytest.fixture
def folder(tmp_path):
    """Two classes in folders, and the same videos as a CSV file and as plain lines."""
    for split, name in (("train", "b c"), ("train", "a"), ("val", "a")):
        (tmp_path / split / name).mkdir(parents=True)
        (tmp_path / split / name / "x 1.mp4").touch()
        (tmp_path / split / name / "notes.txt").touch()
    (tmp_path / "train.csv").write_text("id,label,path\n1,a,train/a/x 1.mp4\n2,b c,train/b c/x 1.mp4\n")
    (tmp_path / "train.txt").write_text("train/a/x 1.mp4 0\n\ntrain/b c/x 1.mp4 1\n")
    return tmp_path


@pytest.mark.parametrize("source", ["train", "train.csv", "train.txt"])
def test_three_forms_of_a_list_say_the_same(source, folder):
    videos = read_list(folder / source, folder, ["a", "b c"])
    assert videos.paths == [str(folder / "train/a/x 1.mp4"), str(folder / "train/b c/x 1.mp4")]
    assert videos.labels.tolist() == [0, 1]


def test_class_names(folder):
    assert names_of(read_rows(folder / "train")) == ["a", "b c"]
    assert names_of([("x", "2"), ("y", "0")]) == ["0", "1", "2"]
    assert names_of([("x", "walk"), ("y", "2")]) == ["2", "walk"]
    data = KineticsData(root=str(folder), train="train.csv")
    assert (data.class_names, data.num_classes) == (["a", "b c"], 2)
    (folder / "classes.txt").write_text("b c\na\n")
    data = KineticsData(root=str(folder), class_names=str(folder / "classes.txt"))
    assert read_list(folder / "train", folder, data.class_names).labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("gone.csv", None, "there is no list or folder .*gone.csv"),
        ("empty.csv", "path,label\n", "names no videos"),
        ("headless.csv", "a.mp4,0\n", "header that names the columns path and label"),
        ("short.txt", "a.mp4\n", "line 1: 'a.mp4' is not of the form"),
        ("outside.txt", "a.mp4 0\na.mp4 2\n", r"video 2 \(a.mp4\): label '2' is outside the 2 classes"),
        ("negative.txt", "a.mp4 -1\n", "label '-1' is outside"),
        ("name.csv", "path,label\na.mp4,c\n", "label 'c' is outside"),
        ("lost.txt", "a.mp4 0\nb.mp4 1\n", "none of 2 files looked for is there"),
    ],
)
def test_bad_lists(name, text, words, tmp_path):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=words):
        read_list(tmp_path / name, tmp_path, ["a", "b"])


def test_videos_to_predict(folder):
    videos = find_videos([str(folder / "train"), "given.mp4"])
    assert videos.paths == [str(folder / "train/a/x 1.mp4"), str(folder / "train/b c/x 1.mp4"), "given.mp4"]
    assert set(videos.labels) == {NO_LABEL}
    (folder / "none").mkdir()
    with pytest.raises(InputError, match="holds no videos"):
        find_videos([str(folder / "none")])
    with pytest.raises(InputError, match="nothing to predict"):
        find_videos([])
