"""The tables of multiple choice: what each arm has right, and how many points it lost."""

from collections.abc import Iterable
from itertools import groupby
from typing import Any

import polars as pl

from emdefense.analysis.conditions import arm_title, titled
from emdefense.analysis.differences import SIGNIFICANT
from emdefense.analysis.multiple_choice import AGAINST
from emdefense.analysis.paired import SWAPS, holm
from emdefense.analysis.printed import bracketed, points, signed
from emdefense.arms import MISALIGNED, PLAIN
from emdefense.config import Study
from emdefense.config.multiple_choice import SCORES
from emdefense.names import SHARED_TASK
from emdefense.report.tables.notes import seeds_in_words
from emdefense.report.tables.table import DASH, Block, Column, Table, TableCell, csv_setting, number

HEADINGS = {"untrained": "Less the untrained model", "plain": "Less plain fine-tuning"}
BY = {
    ("letter", "sum"): "Options are listed by letter, and the likeliest letter is chosen",
    ("letter", "mean"): "Options are listed by letter, and the likeliest letter (a token, on average) is chosen",
    ("text", "sum"): "The option is chosen whose text is the likeliest answer, its tokens' log-probabilities added up",
    ("text", "mean"): "The option is chosen whose text is the likeliest answer a token, by mean log-probability",
}
INTERVALS = (
    "In brackets: 95 % intervals, when whole questions are drawn anew, for both arms of a difference at once, rounded "
    "outwards."
)
TEST = "p: {how}, two-sided; bold below {level:g} %, corrected by Holm's method over a model's rows of each comparison."
MCNEMAR = "McNemar's exact test on the questions that one of the two alone has right"
SWAPPED = "of a permutation test that swaps the two arms' answers to whole questions ({swaps:,} random ways at most)"
TRAININGS = "Interval and p are for these trainings ({seeds}); what another seed would change is in neither."
DECIMALS = 1
_OF_PAIR = ("difference_pct", "low_pct", "high_pct", "pooled_p")
CSV_HEADER = (
    *("model", "task", "arm", "setting", "set", "options", "score", "seeds", "questions"),
    *("correct_pct", "low_pct", "high_pct", "chance_pct"),
    *(
        f"{against}_{name}"
        for against in AGAINST
        for name in ("difference_pct", "low_pct", "high_pct", "p", "p_corrected")
    ),
)

Row = dict[str, Any]


def multiple_choice_table(study: Study, multiple_choice: pl.DataFrame, name: str) -> Table:
    """Return the table of a set, from ``multiple_choice.parquet``: a row an arm, each task's together.

    The CSV has both scores; the table the one of the set.
    """
    section = study.multiple_choice[name]
    rows = {score: _conditions(study, multiple_choice.filter(set=name, score=score)) for score in SCORES}
    for of_score in rows.values():
        _correct(of_score)
    shown = rows[section.score]
    models = list(dict.fromkeys(row["model"] for row in shown))
    blocks = tuple(
        _block(study, model, list(of_task), len(models) > 1)
        for model in models
        for _, of_task in groupby((row for row in shown if row["model"] == model), key=lambda row: row["task"])
    )
    headings = (*(["Model"] if len(models) > 1 else []), "Task", "Arm")
    title = f"{section.title}, multiple choice"
    return Table(
        title=f"{study.models[models[0]].title}: {title}" if len(models) == 1 else title,
        columns=(
            *(Column(heading, numeric=False) for heading in headings),
            Column("all seeds" if len(study.seeds) > 1 else "share", "Correct ↑ (%)"),
            *(Column(part, HEADINGS[against]) for against in AGAINST for part in ("points", "p")),
        ),
        blocks=blocks,
        csv_header=CSV_HEADER,
        csv_rows=tuple(
            _csv_row(row, section.options)
            for row in sorted((row for score in SCORES for row in rows[score]), key=lambda row: row["place"])
        ),
        remarks=_remarks(study, name, shown),
    )


