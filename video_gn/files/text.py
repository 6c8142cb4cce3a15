"""Text and JSON files."""

import codecs
import json
import math
from pathlib import Path
from typing import Any

from video_gn.errors import InputError
from video_gn.files.writing import replacing

ESCAPED = "surrogateescape"  # how names of files that are not UTF-8 are read and written: as they are
LARGEST_TEXT = 1 << 30  # bytes


def write_text(path: Path, text: str, flush: bool = True) -> None:
    """Writes a file in one go, over one that is there; `flush` as in `replacing`."""
    with replacing(path, flush) as part, open(part, "x", newline="", encoding="utf-8", errors=ESCAPED) as file:
        file.write(text)


def write_json(path: Path, content: Any, indent: int | None = 1, flush: bool = True) -> None:
    """Writes strict JSON, as `write_text`; numbers that are not finite become null."""
    write_text(path, to_json(content, indent) + "\n", flush)


def to_json(content: Any, indent: int | None = None) -> str:
    """Strict JSON, which has no token for numbers that are not finite: they become null."""
    return json.dumps(_finite(content), indent=indent, allow_nan=False)


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def read_text(path: Path, errors: str = "strict") -> str:
    """A text file in UTF-8, with or without a byte order mark, or in UTF-16 with one.

    Args:
        path: The file.
        errors: What becomes of bytes that are not UTF-8, as in `bytes.decode`.

    Raises:
        InputError: It is in another encoding, or holds NUL bytes; names the line.
    """
    try:
        if path.stat().st_size > LARGEST_TEXT:
            raise InputError(f"{path} is larger than {LARGEST_TEXT >> 30} GiB, which no text file of ours is")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and not data.startswith(codecs.BOM_UTF32_LE):
        try:
            data = data.decode("utf-16").encode()  # as Excel and PowerShell write text
        except UnicodeError as error:
            raise InputError(f"{path} begins as UTF-16 and is damaged ({error}); save it as UTF-8 text") from None
    at = data.find(b"\0")
    try:
        text = data.decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        at = min(error.start, at) if at >= 0 else error.start
    if at >= 0:
        what = "a NUL byte" if data[at] == 0 else f"byte {data[at]:#04x}, which is not UTF-8"
        line = 1 + data.count(b"\n", 0, at)
        raise InputError(f"{path}, line {line}: {what}; save the file as UTF-8 text")
    return text
