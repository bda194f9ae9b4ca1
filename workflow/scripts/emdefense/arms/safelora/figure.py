"""The figure of SafeLoRA's cosines: block by block, a line a kind of matrix, a panel a task."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from emdefense.analysis.conditions import chosen_setting
from emdefense.arms.safelora.cosines import Projection, kinds
from emdefense.config import Study
from emdefense.errors import InputError
from emdefense.report.style import COLUMN, PAGE, legend_above, line_styles, save, styled

NAME = "safelora_cosines"
COLUMNS = 3


def write_cosines(study: Study, projections: Sequence[Projection], folder: Path) -> None:
    """Write ``safelora_cosines`` as PDF, SVG and PNG; :class:`InputError` if nothing was projected."""
    if not projections:
        raise InputError(f"study '{study.study}': no adapter has been projected, so there are no cosines to draw")
    with styled():
        save(draw_cosines(study, projections), folder / NAME)


def caption(study: Study, projections: Sequence[Projection]) -> str:
    """Return what the figure shows, as a sentence without its stop."""
    model = study.models[drawn_model(study, projections)].title
    seeds = f", mean over {len(study.seeds)} seeds" if len(study.seeds) > 1 else ""
    return f"{model}: cosine of each adapted matrix with its projection, by block{seeds}; below a τ it is projected"


def drawn_model(study: Study, projections: Sequence[Projection]) -> str:
    """Return the main model, or the first one that has projections if the main model has none."""
    models = [projection.cell.model for projection in projections]
    return study.report.main_model if study.report.main_model in models else models[0]


def draw_cosines(study: Study, projections: Sequence[Projection]) -> Figure:
    """Return the figure for one model; a horizontal line stands at each τ of the task, bolder at the chosen one."""
    model = drawn_model(study, projections)
    tasks: dict[str, list[Projection]] = {}
    arm = projections[0].cell.arm  # a variant's cosines are the same
    for projection in projections:
        if (projection.cell.model, projection.cell.arm) == (model, arm):
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
