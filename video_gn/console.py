"""What a run says on the terminal: its own messages, errors as one line, and none of the libraries' noise."""

import difflib
import io
import logging
import re
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

from video_gn.distributed import first_process
from video_gn.errors import InputError
from video_gn.files.writing import UNWRITABLE, unwritable

LONGEST = 2000  # characters of an error message
TERMINAL, IN_A_FILE = 0.1, 30.0  # seconds from one drawing of a bar to the next
ELSEWHERE = "to the command's folder, TMPDIR or a logger's folder"  # where a failed write does not say which file


def printable(text: str) -> str:
    """Text for a terminal: what is not printable (control characters, newlines, lone surrogates) as a backslash escape.

    Names out of files and of files may hold anything; a raw one could move the cursor, or fail to be written.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def as_markdown(text: str) -> str:
    """Text as Markdown that reads as that text: no heading, link, picture, tag, cell or line of it is one.

    What has no meaning where it is, as the underscore of `slow_up`, stays as it is.
    """
    text = re.sub(r"&(?=#|\w+;)", "&amp;", printable(text.strip())).replace("<", "&lt;")
    text = re.sub(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", text)
    text = text.replace("@", "<span>@</span>")  # addresses and mentions are links otherwise, escaped or not
    text = re.sub(r":(?=//)", r"\:", re.sub(r"(?i)\bwww(?=\.)", r"\g<0>\\", text))
    return re.sub(r"^(?:#|>|[-+=]+(?=\s|$)|\d+(?=[.)](?:\s|$)))", _escaped, text)


def _escaped(found: re.Match[str]) -> str:
    return f"{found[0]}\\" if found[0][0].isdigit() else f"\\{found[0]}"


def as_code(text: str) -> str:
    """Text as a span of code in Markdown, where nothing but the backtick has a meaning."""
    return "`" + printable(text).replace("`", "'") + "`"


def is_text(name: str) -> bool:
    """Whether a name has something in it and can be written as UTF-8; those of folders may be any bytes."""
    return name.strip() != "" and not any("\ud800" <= c <= "\udfff" for c in name)


def shortened(text: str) -> str:
    """A message of bounded length: names out of files can have millions of characters."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} [...] {text[-LONGEST // 2 :]}"


def one_line(message: str, keys: list[str]) -> str:
    """An error's message as one line, with those of the known keys that a mistyped one may have meant."""
    if re.match(r"Caught \w+ in DataLoader worker", message):  # with its whole traceback; the last line is the message
        return shortened(message.strip().splitlines()[-1].removeprefix("video_gn.errors.InputError: "))
    message = shortened(message)
    line = re.sub(r"Does not validate .*?Subtypes: (.*) Errors: .* Given value: ", r"Expected one of \1. Got value: ",
                  " ".join(message.split()))  # fmt: skip
    if match := re.search(
        r"(?:unrecognized arguments: --|[Kk]ey \"?)(?:fit\.|test\.|validate\.|predict\.)?([\w.]+)", line
    ):
        close = difflib.get_close_matches(match[1], keys, n=2, cutoff=0.8) if match[1] not in keys else []
        line += f" (did you mean {' or '.join(close)}?)" if close else ""
    return line


def exit_code(
    job: Callable[[], int | None],
    stopped: str,
    slips: tuple[type[Exception], ...] = (InputError,),
    explain: Callable[[Exception], str] = str,
) -> int:
    """Does a command's job, and gives its exit code.

    Args:
        job: Gives its exit code, or None for 0.
        stopped: What to say if Ctrl-C ends it.
        slips: What the user can correct, which is said in one line.
        explain: Gives that line.

    Returns:
        That of the job; 2 for a slip, and for a file that cannot be written; 130 for Ctrl-C, or 128 + the `number` of
        another signal that raised a KeyboardInterrupt.
    """
    set_up_streams()
    try:
        return job() or 0
    except slips as error:
        said, code = f"error: {printable(shortened(explain(error)))}", 2
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        said, code = f"error: {unwritable(error.filename or ELSEWHERE, error)}", 2
    except KeyboardInterrupt as stop:
        said, code = stopped, 128 + getattr(stop, "number", signal.SIGINT)
    if first_process():
        print(said, file=sys.stderr)
    return code


def progress(*args: Any, **kwargs: Any) -> tqdm:
    """tqdm's bar, which draws itself ten times a second on a terminal, and twice a minute into a file."""
    stream: Any = kwargs.setdefault("file", sys.stderr)
    return tqdm(*args, **{"mininterval": TERMINAL if stream.isatty() else IN_A_FILE} | kwargs)


def set_up_streams() -> None:
    """What a terminal or a file in another encoding cannot show is escaped, instead of ending the program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class _Handler(logging.Handler):
    """Writes above the progress bar: everything of the first process, warnings of the others."""

    def emit(self, record: logging.LogRecord) -> None:
        if first_process() or record.levelno >= logging.WARNING:
            tqdm.write(printable(record.getMessage()), file=sys.stderr)


def _no_tip(record: logging.LogRecord) -> bool:
    return "Tip:" not in record.getMessage()


def set_up_messages() -> None:
    """Our messages are shown; of the libraries' warnings, not those that a user can do nothing about."""
    set_up_streams()
    logger = logging.getLogger("video_gn")
    logger.setLevel(logging.INFO)
    logger.handlers = [_Handler()]
    logger.propagate = False
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(_no_tip)
    for noise in (
        "LightningCLI's args parameter",
        "The '.*dataloader' does not have many workers",
        "Checkpoint directory .* exists and is not empty",
        "`isinstance\\(treespec, LeafSpec\\)` is deprecated",
        "The number of training batches",
        "The dirpath has changed",  # a run's folder may be moved
        "Be aware that when using `ckpt_path`, callbacks",
        "You're using the WeightAveraging callback with a model that overrides",
        "Found .* module\\(s\\) in eval mode at the start of training",  # frozen stages
        "It is recommended to use `self.log\\('train/",  # a mean over all processes already
    ):
        warnings.filterwarnings("ignore", noise)
