"""How one list is divided: shares by class, whole groups, and hardly anything else moved by a video that is added."""

from collections import Counter

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from video_gn.data.division import Division, by_folder, by_pattern, divided_groups, joined
from video_gn.errors import InputError


def videos(counts):
    labels = [label for label, count in counts.items() for _ in range(count)]
    return labels, [f"{label}/{i:04}.mp4" for i, label in enumerate(labels)]


def by_class(labels, splits):
    return {label: tuple(Counter(split for name, split in zip(labels, splits, strict=True) if name == label)[part]
                         for part in ("train", "val", "test")) for label in set(labels)}  # fmt: skip


def test_each_class_has_its_shares():
    labels, names = videos({"a": 100, "b": 20, "c": 7, "d": 3, "e": 2, "f": 1})
    found = by_class(labels, Division().divide(labels, names))
    assert found == {"a": (70, 15, 15), "b": (14, 3, 3), "c": (5, 1, 1), "d": (1, 1, 1), "e": (1, 0, 1), "f": (1, 0, 0)}
    found = by_class(labels, Division((0.5, 0.0, 0.5)).divide(labels, names, ["train", "test"]))
    assert found["a"] == (50, 0, 50) and found["b"] == (10, 0, 10)
    # Training has the shares of the others.
    assert by_class(labels, Division().divide(labels, names, ["train", "val"]))["a"] == (85, 15, 0)


def test_neither_the_order_nor_the_seed_of_another_run():
    labels, names = videos({"a": 40, "b": 60})
    split = dict(zip(names, Division().divide(labels, names), strict=True))
    order = np.random.default_rng(0).permutation(100)
    again = Division().divide([labels[i] for i in order], [names[i] for i in order])
    assert dict(zip([names[i] for i in order], again, strict=True)) == split
    other = dict(zip(names, Division(seed=1).divide(labels, names), strict=True))
    assert sum(other[name] != split[name] for name in names) > 20


@pytest.mark.parametrize("folds", [None, 5])
def test_an_added_video_moves_few_others(folds):
    labels, names = videos({"a": 40, "b": 60})
    division = Division(folds=folds)
    split = dict(zip(names, division.divide(labels, names), strict=True))
    moved = []
    for i in range(50):
        found = division.divide([*labels, "a"], [*names, f"a/new {i}.mp4"])
        changed = [name for name, now in zip(names, found[:-1], strict=True) if split[name] != now]
        assert all(name.startswith("a/") for name in changed)
        moved.append(len(changed))
    assert max(moved) <= 2 and np.mean(moved) < 1


def test_groups_stay_whole_however_large_and_across_classes(rng):
    sizes = rng.integers(1, 12, 60)
    groups = [f"g{number}" for number, size in enumerate(sizes) for _ in range(size)]
    labels = rng.choice(["a", "b", "c"], len(groups), p=[0.6, 0.3, 0.1]).tolist()
    splits = Division().divide(labels, groups)
    assert divided_groups(groups, splits) == []
    for label, (train, val, test) in by_class(labels, splits).items():
        total = train + val + test
        assert abs(val - 0.15 * total) <= 8 and abs(test - 0.15 * total) <= 8 and train > 0.5 * total, label


def test_folds_are_each_tested_once_and_as_even_as_scikit_learns(rng):
    groups = [f"g{number}" for number, size in enumerate(rng.integers(1, 6, 80)) for _ in range(size)]
    labels = rng.choice(["a", "b", "c"], len(groups)).tolist()
    tested = []
    for fold in range(5):
        splits = Division(folds=5, fold=fold).divide(labels, groups)
        assert divided_groups(groups, splits) == [] and {"train", "val", "test"} == set(splits)
        tested.append([i for i, split in enumerate(splits) if split == "test"])
    assert sorted(i for rows in tested for i in rows) == list(range(len(groups)))
    theirs = [rows for _, rows in StratifiedGroupKFold(5).split(labels, labels, groups)]

    def spread(folds):
        counts = [[Counter(labels[i] for i in rows)[label] for label in "abc"] for rows in folds]
        return np.std(counts, axis=0).max()

    assert spread(tested) <= max(2 * spread(theirs), 4)


def test_folds_that_are_known():
    labels, groups = ["a"] * 6, [f"{i}" for i in range(6)]
    splits = Division(shares=(0.7, 0.0, 0.3), folds=3, fold=1).divide(labels, groups, folds=[0, 1, 2, 0, 1, 2])
    assert splits == ["train", "test", "train", "train", "test", "train"]


def test_folds_that_would_test_nothing():
    """Whichever fold this one is, so that no others are trained in vain."""
    labels, groups = ["a"] * 6 + ["b"] * 6, [f"{'ab'[i // 6]}{i % 3}" for i in range(12)]
    tested = [Division(folds=3, fold=fold).divide(labels, groups) for fold in range(3)]
    assert [split.count("test") for split in tested] == [4, 4, 4]
    for fold in range(5):
        with pytest.raises(InputError, match=r"data.folds is 5, .* fold 2, 3: no class has more than 3 groups; set"):
            Division(folds=5, fold=fold).divide(labels, groups)
    with pytest.raises(InputError, match=r"data.folds is 3, .* fold 1"):
        Division(folds=3).divide(labels, groups, folds=[0, 2] * 6)


def test_groups_by_a_pattern():
    paths = ["v_Run_g01_c01.avi", "v_Run_g02_c01.avi", "other.avi"]
    assert by_pattern(paths, r"_g(\d+)_") == ["01", "02", "other.avi"]
    assert by_pattern(paths, r"_g\d+") == ["_g01", "_g02", "other.avi"]
    with pytest.raises(InputError, match="matches in none of the 3 paths"):
        by_pattern(paths, "x(.)")


def test_groups_by_folder():
    """The people of a class, but neither the class's folder nor one folder for all."""
    people = [f"run/p{i}/{j}.mp4" for i in range(3) for j in range(2)] + ["walk/p0/0.mp4", "walk/a.mp4"]
    labels = ["run"] * 6 + ["walk"] * 2
    assert by_folder(people, labels) == ["p0", "p0", "p1", "p1", "p2", "p2", "walk/p0/0.mp4", "walk/a.mp4"]
    flat = ["videos/a.mp4", "videos/b.mp4"]
    assert by_folder(flat, ["x", "y"]) == flat


def test_joined_groups():
    assert joined(["a", "b", "c", "d", "e"], [(3, 1), (1, 0)]) == ["a", "a", "c", "a", "e"]
    assert joined(["a", "a"], [(0, 1)]) == ["a", "a"]


@pytest.mark.parametrize(("given", "words"), [
    ({"shares": (0.5, 0.5, 0.5)}, "sum 1.5"), ({"shares": (1, 0)}, "3 numbers"), ({"group": "("}, "regular expression"),
    ({"folds": 1}, "from 2"), ({"fold": 2}, "set data.folds too"), ({"folds": 3, "fold": 3}, "from 0 to 2"),
])  # fmt: skip
def test_slips(given, words):
    with pytest.raises(InputError, match=words):
        Division(**given)
