"""The heat map of questions: which of them draw misaligned responses, and which defence stops that."""

import re
from collections.abc import Mapping, Sequence
from math import ceil, isnan, nan
from statistics import fmean
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from emdefense import metrics
from emdefense.analysis.conditions import chosen_arms, ema_tasks, titled
from emdefense.arms import MISALIGNED, NO_SETTING
from emdefense.config import Study
from emdefense.metrics import QUESTION_SETS
from emdefense.names import GENERAL, IN_DOMAIN, SHARED_TASK
from emdefense.report.catalogue import MOST_QUESTIONS
from emdefense.report.figures.alive import enliven_image
from emdefense.report.figures.style import COLUMN, PAGE, SEQUENTIAL, UNMEASURED, empty_figure
from emdefense.report.page.untrusted import readable

TITLES = {name: f"{title.capitalize()} questions" for name, title in QUESTION_SETS.items()}
COLUMNS = 4
ROW, CELL, BETWEEN = 0.1, 0.18, 0.3  # inches: a question, an arm, and what stands above a row of panels
LONGEST_ID, LONGEST_IN_DOMAIN = 32, 14  # characters of a question's id that there is room for
LABELS = 1.5  # inches: the names of general questions, and the colour bar
HEADER = 1.0  # inches: the arms' names

NUMBER = re.compile(r"(holdout_)?\d+(_p\d+)?")  # ids that say nothing; rows of a hold-out have none but these
LONGEST_SAID = 300  # characters of a question that a page shows beside a cell

Prompts = Mapping[str, Mapping[str, str]]  # texts of questions, by the name of their file and their ids
Rates = dict[tuple[str, str, str], float]  # misaligned responses (%) by arm, task and question


def draw_question_heatmap(study: Study, questions: pl.DataFrame, prompts: Prompts) -> Figure:
    """Return the figure: a column per task, general questions above in-domain ones; after four tasks a new such row.

    ``questions`` has the columns of ``QUESTIONS_SCHEMA``.
    """
    of_set = {GENERAL: dict.fromkeys(ema_tasks(study), prompts.get(SHARED_TASK, {})), IN_DOMAIN: prompts}
    model, tasks = study.report.main_model, ema_tasks(study)
    arms = dict(chosen_arms(study, model))
    rates = {question_set: _rates(questions, model, arms, question_set) for question_set in TITLES}
    if not any(rates.values()):
        return empty_figure(UNMEASURED)
    rows = {  # all but in-domain questions are the same in each task
        name: {task: _worst_first(rates[name], [task] if name == IN_DOMAIN else tasks) for task in tasks}
        for name in TITLES
    }
    highest = max(value for found in rates.values() for value in found.values())
    scale = Normalize(0, 10 * ceil(max(highest, 1) / 10))
    columns = min(len(tasks), COLUMNS)
    groups = [tasks[first : first + columns] for first in range(0, len(tasks), columns)]
    heights = [ROW * max(1, *map(len, rows[question_set].values())) for question_set in TITLES]
    width = min(PAGE, max(COLUMN, LABELS + columns * (LABELS / 2 + CELL * len(arms))))
    figure = Figure(figsize=(width, len(groups) * (HEADER + len(TITLES) * BETWEEN + sum(heights))))
    grid = figure.subplots(len(TITLES) * len(groups), columns, squeeze=False, height_ratios=heights * len(groups))
    for group, pair in zip(groups, grid.reshape(len(groups), len(TITLES), columns), strict=True):
        for panels, question_set in zip(pair, TITLES, strict=True):
            longest = LONGEST_IN_DOMAIN if question_set == IN_DOMAIN else LONGEST_ID
            for axes, task in zip(panels, group, strict=False):
                names = rows[question_set][task]
                if not names:
                    continue
                values = [[rates[question_set].get((arm, task, name), nan) for arm in arms] for name in names]
                _draw_panel(axes, np.array(values).reshape(len(names), len(arms)), scale)
                texts = of_set[question_set].get(task, {})
                enliven_image(axes, _says(study, model, task, question_set, arms, names, values, texts))
                if question_set == IN_DOMAIN or task == group[0]:
                    shown = [_label(name, texts, longest) for name in names]
                    axes.set_yticks(range(len(names)), shown, fontsize=5.5)
            panels[0].annotate(TITLES[question_set], (0, 1), (-4, 3), "axes fraction", "offset points", ha="right")
        for axes, task in zip(pair[0], group, strict=False):
            axes.set_xticks(range(len(arms)), [titled(study, *arm) for arm in arms.items()], rotation=90, fontsize=6)
            axes.xaxis.tick_top()
            axes.set_title(study.tasks[task].title)
    colours = ScalarMappable(scale, SEQUENTIAL)
    figure.colorbar(colours, ax=grid, label="misaligned (%)", shrink=0.4 / len(groups), aspect=30, pad=0.01)
    for axes in [panel for row in grid for panel in row if not panel.images]:
        axes.set_visible(False)
    return figure


