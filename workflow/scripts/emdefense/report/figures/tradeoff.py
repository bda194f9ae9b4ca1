"""The trade-off in one picture: how much of EMA a defence takes, against how much of the narrow task it leaves."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from emdefense.analysis.conditions import arm_title, chosen_setting, ema_arms, ema_tasks, is_defence, settings, titled
from emdefense.analysis.resampling import ResampledRates
from emdefense.analysis.summary import Summary
from emdefense.analysis.tradeoff import Effect, EffectIntervals, effect, effect_intervals
from emdefense.analysis.verdicts import NO, UNTOLD, Answer, Verdicts
from emdefense.arms import CONTROLS, NO_SETTING
from emdefense.config import Study
from emdefense.report.catalogue import MOST_LINES
from emdefense.report.figures.alive import Place, Point, enliven, percent
from emdefense.report.figures.style import (
    COLUMN,
    PAGE,
    UNMEASURED,
    LineStyle,
    arm_styles,
    empty_figure,
    legend_above,
)

REDUCTION, RETENTION = "EMA reduction (%)", "in-domain retention (%)"
MISALIGNED = Effect(reduction=0, retention=100)
# Arms to compare with, and their marks.
REFERENCES = {arm.name: dict(arm.look.mark) for arm in CONTROLS if arm.look and arm.look.mark}
SMALL_COLUMNS = 2
SMALLEST, LARGEST = 2.5, 5.5  # width of marks, in points
COLUMNS, PANEL = 4, 1.55  # panels of single defences in a row, and a row's height in inches


def draw_tradeoff(study: Study, summary: Summary, resampled: ResampledRates | None) -> Figure:
    """Return the figure: a large panel of the mean over the tasks in which EMA appeared, a small one for each of them.

    Axes are shared; without ``resampled`` rates there are no intervals. A setting that is missing in a task is missing
    in the mean, and lines lead past it.
    """
    model, verdicts = study.report.main_model, Verdicts.of(study, summary)
    tasks = verdicts.readable(model)
    if not tasks:
        return empty_figure(why_empty([verdicts.ema(model, task) for task in ema_tasks(study)]))
    in_grid = ema_arms(study, model)
    arms = [arm for arm in in_grid if is_defence(study, arm)]
    styles = {arm: arm_styles(study)[arm] for arm in arms}
    if len(arms) > MOST_LINES:
        return _a_panel_each(study, summary, resampled, tasks, styles)
    if len(tasks) == 1:
        figure = Figure(figsize=(COLUMN, COLUMN))
        large, small = figure.subplots(), []
    else:
        figure = Figure(figsize=(PAGE, COLUMN + 0.3))
        halves = figure.add_gridspec(1, 2)
        large = figure.add_subplot(halves[0])
        places = halves[1].subgridspec(-(-len(tasks) // SMALL_COLUMNS), SMALL_COLUMNS)
        small = [
            figure.add_subplot(places[divmod(i, SMALL_COLUMNS)], sharex=large, sharey=large) for i in range(len(tasks))
        ]
    _draw_panel(large, study, summary, tasks, styles, 1, resampled)
    if resampled is not None:
        _draw_intervals(large, study, summary, resampled, tasks, arms)
    large.set_title(study.tasks[tasks[0]].title if len(tasks) == 1 else f"Mean over {len(tasks)} tasks")
    figure.supxlabel(RETENTION, fontsize="medium")
    figure.supylabel(REDUCTION, fontsize="medium")
    large.annotate("ideal", (100, 100), (0, 5), textcoords="offset points", fontsize=6.5, ha="center")
    large.set_ylim(top=max(112, large.get_ylim()[1]))
    for place, (axes, task) in enumerate(zip(small, tasks, strict=False)):
        _draw_panel(axes, study, summary, [task], styles, 0.75, resampled)
        axes.set_title(study.tasks[task].title)
        axes.tick_params(labelleft=place % SMALL_COLUMNS == 0, labelbottom=place + SMALL_COLUMNS >= len(tasks))
    handles = {
        titled(study, arm, chosen_setting(study, arm) or NO_SETTING): Line2D([], [], **style.marked(4.5))
        for arm, style in styles.items()
    }
    handles |= {
        arm_title(study, arm): Line2D([], [], linestyle="", **REFERENCES[arm]) for arm in in_grid if arm in REFERENCES
    }
    legend_above(figure, list(handles.values()), list(handles))
    return figure


def _a_panel_each(
    study: Study,
    summary: Summary,
    resampled: ResampledRates | None,
    tasks: Sequence[str],
    styles: dict[str, LineStyle],
) -> Figure:
    """Return the figure of many defences: each in a panel of its own, the others' lines in grey behind it."""
    model = study.report.main_model
    lines = {arm: _path(study, summary, model, tasks, arm) for arm in styles}
    shown = [arm for arm, line in lines.items() if len(line) > 1]
    if not shown:
        return empty_figure(UNMEASURED)
    rows = -(-len(shown) // COLUMNS)
    figure = Figure(figsize=(PAGE, 0.35 + PANEL * rows))
    panels = figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False)
    for n, axes in enumerate(panels.flat):
        if n >= len(shown):
            axes.set_visible(False)
            continue
        arm = shown[n]
        for other in shown:
            if other != arm:
                across, up = zip(*((at.retention, at.reduction) for at in lines[other]), strict=True)
                (line,) = axes.plot(across, up, color="0.85", linewidth=0.6, zorder=1.2)
                enliven(line, arm_title(study, other))
        _draw_panel(axes, study, summary, tasks, {arm: styles[arm]}, 0.75, resampled)
        if resampled is not None:
            _draw_intervals(axes, study, summary, resampled, tasks, [arm])
        axes.set_title(titled(study, arm, chosen_setting(study, arm) or NO_SETTING), fontsize=7)
        axes.tick_params(labelbottom=n + COLUMNS >= len(shown))
    panels[0, 0].set_ylim(top=max(112, panels[0, 0].get_ylim()[1]))
    figure.supxlabel(RETENTION, fontsize="medium")
    figure.supylabel(REDUCTION, fontsize="medium")
    handles = {
        arm_title(study, arm): Line2D([], [], linestyle="", **REFERENCES[arm])
        for arm in ema_arms(study, model)
        if arm in REFERENCES
    }
    legend_above(figure, list(handles.values()), list(handles))
    return figure


