"""The jobs behind each cell: what its adapter, its responses, their judgments and its answers are made by."""

from collections.abc import Iterable, Mapping

from emdefense.cells import Cell, Grid
from emdefense.choice.asked import asked
from emdefense.layout import Layout
from emdefense.likelihood.read import reading, untrained
from emdefense.planning.job import Job

ROWS = "cell_rows"
PREPARING = ("features", "losses", "changing")  # what an adapter is made from and other adapters too


def cells_of(grid: Grid) -> list[Cell]:
    """Return the cells of the grid, and those that are trained only for others to be made from."""
    return list(dict.fromkeys([*grid.cells, *grid.trained]))


def jobs_of(grid: Grid, jobs: Iterable[Job]) -> dict[Cell, dict[str, list[Job]]]:
    """Return the jobs behind each cell's parts: ``adapter``, ``responses``, both judgments, ``answers`` and so on.

    What several cells share (an untrained model's general responses, a projection, cached features) stands at each.
    """
    layout, makers = Layout(grid.study), {output: job for job in jobs for output in job.outputs}
    found: dict[Cell, dict[str, list[Job]]] = {cell: {} for cell in cells_of(grid)}

    def add(cell: Cell, part: str, output: str) -> None:
        behind = found[cell].setdefault(part, [])
        if makers[output] not in behind:
            behind.append(makers[output])

    for cell in found:
        if adapter := makers.get(layout.adapter(cell)):
            found[cell]["adapter"] = [*_before(adapter, makers), adapter]
    for cell in grid.benign:
        add(cell, "answers", layout.answers(cell))
    sets: dict[Cell, list[str]] = {}
    for cell, name in asked(grid):
        sets.setdefault(cell, []).append(name)
    for cell in found:
        source = cell if grid.arm(cell).is_trained else grid.untrained(cell.model)
        for name in sets.get(source, ()):
            add(cell, "choices", layout.choices(source, name))
    read = set(reading(grid))
    for cell in found:
        source = cell if grid.arm(cell).is_trained else untrained(grid, cell)
        if source in read:
            add(cell, "held_out", layout.held_out(source))
    for measurement in grid.measurements:
        cell, source, question_set = measurement.cell, measurement.source, measurement.question_set
        add(cell, "responses", layout.responses(source, question_set))
        for judge in grid.study.judges:
            add(cell, f"judged_{question_set}", layout.judgments(source, question_set, judge))
    return found


def _before(job: Job, makers: Mapping[str, Job]) -> list[Job]:
    """Return what is made for a job from a model, each once, what is made first before the others."""
    found: list[Job] = []
    for path in job.inputs:
        made = makers.get(path)
        if made is not None and (made.stage in PREPARING or made.rule == ROWS):
            found += [one for one in [*_before(made, makers), made] if one not in found]
    return found
