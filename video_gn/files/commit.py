"""Which state of the source code is running."""

import os
import subprocess
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
PATIENCE = 5.0  # seconds


@cache
def source_commit(package: Path = PACKAGE) -> str | None:
    """The git commit of the clone that the package is in, with `-dirty` where files differ from it.

    None for an installed package, and where git is missing or refuses: a figure is never lost for it.
    """
    clone = package.parent
    if not (clone / ".git").exists():  # not that of a project whose environment the package is installed in
        return None
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # of another clone
    command = ["git", "-C", str(clone), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True, env=environment)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return found.stdout.strip() or None
