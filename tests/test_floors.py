"""An import never points up, and the model's and the data's halves never import each other.

They meet in `train.py`, and in `predict`, which needs no trainer.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = [
    {"errors"},
    {"files", "pool", "archives"},
    {"messages", "pickles", "configs", "saving", "containers"},
    {"rules"},
    {"kernels.dispatch", "sampling", "lists", "libav", "predictions"},
    {"kernels.norm_kernels"},
    {"kernels.launch", "kernels.max_pool"},
    {"kernels.ops"},
    {"norm"},
    {"resnet3d", "images", "transforms", "motion", "reencode"},
    {"stored"},
    {"weights"},
    {"inflate", "decode", "hub"},
    {"views", "checkpoint", "position"},
    {"loader", "resume"},
    {"classifier", "kinetics", "report", "statistics", "picture"},
    {"stops", "trained"},
    {"card", "predict"},
    {"export"},
    # Above train.py, which it runs.
    {"ablate.grid", "ablate.page"},
    {"ablate.plan"},
    {"ablate.local", "ablate.measured"},
    {"ablate.cluster", "ablate.plots"},
    {"ablate.report"},
    {"ablate.__main__"},
]
MODEL, DATA = (
    {
        "kernels.dispatch",
        "kernels.norm_kernels",
        "kernels.launch",
        "kernels.max_pool",
        "kernels.ops",
        "norm",
        "resnet3d",
        "archives",
        "pickles",
        "weights",
        "inflate",
        "hub",
        "classifier",
        "statistics",
        "trained",
        "export",
    },
    {
        "sampling",
        "lists",
        "containers",
        "libav",
        "images",
        "decode",
        "motion",
        "reencode",
        "views",
        "loader",
        "kinetics",
    },
)
FLOOR = {name: height for height, names in enumerate(FLOORS) for name in names}


MODULES = {
    ".".join(path.relative_to(ROOT / "video_gn").with_suffix("").parts): path
    for path in sorted((ROOT / "video_gn").rglob("*.py"))
    if path.name != "__init__.py"
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module in ("video_gn", "video_gn.ablate", "video_gn.kernels"):
            yield from (f"{node.module}.{alias.name}".removeprefix("video_gn.") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("video_gn."):
            yield node.module.removeprefix("video_gn.")


@pytest.mark.parametrize("name", MODULES)
def test_arrows_point_down(name):
    assert name in FLOOR, f"give {name} a floor here"
    for other in imports(MODULES[name]):
        assert FLOOR[other] < FLOOR[name], f"{name} imports {other}"
        assert not (name in MODEL and other in DATA) and not (name in DATA and other in MODEL), f"{name}, {other}"


def test_only_decode_imports_decord():
    users = [
        path.stem
        for path in (ROOT / "video_gn").glob("*.py")
        if any("decord" in ast.unparse(n) for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Import))
    ]
    assert users == ["decode"]
