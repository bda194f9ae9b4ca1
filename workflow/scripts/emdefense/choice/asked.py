"""Which cells are asked which sets of multiple-choice questions."""

from emdefense.arms import format_setting
from emdefense.cells import Cell, Grid
from emdefense.config.chosen import may_be_chosen
from emdefense.config.study import Study

Asked = tuple[Cell, str]
"""A cell and the name of a set."""


def asked(grid: Grid) -> list[Asked]:
    """Return every cell with every set that it is asked, each once.

    The model as it is answers the same whatever its cells are trained on: each model is asked once, as a cell of no
    task, whether or not the grid has its untrained cells.
    """
    found: dict[Asked, None] = {}
    for name, section in grid.study.multiple_choice.items():
        for cell in grid.cells:
            if section.models is not None and cell.model not in section.models:
                continue
            if section.tasks is not None and cell.task not in section.tasks:
                continue
            found[grid.untrained(cell.model), name] = None
            if grid.arm(cell).is_trained and (section.settings == "all" or is_chosen(grid.study, cell)):
                found[cell, name] = None
    return list(found)


def asked_sets(grid: Grid, model: str) -> list[str]:
    """Return the names of the sets that a model is asked, with an adapter or without."""
    return list(dict.fromkeys(name for cell, name in asked(grid) if cell.model == model))


def is_chosen(study: Study, cell: Cell) -> bool:
    """Whether a cell has its arm's chosen setting, or its arm has none, or the data are still to choose one."""
    benign = study.report.chosen_benign.get(cell.arm)
    if study.tasks[cell.task].kind == "benign" and benign is not None:
        return cell.setting in map(format_setting, benign)
    return may_be_chosen(study, cell.arm, cell.setting)
