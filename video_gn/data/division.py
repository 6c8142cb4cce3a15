"""One list divided into training, validation and test videos, or into folds: by class, and never within a group.

Who goes where follows from the seed and from the names of groups alone, not from the order of the list: a video that is
added moves few others.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from video_gn.errors import InputError
from video_gn.rules import DIVISION, check

TRAIN, VAL, TEST = "train", "val", "test"
Label = str | Sequence[str]  # of a video: a class, or several
MOST_ROUNDS = 20  # over all groups, to even out
FEWEST_FOLDERS = 3  # that a class has to be in before its folders are taken for groups


@dataclass(frozen=True)
class Division:
    """How a list is divided.

    Attributes:
        shares: Of training, validation and test videos; any numbers above 0, of which the sum is 1.
        group: A regular expression whose match in a path names the video's group.
        folds: Into how many parts it is divided for cross-validation, each of which is the test once.
        fold: Which of them is the test, from 0.
        seed: Of who goes where.
    """

    shares: tuple[float, float, float] = (0.7, 0.15, 0.15)
    group: str | None = None
    folds: int | None = None
    fold: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        check(vars(self), DIVISION, "data")
        if abs(sum(self.shares) - 1) > 1e-6:
            raise InputError(f"data.shares is {list(self.shares)}, with the sum {sum(self.shares):g}; it has to be 1")
        if self.fold >= (self.folds or 1):
            rule = f"it has to be from 0 to {self.folds - 1}" if self.folds else "set data.folds too"
            raise InputError(f"data.fold is {self.fold}, and data.folds is {self.folds or 'null'}; {rule}")

    def divide(
        self,
        labels: Sequence[Label],
        groups: Sequence[str],
        parts: Sequence[str] = (TRAIN, VAL, TEST),
        folds: Sequence[int] | None = None,
    ) -> list[str]:
        """The split of each video.

        Args:
            labels: Its class, or all of its classes; those of no class are shared out as if they were one more.
            groups: Its group.
            parts: The splits to divide it into; training is one of them, and has the shares of what is not.
            folds: Its fold, where that is known.

        Raises:
            InputError: A fold would have no video.
        """
        kept = [part for part in (VAL, TEST) if part in parts]
        weight = dict(zip((TRAIN, VAL, TEST), self.shares, strict=True))
        if self.folds is None:
            return self._spread(labels, groups, {part: weight[part] for part in kept[::-1]}, TRAIN)
        found = self.folds_of(labels, groups) if folds is None else list(folds)
        self._check_folds(found, labels, groups)
        split = [TEST if fold == self.fold else TRAIN for fold in found]
        if VAL in kept and weight[VAL]:
            rest = [row for row, part in enumerate(split) if part == TRAIN]
            share = weight[VAL] / (weight[TRAIN] + weight[VAL])
            inner = self._spread([labels[row] for row in rest], [groups[row] for row in rest], {VAL: share}, TRAIN)
            for row, part in zip(rest, inner, strict=True):
                split[row] = part
        return split

    def folds_of(self, labels: Sequence[Label], groups: Sequence[str]) -> list[int]:
        """The fold of each video, from 0: whole groups, and of each class about as many in every fold."""
        count = self.folds or 1
        names = [str(fold) for fold in range(count)]
        return [int(name) for name in self._spread(labels, groups, dict.fromkeys(names[:-1], 1 / count), names[-1])]

    def _spread(
        self, labels: Sequence[Label], groups: Sequence[str], shares: Mapping[str, float], rest: str
    ) -> list[str]:
        """Iterative stratification (Sechidis et al. 2011) of whole groups, the classes of fewest groups first.

        Within a class its groups come in the order of their hashes, and a part takes those that bring it nearer to its
        share of all their classes. The first make one part, the last another one, so that a group which is added
        shifts the ends of the parts by one at most.
        """
        held = _held(labels, groups)
        having: dict[str, list[str]] = defaultdict(list)  # groups by class
        for group, of_group in held.items():
            for name in of_group:
                having[name].append(group)
        total = Counter(name for label in labels for name in _classes(label))
        counts: dict[str, Counter[str]] = {part: Counter() for part in (*shares, rest)}
        part_of: dict[str, str] = {}
        for label in sorted(having, key=lambda label: (len(having[label]), label)):
            members = sorted(having[label], key=self._place)
            free = [group for group in members if group not in part_of]
            for number, (part, share) in enumerate(shares.items()):
                # Training keeps a group, and what comes before has its own before what comes after.
                spare = len(free) - (not counts[rest][label])
                chosen: list[str] = []
                for group in free[:: -1 if number % 2 else 1]:
                    if len(chosen) < spare and _brings_nearer(held[group], counts[part], total, share):
                        chosen.append(group)
                        counts[part] += held[group]
                if share and not counts[part][label] and len(members) > number + 1 and spare > 0:
                    chosen = [min(free, key=lambda group: held[group][label])]
                    counts[part] += held[chosen[0]]
                part_of.update(dict.fromkeys(chosen, part))
                free = [group for group in free if group not in part_of]
            for group in free:
                part_of[group] = rest
                counts[rest] += held[group]
        if any(len(of_group) > 1 for of_group in held.values()) or len(held) < len(groups):
            whole = {**shares, rest: 1 - sum(shares.values())}
            _even_out(part_of, held, counts, {part: {c: n * total[c] for c in total} for part, n in whole.items()})
        return [part_of[group] for group in groups]

    def _check_folds(self, found: Sequence[int], labels: Sequence[Label], groups: Sequence[str]) -> None:
        """Raises InputError where a fold, this one or another, would test nothing."""
        if empty := [str(fold) for fold in range(self.folds or 0) if fold not in set(found)]:
            of_class = Counter(name for of_group in _held(labels, groups).values() for name in of_group)
            raise InputError(
                f"data.folds is {self.folds}, which leaves no test video for fold {', '.join(empty[:10])}: no class "
                f"has more than {max(of_class.values())} groups; set data.folds lower, or add videos"
            )

    def _place(self, group: str) -> tuple[bytes, str]:
        key = f"{self.seed}:{group}".encode("utf-8", "surrogateescape")
        return hashlib.sha256(key).digest(), group


def _held(labels: Sequence[Label], groups: Sequence[str]) -> dict[str, Counter[str]]:
    """Videos of each class, by group."""
    held: dict[str, Counter[str]] = defaultdict(Counter)
    for label, group in zip(labels, groups, strict=True):
        held[group].update(_classes(label))
    return held


def _brings_nearer(group: Counter[str], part: Counter[str], total: Counter[str], share: float) -> bool:
    """Whether a part with a group has nearer its share of the group's classes, by the sum of squares."""
    return sum(size * (size + 2 * (part[label] - share * total[label])) for label, size in group.items()) < 1e-9


