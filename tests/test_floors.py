"""How the package is laid out: imports point down by folders, and never round in circles; what belongs where.

A new file needs no entry here: its folder has one.
"""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "video_gn"
FLOORS = [
    {"errors"},
    {"files", "processes", "distributed", "batch", "extras", "compat"},
    {"console"},
    {"rules"},
    {"kernels"},
    {"models"},
    {"weights", "data"},  # neither imports the other: they meet in `train` and `predict` alone
    {"train"},
    {"predict"},
    {"export", "ablate"},
    {"__main__"},
]
FLOOR = {name: height for height, names in enumerate(FLOORS) for name in names}
LONGEST = 300  # lines

FILES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "__init__.py"
}


def imported(path):
    """Every module that a file imports, wherever in it; those of this package without its name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = f"{node.module}.".removeprefix("video_gn.")
            for alias in node.names:
                yield name if (name := f"{module}{alias.name}") in FILES else module.rstrip(".")


ARROWS = {name: [other for other in imported(path) if other in FILES] for name, path in FILES.items()}


@pytest.mark.parametrize("name", FILES)
def test_arrows_point_down(name):
    room = name.partition(".")[0]
    assert room in FLOOR, f"give {room} a floor here"
    for other in ARROWS[name]:
        below = other.partition(".")[0]
        assert below == room or FLOOR[below] < FLOOR[room], f"{name} imports {other}"


def test_no_imports_go_round():
    list(TopologicalSorter(ARROWS).static_order())


def test_the_root_holds_few_files():
    """What three folders or more use; a tenth needs a folder."""
    root = [path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("__")]
    assert len(root) <= 9


def users(*packages):
    names = {name for name, path in FILES.items() if any(module.split(".")[0] in packages for module in imported(path))}
    return {name.replace(".", "/") for name in names}


def test_what_belongs_where():
    assert users("decord") == {"data/decoding/decord_reader"}
    lightning = users("pytorch_lightning", "lightning_fabric", "torchmetrics")
    assert {name for name in lightning if not name.startswith("train/")} == {"data/datamodule"}
    commands = {
        name
        for name in users("argparse", "jsonargparse")
        if name.rpartition("/")[2] not in ("__main__", "cli", "commands", "compat", "help")
    }
    assert all(name.startswith("data/tools/") for name in commands)
    models = [other for name in FILES if name.startswith("models.") for other in ARROWS[name]]
    assert not any(other.startswith("files") for other in models)


@pytest.mark.parametrize("name", FILES)
def test_files_are_short(name):
    lines = len(FILES[name].read_text().splitlines())
    assert lines <= LONGEST, f"{lines} lines; split it by its subjects"


def private(tree):
    """Names with an underscore that are not the file's own; overridden methods of a class above are."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr not in ("_asdict", "_replace", "_fields"):
            if ast.unparse(node.value) not in ("self", "cls", "super()"):
                yield node.attr
        elif isinstance(node, ast.ImportFrom):
            yield from (node.module or "").split(".")
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (part for alias in node.names for part in alias.name.split("."))


@pytest.mark.parametrize("name", [name for name in FILES if name not in ("compat", "train.compat")])
def test_what_is_private_elsewhere_is_used_in_compat_alone(name):
    names = private(ast.parse(FILES[name].read_text()))
    assert not [one for one in names if one.startswith("_") and not one.startswith("__")]
