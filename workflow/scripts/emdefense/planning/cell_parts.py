"""The jobs behind each cell: what its adapter, its responses, their judgments and its answers are made by."""

from collections.abc import Iterable

from emdefense.cells import Cell, Grid, Layout
from emdefense.planning.job import Job

PREPARING = ("features", "changing")  # what an adapter is made from and other adapters too


def cells_of(grid: Grid) -> list[Cell]:
    """Return the cells of the grid, and those that are trained only for others to be made from."""
    return list(dict.fromkeys([*grid.cells, *grid.trained]))


def jobs_of(grid: Grid, jobs: Iterable[Job]) -> dict[Cell, dict[str, list[Job]]]:
    """Return the jobs behind each cell's parts: ``adapter``, ``responses``, both judgments, and ``answers``.

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
            read = [makers[path] for path in adapter.inputs if path in makers]
            found[cell]["adapter"] = [*(job for job in read if job.stage in PREPARING), adapter]
    for cell in grid.benign:
        add(cell, "answers", layout.answers(cell))
    for measurement in grid.measurements:
        cell, source, question_set = measurement.cell, measurement.source, measurement.question_set
        add(cell, "responses", layout.responses(source, question_set))
        for judge in grid.study.judges:
            add(cell, f"judged_{question_set}", layout.judgments(source, question_set, judge))
    return found