def _even_out(
    part_of: dict[str, str],
    held: Mapping[str, Counter[str]],
    counts: Mapping[str, Counter[str]],
    wanted: Mapping[str, Mapping[str, float]],
) -> None:
    """Moves single groups to other parts as long as that brings all parts nearer to what they should have.

    None is the last of one of its classes in its part.

    Args:
        part_of: The part of each group; changed.
        held: Videos of each class, by group.
        counts: Videos of each class, by part; changed.
        wanted: As `counts`, what they should be.
    """
    moved = True
    for _ in range(MOST_ROUNDS):
        if not moved:
            return
        moved = False
        for group, part in reversed(part_of.items()):  # what was taken first stays rather
            of_group = held[group]
            if any(counts[part][label] == size for label, size in of_group.items()):
                continue
            over = {
                other: sum(size * (counts[other][label] - wanted[other][label]) for label, size in of_group.items())
                for other in counts
            }
            best = min(over, key=lambda other: over[other])
            if over[part] - over[best] > sum(size * size for size in of_group.values()) + 1e-9:
                counts[part] -= of_group
                counts[best] += of_group
                part_of[group] = best
                moved = True


def by_pattern(paths: Sequence[str], pattern: str) -> list[str]:
    """The group of each path: what a regular expression's brackets match in it, or the whole match.

    A path in which it matches nothing is a group by itself.

    Raises:
        InputError: It matches in none of them.
    """
    found = [re.search(pattern, path) for path in paths]
    if not any(found):
        raise InputError(
            f"data.group is {pattern!r}, which matches in none of the {len(paths)} paths, e.g. {paths[0]}; correct the "
            "regular expression, or set data.group to null"
        )
    return [
        "/".join(part or "" for part in match.groups()) or match[0] if match else path
        for path, match in zip(paths, found, strict=True)
    ]


def by_folder(paths: Sequence[str], labels: Sequence[Label]) -> list[str]:
    """The group of each path: the folder that it is in, where its class is in several folders.

    A folder that has the name of the class is no group, nor is that name part of a group's.
    """
    folders, of_class = [], defaultdict[str, set[str]](set)
    for path, of_video in zip(paths, map(_classes, labels), strict=True):
        parts = PurePosixPath(path).parts[:-1]
        own = parts and parts[-1] in of_video
        folders.append("" if own else "/".join(part for part in parts if part not in of_video))
        for label in of_video:
            of_class[label].add(folders[-1])
    several = {label for label, found in of_class.items() if len(found - {""}) >= FEWEST_FOLDERS}
    return [
        folder if folder and not several.isdisjoint(_classes(label)) else path
        for path, folder, label in zip(paths, folders, labels, strict=True)
    ]


def _classes(label: Label) -> Sequence[str]:
    return (label,) if isinstance(label, str) else label or ("",)


def joined(groups: Sequence[str], pairs: Sequence[tuple[int, int]]) -> list[str]:
    """The groups of rows, of which those of each pair of rows are one: the first by name."""
    above: dict[str, str] = {}

    def first(group: str) -> str:
        while (next_one := above.get(group, group)) != group:
            group = next_one
        return group

    for a, b in pairs:
        low, high = sorted((first(groups[a]), first(groups[b])))
        if low != high:
            above[high] = low
    return [first(group) for group in groups]


def divided_groups(groups: Sequence[str], splits: Sequence[str]) -> list[str]:
    """The groups that are in more than one split."""
    found: dict[str, set[str]] = defaultdict(set)
    for group, split in zip(groups, splits, strict=True):
        found[group].add(split)
    return sorted(group for group, parts in found.items() if len(parts) > 1)
