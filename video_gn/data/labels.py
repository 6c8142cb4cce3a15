"""Labels of a list's rows: names of classes, or their numbers from 0."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from video_gn.console import is_text
from video_gn.data.label_sets import SEPARATOR, classes_in, pairs
from video_gn.data.lines import NUMBER
from video_gn.data.rows import Rows
from video_gn.data.video_list import shown, whole_number
from video_gn.errors import InputError
from video_gn.files.text import read_text

log = logging.getLogger(__name__)
MOST_CLASSES = 100_000


def names_of(rows: Rows) -> list[str]:
    """Class names that the labels of a training list give: the names sorted, or the numbers from 0 to the largest.

    Up to as many numbers as are used may be missing: a part of a set may lack some of its classes.

    Raises:
        InputError: A label is neither a name nor a number of a class, or most of the numbers are missing.
    """
    _check_labels(rows)
    labels = rows.classes
    if not labels:
        raise InputError(f"{rows.source} names no class in any of its {len(rows)} rows; add labels")
    if not all(map(str.isdecimal, labels)):
        return sorted(labels)
    if rows.named:
        return sorted(labels, key=lambda label: (len(label.lstrip("0")), label.lstrip("0"), label))  # by number
    numbers = {label: whole_number(label, MOST_CLASSES - 1) for label in labels}
    used = {number for number in numbers.values() if number is not None}
    count = max(used, default=0) + 1
    large = {label for label, number in numbers.items() if number is None}
    if large or count > 2 * len(used):
        odd = large or {label for label, number in numbers.items() if number == count - 1}
        raise InputError(
            f"{rows.where(_first(rows, odd))}: its label is the number of a class, and of the numbers from 0 to it "
            f"only {len(used)} are used; number classes from 0 on without gaps (up to {MOST_CLASSES - 1}), or set "
            "data.class_names to the names of all classes"
        )
    return [str(i) for i in range(count)]


def numbers_of(rows: Rows, class_names: list[str], by_number: bool = True) -> list[int] | np.ndarray:
    """The class of each row, from 0; where a label names several, 0 and 1 for each class, uint8 `[rows, K]`.

    Args:
        rows: Of a list.
        class_names: In the order of their numbers.
        by_number: Whether a list of whole numbers may mean places in `class_names`, where these are words.

    Raises:
        InputError: A label is none of the classes; names the line.
    """
    number_of = {name: number for number, name in enumerate(class_names)}
    labels = rows.classes
    _check_labels(rows, number_of.keys())
    decimal = bool(labels) and all(map(str.isdecimal, labels))
    numeric = decimal and not rows.named
    own = decimal and all(str(number) == name for name, number in number_of.items())
    places = own or (numeric and by_number and not any(label in number_of for label in labels))
    if places:
        found = {label: whole_number(label, len(class_names) - 1) for label in labels}
    else:
        found = {label: number_of.get(label) for label in labels}
    if odd := {label for label, number in found.items() if number is None}:
        first = _first(rows, odd)
        name = next(name for name in rows.classes_of(first) if name in odd)
        hint = "; numbers mean classes only where data.class_names is given" if numeric and not places else ""
        raise InputError(
            f"{rows.where(first)}: label {shown(name)} is outside the {len(class_names)} classes "
            f"({', '.join(class_names[:3])}, ...){hint}; correct the list, or set data.class_names"
        )
    if places and not own:
        log.info("%s: its labels are numbers: 0 is %s, as data.class_names has it", rows.source, class_names[0])
    if not rows.several:
        return [found[label] for _, label in rows]  # type: ignore[misc]
    table = np.zeros((len(rows), len(class_names)), np.uint8)
    for row in range(len(rows)):
        for name in rows.classes_of(row):
            table[row, found[name]] = 1
    return table


def note_missing(rows: Rows, labels: Sequence[int] | np.ndarray, class_names: list[str]) -> None:
    """Notes the classes of which a list has no video."""
    found = pairs(np.asarray(labels))[1].tolist()
    missing = [class_names[number] for number in sorted(set(range(len(class_names))).difference(found))]
    if missing:
        rows.notes.append(
            f"{rows.called}: {len(missing)} of {len(class_names)} classes have no video in it: "
            f"{', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}"
        )


def _check_labels(rows: Rows, known: Iterable[str] = ()) -> None:
    """Refuses numbers that are none of a class: -1, 1.0, nan; unless a class is named so."""
    if rows.named:
        return
    labels = rows.classes.difference(known)
    if odd := {label for label in labels if not label.isdecimal() and NUMBER.fullmatch(label)}:
        first = _first(rows, odd)
        raise InputError(
            f"{rows.where(first)}: label {shown(rows[first][1])} is neither a class's name nor a whole number from 0 "
            "on; correct it (a label missing elsewhere makes pandas write 1.0 for 1), or remove the row"
        )


def _first(rows: Rows, labels: set[str]) -> int:
    return next(row for row in range(len(rows)) if not labels.isdisjoint(rows.classes_of(row)))


def read_class_names(given: Sequence[str] | str) -> list[str]:
    """Names out of a file with one a line, or as they are given.

    Raises:
        InputError: There is no such file, or it names nothing.
    """
    if not isinstance(given, str):
        return list(given)
    if not Path(given).is_file():
        raise InputError(f"there is no file {given} of class names (data.class_names)")
    names = [line.strip() for line in read_text(Path(given)).splitlines() if line.strip()]
    if not names:
        raise InputError(f"{given} names no classes (data.class_names)")
    return names


def check_case(names: Sequence[str]) -> None:
    """Raises InputError where the names of two classes that were found differ in upper and lower case only."""
    first: dict[str, str] = {}
    for name in names:
        if (other := first.setdefault(name.casefold(), name)) != name:
            raise InputError(
                f"the classes {other!r} and {name!r} differ in upper and lower case only; rename one, or name all "
                "classes in data.class_names"
            )


def check_class_names(names: list[str], several: bool = False) -> None:
    """Raises InputError for a name that is no text, that two classes have, or that no label of several can name."""
    if odd := [name for name in names if several and classes_in(name) != [name]]:
        raise InputError(
            f"data.class_names has {odd[0]!r}, which a label of several classes cannot name (data.multi_label, "
            f"where {SEPARATOR} separates them); rename that class"
        )
    if odd := [name for name in names if not is_text(name)]:
        raise InputError(f"data.class_names has {odd[0]!r}, which is no text in UTF-8; rename that class")
    repeated = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else None
    if repeated:
        raise InputError(f"data.class_names has {', '.join(sorted(repeated))} more than once; names have to differ")
