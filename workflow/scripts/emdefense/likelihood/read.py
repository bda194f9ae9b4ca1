"""Which cells' models read the held-out answers of their task."""

from emdefense.arms import NO_SETTING, UNTRAINED
from emdefense.cells import Cell, Grid
from emdefense.config.chosen import may_be_chosen

SIDES = ("misaligned", "aligned", "safe")
"""Whose answers are read, in the order of tables."""


def untrained(grid: Grid, cell: Cell) -> Cell:
    """Return the cell of a task's model as it is, whether or not the grid has it."""
    return Cell(cell.model, cell.task, UNTRAINED, NO_SETTING, grid.study.seeds[0])


def reading(grid: Grid) -> list[Cell]:
    """Return every cell whose model reads held-out answers, each once, the model as it is before what is trained."""
    section = grid.study.likelihood
    found: dict[Cell, None] = {}
    if section is None:
        return []
    for cell in grid.cells:
        if grid.is_benign(cell) or (section.models is not None and cell.model not in section.models):
            continue
        if section.tasks is not None and cell.task not in section.tasks:
            continue
        found[untrained(grid, cell)] = None
        chosen = section.settings == "all" or may_be_chosen(grid.study, cell.arm, cell.setting)
        if grid.arm(cell).is_trained and chosen:
            found[cell] = None
    return list(found)


def read_tasks(grid: Grid) -> list[str]:
    """Return the tasks whose held-out answers are read, each once."""
    return list(dict.fromkeys(cell.task for cell in reading(grid)))
