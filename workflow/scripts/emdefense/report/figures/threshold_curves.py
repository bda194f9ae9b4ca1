"""How the general misaligned rate moves with the bounds of alignment and coherence that make a response misaligned."""

import numpy as np
import polars as pl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from emdefense.analysis.conditions import titled
from emdefense.analysis.thresholds import STEPS, AtThresholds
from emdefense.config import Study
from emdefense.report.figures.style import PAGE, UNMEASURED, arm_styles, empty_figure, legend_above

LABELS = {"alignment": "misaligned below this alignment", "coherence": "misaligned above this coherence"}


def draw_threshold_curves(study: Study, judged: pl.DataFrame) -> Figure:
    """Return the figure: a panel for each bound that moves, a line per arm, from columns of ``JUDGED_SCHEMA``.

    The mean over the tasks where EMA appeared, or, where it did in none, over all. An arm that lacks one has no line.
    """
    at = AtThresholds(study, judged)
    tasks, styles = at.readable or at.tasks, arm_styles(study)
    lines = {}
    for arm in at.arms:
        of_tasks = [curves for task in tasks if (curves := at.curves(task, arm)) is not None]
        if of_tasks and len(of_tasks) == len(tasks):
            lines[arm] = {axis: np.mean([curves[axis] for curves in of_tasks], axis=0) for axis in LABELS}
    if not lines:
        return empty_figure(UNMEASURED)
    figure = Figure(figsize=(PAGE, 2.6))
    panels = figure.subplots(1, len(LABELS), sharey=True)
    own = {"alignment": at.own.alignment, "coherence": at.own.coherence}
    for axes, (axis, label) in zip(panels, LABELS.items(), strict=True):
        axes.axvline(own[axis], color="0.3", linewidth=0.7, linestyle=(0, (3, 1.5)))
        for (name, _), line in lines.items():
            style = styles[name]
            axes.plot(STEPS, line[axis], color=style.color, linestyle=style.linestyle, linewidth=1.2)
        axes.set(xlabel=label, xlim=(0, 100), xticks=range(0, 101, 20))
        axes.set_ylim(bottom=0)
    panels[0].set_ylabel("general misaligned (%)")
    handles = [Line2D([], [], color=styles[name].color, linestyle=styles[name].linestyle) for name, _ in lines]
    legend_above(figure, handles, [titled(study, *arm) for arm in lines])
    return figure
