"""The errors that a user can cause. `train.py` prints them as one line; everything else keeps its traceback."""


class InputError(ValueError):
    """A setting, a file or a list that cannot be used: the message names the value, the rule and the remedy."""


class DecodeError(Exception):
    """A video that cannot be decoded.

    Attributes:
        path: The file.
        reason: Why, in one line.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)  # both in args, so that it pickles out of a loader's worker
        self.path, self.reason = str(path), reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"
