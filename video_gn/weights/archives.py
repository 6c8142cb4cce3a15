"""A look through pickles and archives of them, before something reads them.

The readers, torch's and Python's, run no code; but a file may have them fill the memory or the stack, or take no end.
"""

import os
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Collection
from typing import IO, Any

DEEPEST = 100  # values in each other
MOST_VALUES = 10_000_000  # in each other, those that are shared counted each time: so often a hash looks at them
FILLING = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD")  # operations on the value below the others
CALLING = ("REDUCE", "NEWOBJ", "NEWOBJ_EX", "OBJ", "INST")
LEGACY = 5  # pickles at the beginning of a file that torch wrote before it wrote archives
ARCHIVE = b"PK\x03\x04"  # begins a file that torch takes for an archive
ENCODE = "_codecs encode"
FROM_TYPE = "torch._tensor _rebuild_from_type_v2"  # calls the first of its arguments
# What a file of tensors calls. Torch admits more, also what takes memory without numbers in the file (TypedStorage).
CALLED = {
    *("collections OrderedDict", "collections Counter", "torch Size", "torch device", ENCODE, FROM_TYPE),
    *(f"{builtins} {name}" for builtins in ("builtins", "__builtin__") for name in ("set", "complex")),
    "torch.serialization _get_layout",
    *(
        f"torch._utils _rebuild_{name}"
        for name in (
            *("tensor", "tensor_v2", "tensor_v3", "parameter", "parameter_with_state"),
            *("sparse_tensor", "qtensor", "meta_tensor_no_storage"),
        )
    ),
}
# Plain values of Python's library and numpy, of which training scripts keep some beside the weights. Nothing of them is
# called or made: something inert takes their place.
INERT = {
    *("argparse Namespace", "types SimpleNamespace", "uuid UUID"),
    *(f"pathlib {system}{kind}" for system in ("", "Posix", "Windows") for kind in ("Path",)),
    *("pathlib PurePosixPath", "pathlib PureWindowsPath", "pathlib._local PosixPath", "pathlib._local WindowsPath"),
    *(f"datetime {kind}" for kind in ("datetime", "date", "time", "timedelta", "timezone")),
    *(f"numpy{core}.multiarray {name}" for core in (".core", "._core") for name in ("scalar", "_reconstruct")),
    *("numpy ndarray", "numpy dtype", "builtins list", "builtins dict", "builtins int", "builtins float"),
}  # fmt: skip
DICTIONARIES = {  # the same, of which a plain one takes the place
    "collections defaultdict", "pytorch_lightning.utilities.parsing AttributeDict",
    "lightning.fabric.utilities.data AttributeDict", "lightning_fabric.utilities.data AttributeDict",
}  # fmt: skip
BUILT = ("() collections OrderedDict", "() torch._utils _rebuild_parameter")  # what a file sets attributes of


def look_through(path: str) -> None:
    """Refuses what would take the stack or the memory of who reads it, before torch does."""
    with open(path, "rb") as file:
        archived = file.read(len(ARCHIVE)) == ARCHIVE
        file.seek(0)
        if not archived:
            for _ in range(LEGACY):
                check_pickle(file, CALLED)
            return
        _check_directory(file)
        with zipfile.ZipFile(file) as archive:
            names = [entry.filename.casefold() for entry in archive.infolist()]  # torch finds them so
            if len(set(names)) < len(names):
                raise pickle.UnpicklingError("an archive with a name twice")
            for entry, name in zip(archive.infolist(), names, strict=True):
                if entry.compress_type != zipfile.ZIP_STORED:  # torch writes none, and would map the bytes as they are
                    raise pickle.UnpicklingError("a compressed archive")
                if name.endswith(".pkl"):
                    with archive.open(entry) as pickled:
                        check_pickle(pickled, CALLED)


def wrong_sum(path: str) -> str | None:
    """The first part of an archive whose bytes are not those that were written, if any; torch does not look."""
    with zipfile.ZipFile(path) as archive:
        return archive.testzip()


def _check_directory(file: IO[bytes]) -> None:
    """Raises UnpicklingError where an archive has not one directory, right before its end.

    There zipfile and torch both look for it. Otherwise they may find two, and what the one has seen is not what the
    other reads.
    """
    end, wide_end, locator = (struct.Struct(f"<{parts}") for parts in ("4s4H2LH", "4sQ2H2L4Q", "4sLQL"))
    at = file.seek(-end.size, os.SEEK_END)
    signature, *_, size, start, comment = end.unpack(file.read(end.size))
    sound = signature == b"PK\5\6" and not comment
    before = at - locator.size - wide_end.size
    if before >= 0:
        file.seek(before)
        wide = wide_end.unpack(file.read(wide_end.size))
        name, _, where, _ = locator.unpack(file.read(locator.size))
        if name == b"PK\6\7":
            sound = sound and wide[0] == b"PK\6\6" and where == before
            at, size, start = before, wide[-2], wide[-1]
    if not sound or start + size != at:
        raise pickle.UnpicklingError("an archive whose directory is not at its end")


