"""How long cells train: for equally many epochs, or for equally many steps of the optimiser.

These are different questions. In equal epochs a cell with 1 clip a step takes eight times the steps of one with 8, at
an eighth of the learning rate. In equal steps it sees an eighth of the clips. `trainer.max_epochs` is that of the cells
with the most clips a step; the others then train for as many steps as those, in fewer epochs.
"""

import math
from collections.abc import Callable
from dataclasses import replace

from video_gn.ablate.grid import Cell, Grid, Overlay
from video_gn.errors import InputError

AXIS = "budget"
EPOCHS, STEPS, BOTH = "epochs", "steps", "both"
BUDGETS = (EPOCHS, STEPS, BOTH)
KEY, CHECKED = "trainer.max_epochs", "trainer.check_val_every_n_epoch"


def with_budget(grid: Grid, length_of: Callable[[Cell], tuple[int, int, int]]) -> Grid:
    """A grid whose cells train as long as its budget says; with `both`, of which a new axis has both.

    Cells that train equally long in both are one run with two places in the tables.

    Args:
        grid: As it was read.
        length_of: Epochs, clips per step, and epochs from one validation to the next of a cell, by its settings.

    Raises:
        InputError: A number of epochs would not be whole, or the command line sets it.
    """
    if grid.budget == EPOCHS:
        return grid
    if any(word.partition("=")[0] == f"--{KEY}" for word in grid.extra):
        raise InputError(f"the grid has budget: {grid.budget}, which decides {KEY} of each cell; set it in the grid")
    lengths = {cell.name: length_of(cell) for cell in grid.cells}
    if any(epochs is None for epochs, *_ in lengths.values()):
        raise InputError(f"the grid has budget: {grid.budget}, and {KEY} is not set; set it")
    most = max(clips for _, clips, _ in lengths.values())
    shorter = {cell.name: _shortened(grid, cell, *lengths[cell.name], most) for cell in grid.cells}
    if grid.budget == STEPS:
        return replace(grid, cells=tuple(shorter.values()))
    in_epochs = [replace(cell, values={**cell.values, AXIS: EPOCHS}) for cell in grid.cells]
    in_steps = [
        replace(own, values={**cell.values, AXIS: STEPS}, original=first if own.args == cell.args else None)
        for first, cell, own in zip(in_epochs, grid.cells, shorter.values(), strict=True)
    ]
    changes = {**grid.overlays, AXIS: (Overlay(), Overlay())}
    found = replace(grid, axes={**grid.axes, AXIS: (EPOCHS, STEPS)}, cells=(*in_epochs, *in_steps), overlays=changes)
    _check_rates(found)
    return found


def _check_rates(grid: Grid) -> None:
    """Raises InputError where cells that take one value of what is tuned hold one whose runs have another's."""
    if grid.tune is None:
        return
    of_group: dict[tuple[str, ...], set[bool]] = {}
    for cell in grid.cells:
        group = tuple(value for axis, value in cell.values.items() if axis not in grid.tune.at)
        of_group.setdefault(group, set()).add(cell.original is None)
    if any(len(kinds) > 1 for kinds in of_group.values()):
        raise InputError(
            f"budget: {BOTH} trains what is equal in both once, and tune.at would have it at two values of "
            f"{grid.tune.key}; leave out tune.at, or make a grid of each budget"
        )


def _shortened(grid: Grid, cell: Cell, epochs: int, clips: int, checked: int, most: int) -> Cell:
    """A cell that takes as many steps in its epochs as one of `most` clips a step would in these."""
    if clips == most:
        return cell
    count, left = divmod(epochs * clips, most)
    if left or not count:
        raise InputError(
            f"budget: {grid.budget} gives {cell.name} {epochs * clips / most:g} of {epochs} epochs ({clips} of {most} "
            f"clips per step), and epochs are whole; set {KEY} to a multiple of {most // math.gcd(clips, most)}"
        )
    words = [f"--{KEY}", str(count), *([f"--{CHECKED}", "1"] if count % checked else [])]
    return cell.with_words(words, grid.extra)