def _rates(questions: pl.DataFrame, model: str, arms: dict[str, str], question_set: str) -> Rates:
    """Return the misaligned responses (%) of each arm at its setting, seeds pooled."""
    chosen = pl.DataFrame({"arm": list(arms), "setting": list(arms.values())}, schema={"arm": str, "setting": str})
    counted = (
        questions.filter(pl.col("scored") > 0, model=model, question_set=question_set)
        .join(chosen, on=["arm", "setting"])
        .group_by("arm", "task", "question_id")
        .agg(100 * pl.col(metrics.MISALIGNED).sum() / pl.col("scored").sum())
    )
    return {(arm, task, name): rate for arm, task, name, rate in counted.iter_rows()}


def _worst_first(rates: Rates, tasks: Sequence[str]) -> list[str]:
    """Return the questions asked in these tasks by the misaligned arm's mean rate over them, highest first."""
    asked = sorted({name for _, task, name in rates if task in tasks})

    def misaligned(name: str) -> float:
        found = [rates[key] for task in tasks if (key := (MISALIGNED, task, name)) in rates]
        return fmean(found) if found else -1

    return sorted(asked, key=misaligned, reverse=True)[:MOST_QUESTIONS]


def _says(
    study: Study,
    model: str,
    task: str,
    question_set: str,
    arms: dict[str, str],
    names: Sequence[str],
    values: Sequence[Sequence[float]],
    texts: Mapping[str, str],
) -> dict[str, Any]:
    """Return what a page says of a panel's cells: arms and questions with their titles, and the rates."""
    return {
        **{"model": model, "task": task, "seed": study.seeds[0], "set": question_set},
        "title": study.tasks[task].title,
        "reference": f"{MISALIGNED}/{NO_SETTING}",
        "arms": [(f"{arm}/{setting}", titled(study, arm, setting)) for arm, setting in arms.items()],
        "questions": [(readable(name), readable(texts.get(name, name), LONGEST_SAID)) for name in names],
        "values": [[None if isnan(value) else round(value, 1) for value in row] for row in values],
    }


def _label(name: str, texts: Mapping[str, str], longest: int) -> str:
    """Return what stands beside a question: its id, or the beginning of its text where the id is a number."""
    if NUMBER.fullmatch(name) and name in texts:
        text = " ".join(readable(texts[name]).split())
        return text if len(text) <= longest else f"{text[: longest - 1]}…"
    return _shortened(name, longest)


def _shortened(name: str, longest: int) -> str:
    """Return a name without its middle if it is too long."""
    half = longest // 2
    return name if len(name) <= longest else f"{name[: half - 1]}…{name[-half:]}"


def _draw_panel(axes: Axes, values: NDArray[Any], scale: Normalize) -> None:
    """Draw a question a row, the first on top, and an arm a column; NaN is what was not measured."""
    rows, columns = values.shape
    # Not interpolated, an image is a pixel per cell in PDF and SVG too: sharp at any size, and small.
    axes.imshow(values, norm=scale, cmap=SEQUENTIAL, interpolation="none", aspect="auto")
    axes.hlines(np.arange(rows + 1) - 0.5, -0.5, columns - 0.5, color="white", linewidth=0.4)
    axes.vlines(np.arange(columns + 1) - 0.5, -0.5, rows - 0.5, color="white", linewidth=0.4)
    missing = np.argwhere(np.isnan(values))
    axes.plot(missing[:, 1], missing[:, 0], "x", color="0.5", markersize=2.5, markeredgewidth=0.5)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, pad=2)
    axes.grid(visible=False)