def _path(study: Study, summary: Summary, model: str, tasks: Sequence[str], arm: str) -> list[Effect]:
    """Return the misaligned arm and a defence's settings as far as they were measured, weakest first."""
    found = [effect(summary, model, tasks, arm, setting) for setting in settings(study, model, arm)]
    return [MISALIGNED, *(at for at in found if at is not None)]


def why_empty(answers: Sequence[Answer]) -> str:
    """Return why no task can be shown."""
    said = {answer.says for answer in answers}
    if UNTOLD in said:
        return "On no task is it shown that EMA appeared"
    return "EMA did not appear in any task" if NO in said else UNMEASURED


def _draw_panel(
    axes: Axes,
    study: Study,
    summary: Summary,
    tasks: Sequence[str],
    styles: dict[str, LineStyle],
    scale: float,
    resampled: ResampledRates | None,
) -> None:
    model = study.report.main_model

    def point(arm: str, setting: str, at: Effect) -> Point:
        unknown = EffectIntervals(None, None)
        found = unknown if resampled is None else effect_intervals(resampled, model, tasks, arm, setting)
        says = (
            titled(study, arm, setting),
            study.tasks[tasks[0]].title if len(tasks) == 1 else f"Mean over {len(tasks)} tasks",
            f"EMA reduction {percent(at.reduction, found.reduction)}",
            f"in-domain retention {percent(at.retention, found.retention)}",
        )
        task = tasks[0] if len(tasks) == 1 else None
        return Point(says, Place(model, study.seeds[0], (f"{arm}/{setting}",), task))

    for end in (0, 100):
        axes.axhline(end, color="0.75", linewidth=0.5, zorder=1)
    axes.axvline(100, color="0.75", linewidth=0.5, zorder=1)
    for arm, style in styles.items():
        measured = [(s, effect(summary, model, tasks, arm, s)) for s in settings(study, model, arm)]
        found = [(setting, at) for setting, at in measured if at is not None]
        if not found:
            continue
        line = [MISALIGNED, *(at for _, at in found)]
        retention, reduction = [at.retention for at in line], [at.reduction for at in line]
        (drawn,) = axes.plot(retention, reduction, color=style.color, linestyle=style.linestyle, linewidth=0.9 * scale)
        enliven(drawn, arm_title(study, arm))
        sizes = scale * np.linspace(SMALLEST, LARGEST, len(found))
        for size, (setting, at) in zip(sizes, found, strict=True):
            marked = style.marked(size)
            if setting == chosen_setting(study, arm):
                marked |= {"markersize": scale * LARGEST, "markeredgecolor": "black", "markeredgewidth": scale}
            (mark,) = axes.plot(at.retention, at.reduction, **marked)
            enliven(mark, arm_title(study, arm), point(arm, setting, at))
    for arm, marks in REFERENCES.items():
        reference = effect(summary, model, tasks, arm, NO_SETTING)
        if reference is not None:
            (mark,) = axes.plot(reference.retention, reference.reduction, clip_on=False, zorder=4, **marks)
            enliven(mark, arm_title(study, arm), point(arm, NO_SETTING, reference))
    axes.plot(100, 100, "*", color="0.35", markersize=7 * scale, clip_on=False, zorder=2)


def _draw_intervals(
    axes: Axes,
    study: Study,
    summary: Summary,
    rates: ResampledRates,
    tasks: Sequence[str],
    arms: Sequence[str],
) -> None:
    """Draw both intervals of each arm's chosen setting as a cross."""
    model = study.report.main_model
    for arm in arms:
        setting = chosen_setting(study, arm)
        at = None if setting is None else effect(summary, model, tasks, arm, setting)
        if setting is None or at is None:
            continue
        found = effect_intervals(rates, model, tasks, arm, setting)
        line: dict[str, Any] = {"color": "black", "linewidth": 0.8, "zorder": 2.5, "solid_capstyle": "butt"}
        if found.reduction is not None:
            enliven(axes.plot([at.retention] * 2, found.reduction, **line)[0], arm_title(study, arm))
        if found.retention is not None:
            enliven(axes.plot(found.retention, [at.reduction] * 2, **line)[0], arm_title(study, arm))