def _conditions(study: Study, choices: pl.DataFrame) -> list[Row]:
    """Return a row for each condition, which all of its seeds have in common, and how many seeds there are.

    The model as it is stands first, then its tasks, in each its arms in the order of all tables.
    """
    found: dict[tuple[str, ...], Row] = {}
    for place, row in enumerate(choices.iter_rows(named=True)):
        key = tuple(row[column] for column in ("model", "task", "arm", "setting"))
        found.setdefault(key, {**row, "seeds": 0, "place": place})["seeds"] += 1
    tasks, arms = [SHARED_TASK, *study.tasks], list(study.every_arm)
    return sorted(
        found.values(), key=lambda row: (tasks.index(row["task"]), arms.index(row["arm"]), row["setting_value"] or 0.0)
    )


def _correct(rows: Iterable[Row]) -> None:
    """Add to each row its p-values corrected for how many there are of its model."""
    for against in AGAINST:
        families: dict[str, list[Row]] = {}
        for row in rows:
            row[f"{against}_corrected"] = None
            if row[f"{against}_pooled_p"] is not None:
                families.setdefault(row["model"], []).append(row)
        for family in families.values():
            corrected = holm([row[f"{against}_pooled_p"] for row in family])
            for row, p in zip(family, corrected, strict=True):
                row[f"{against}_corrected"] = p


def _block(study: Study, model: str, rows: list[Row], named: bool) -> Block:
    found = []
    for place, row in enumerate(rows):
        task = "not fine-tuned" if row["task"] == SHARED_TASK else study.tasks[row["task"]].title
        names = [study.models[model].title] if named else []
        first = [TableCell(text if place == 0 else "") for text in (*names, task)]
        found.append((*first, TableCell(titled(study, row["arm"], row["setting"])), *_cells(row)))
    return tuple(found)


def _cells(row: Row) -> list[TableCell]:
    hover = f"{row['correct']} of {row['questions']}" if row["seeds"] == 1 else ""
    found = [TableCell(f"{points(row['pooled_pct'])}{_interval(row, 'pooled')}", hover=hover)]
    for against in AGAINST:
        difference, corrected = row[f"{against}_difference_pct"], row[f"{against}_corrected"]
        if difference is None:
            found += [TableCell(DASH)] * 2
            continue
        bold = corrected is not None and corrected < SIGNIFICANT
        hover = f"{row[f'{against}_lost']} lost, {row[f'{against}_won']} won" if row["seeds"] == 1 else ""
        moved = f"{signed(difference, decimals=DECIMALS)}{_interval(row, against)}"
        found += [TableCell(moved, bold=bold, hover=hover), TableCell(_p(row[f"{against}_pooled_p"]))]
    return found


def _interval(row: Row, kind: str) -> str:
    """Return an interval to stand behind its value, in whole points, rounded outwards; empty if there is none."""
    low, high = (row[f"{kind}_{end}_pct"] for end in ("low", "high"))
    return "" if low is None else f" {bracketed(low, high, plus=kind != 'pooled')}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _remarks(study: Study, name: str, shown: list[Row]) -> tuple[str, ...]:
    section = study.multiple_choice[name]
    if not shown:
        return ("Nothing was asked of any cell yet.",)
    most = max(row["questions"] for row in shown)
    seeds = max(row["seeds"] for row in shown)
    plain = [arm_title(study, arm) for arm in (MISALIGNED, PLAIN) if any(row["arm"] == arm for row in shown)]
    how = MCNEMAR if seeds == 1 else SWAPPED.format(swaps=SWAPS)
    return (
        f"{BY[section.options, section.score]}. {most:,} questions, of which guessing has "
        f"{number(shown[0]['chance_pct'])} % right.",
        f"Plain fine-tuning: {' or '.join(plain)}, on the same task." if plain else "Plain fine-tuning was not asked.",
        INTERVALS,
        TEST.format(how=how, level=100 * SIGNIFICANT),
        TRAININGS.format(seeds=seeds_in_words(seeds)),
    )


def _csv_row(row: Row, options: str) -> tuple[str, ...]:
    found = [row["model"], row["task"], row["arm"], csv_setting(row["setting"]), row["set"]]
    found += [options, row["score"], str(row["seeds"]), str(row["questions"])]
    values = [row[key] for key in ("pooled_pct", "pooled_low_pct", "pooled_high_pct", "chance_pct")]
    for against in AGAINST:
        values += [row[f"{against}_{key}"] for key in (*_OF_PAIR, "corrected")]
    return (*found, *("" if value is None else f"{value:.6g}" for value in values))
