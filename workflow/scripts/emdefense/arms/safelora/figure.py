"""The figure of SafeLoRA's cosines: block by block, a line per kind of matrix, a panel per task."""

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from emdefense.analysis.conditions import chosen_setting
from emdefense.arms.safelora.cosines import Projection, kinds, read_projections
from emdefense.cells import Cell
from emdefense.config import Study
from emdefense.errors import InputError
from emdefense.report.figures.style import COLUMN, PAGE, legend_above, line_styles

COLUMNS = 3


def draw_cosines(study: Study, preparations: Mapping[Cell, Path], model: str) -> Figure:
    """Return the figure of a model's projections; :class:`InputError` if nothing was projected.

    A horizontal line stands at each τ of the task, bolder at the chosen one.
    """
    projections = [projection for projection in read_projections(study, preparations) if projection.cell.model == model]
    if not projections:
        raise InputError(f"study '{study.study}': no adapter has been projected, so there are no cosines to draw")
    tasks: dict[str, list[Projection]] = {}
    arm = projections[0].cell.arm  # a variant's cosines are the same
    for projection in projections:
        if projection.cell.arm == arm:
            tasks.setdefault(projection.cell.task, []).append(projection)
    columns = min(len(tasks), COLUMNS)
    rows = -(-len(tasks) // columns)
    figure = Figure(figsize=(COLUMN if columns == 1 else PAGE * columns / COLUMNS, 0.5 + 1.7 * rows))
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, (task, group) in zip(grid.flat, tasks.items(), strict=False):
        _draw_task(axes, group, study)
        axes.set_title(study.tasks[task].title)
    for axes in grid.flat[len(tasks) :]:
        axes.remove()
    for place, axes in enumerate(grid.flat[: len(tasks)]):
        axes.set_ylim(bottom=0)
        if place % columns == 0:
            axes.set_ylabel("cosine")
        if place + columns >= len(tasks):  # nothing stands below it
            axes.set_xlabel("block")
            axes.tick_params(labelbottom=True)
    handles, names = grid[0, 0].get_legend_handles_labels()
    legend_above(figure, handles, names)
    return figure


def _draw_task(axes: Axes, group: list[Projection], study: Study) -> None:
    found = kinds(group, study)
    for kind, style in zip(found, line_styles(len(found)), strict=True):
        cosines: dict[int, list[float]] = {}
        for projection in group:
            for matrix in projection.matrices:
                if matrix.kind == kind and matrix.block is not None:
                    cosines.setdefault(matrix.block, []).append(matrix.cosine)
        axes.plot(
            list(cosines),
            [fmean(values) for values in cosines.values()],
            label=kind,
            linewidth=0.9,
            **style.marked(2.8),
        )
    for tau in group[0].taus:
        is_chosen = tau == chosen_setting(study, group[0].cell.arm)
        axes.axhline(float(tau), color="0.45", linewidth=1.1 if is_chosen else 0.5, zorder=2)
        axes.annotate(
            f"τ {tau}", (1, float(tau)), (2, 0), ("axes fraction", "data"), "offset points", fontsize=6, va="center"
        )
    axes.grid(visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