class _Part:
    """What is known of a value before it is made: how deep and how many values are in it, and what it says.

    Attributes:
        text: Of a string, or of a name of something to call; of each value of a small tuple; of what was called.
    """

    __slots__ = ("count", "depth", "text")

    def __init__(self, text: Any = None, depth: int = 0, count: int = 1) -> None:
        self.text, self.depth, self.count = text, depth, count


def check_pickle(file: IO[bytes], called: Collection[str] | None = None) -> None:
    """Raises UnpicklingError for the next pickle of a file if to make its values would take the stack or no end.

    Their hash and their text are made by recursion in C, which goes through a shared value each time. The pickle is
    gone through by what each of its operations takes from the stack and puts there.

    Args:
        file: At the beginning of the pickle.
        called: What it may call; None where its reader sees to that.
    """
    stack: list[_Part] = []
    marks: list[int] = []
    memo: dict[Any, _Part] = {}
    looked_at = 0
    for operation, argument, _ in pickletools.genops(file):
        name, taken, given = operation.name, operation.stack_before, operation.stack_after
        floor = marks[-1] if marks else 0
        if name == "MARK":
            marks.append(len(stack))
            continue
        if name == "POP" and marks and floor == len(stack):  # it takes the mark
            marks.pop()
            continue
        if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "DUP"):
            if len(stack) <= floor:
                raise pickle.UnpicklingError("an empty stack")
            if name == "DUP":
                stack.append(stack[-1])
            else:
                memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
            continue
        if name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
            continue
        if pickletools.markobject in taken:
            first = marks.pop() - taken.index(pickletools.markobject)
            floor = marks[-1] if marks else 0
        else:
            first = len(stack) - len(taken)
        if first < floor:
            raise pickle.UnpicklingError("an empty stack")
        inside = stack[first:]
        del stack[first:]
        if called is not None:
            _check_call(name, argument, inside, called)
        part = inside.pop(0) if name in FILLING and inside else _Part(_text(name, argument, inside))
        part.depth = max([part.depth, *(value.depth + 1 for value in inside)])
        count = sum(value.count for value in inside)
        part.count += count
        looked_at += count
        if part.depth > DEEPEST or part.count > MOST_VALUES or looked_at > 10 * MOST_VALUES:
            raise pickle.UnpicklingError("values too deep in each other, or without end")
        stack += [part] * len([slot for slot in given if slot is not pickletools.markobject])


def _text(name: str, argument: Any, inside: list[_Part]) -> Any:
    if name.startswith("TUPLE"):
        return tuple(part.text for part in inside) if len(inside) < 8 else None
    if name in ("REDUCE", "NEWOBJ"):
        return f"() {inside[0].text}"
    return argument if isinstance(argument, str | bytes) and len(argument) < 100 else None


def _check_call(name: str, argument: Any, inside: list[_Part], called: Collection[str]) -> None:
    """Raises UnpicklingError where an operation of a pickle calls what no file of tensors does."""
    if name in ("PERSID", "BINPERSID"):  # a tensor's numbers; the other kind of it looks for source code
        kind = inside[0].text if inside else None
        if not isinstance(kind, tuple) or kind[:1] not in (("storage",), (b"storage",)):
            raise pickle.UnpicklingError("a reference to something else than numbers")
    if name == "BUILD" and inside[0].text not in BUILT and str(inside[0].text).removeprefix("() ") not in INERT:
        raise pickle.UnpicklingError("attributes of what has none")
    if name not in CALLING:
        return
    function, given = (part.text for part in inside[:2]) if name in ("REDUCE", "NEWOBJ") else (argument, None)
    if name in ("REDUCE", "NEWOBJ") and function in INERT | DICTIONARIES:
        return
    if not isinstance(function, str) or function not in called or name != "REDUCE":
        raise pickle.UnpicklingError(f"Unsupported call of {function}")
    if function == ENCODE and not (isinstance(given, tuple) and len(given) == 2 and given[1] in ("latin1", b"latin1")):
        raise pickle.UnpicklingError("a codec other than latin1")  # punycode's takes no end
    first = given[0] if isinstance(given, tuple) and given else None
    if function == FROM_TYPE and not (isinstance(first, str) and first in called and first.startswith("torch._utils ")):
        raise pickle.UnpicklingError(f"Unsupported call of {first}")
