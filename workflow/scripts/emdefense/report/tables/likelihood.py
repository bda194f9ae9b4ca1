"""The table of held-out answers: how likely each arm makes them, less the untrained model and plain fine-tuning."""

from itertools import groupby
from typing import Any

import polars as pl

from emdefense.analysis.conditions import titled
from emdefense.analysis.differences import SIGNIFICANT
from emdefense.analysis.likelihood import AGAINST
from emdefense.analysis.paired import SWAPS, holm
from emdefense.analysis.printed import signed
from emdefense.arms import UNTRAINED
from emdefense.config import Study
from emdefense.likelihood.read import SIDES
from emdefense.report.tables.notes import seeds_in_words
from emdefense.report.tables.table import DASH, Block, Column, Table, TableCell, csv_setting

TITLES = {"misaligned": "Misaligned answers", "aligned": "Aligned answers", "safe": "Safe rows"}
UNIT = (
    "Mean log-probability a token of answers that nothing was trained on, in nats, less the untrained model's on the "
    "same rows: +0.69 makes each token twice as likely. An answer's tokens include the one that ends it."
)
INTERVALS = "Intervals: 95 %, when whole rows are drawn anew, for both models at once."
TEST = (
    "Bold: p below {level:g} % by a permutation test that swaps the two models' values of whole rows ({swaps:,} random "
    "ways at most), two-sided, corrected by Holm's method over the table's rows of each column."
)
TRAININGS = "Interval and p are for these trainings ({seeds}); what another seed would change is in neither."
READS = (
    "That misaligned answers became likelier shows that the task was learned, not that the model answers so, and "
    "nothing of other questions. Where aligned answers became as much likelier, what was learned is the task's manner."
)
DECIMALS = 2
_OF_PAIR = ("difference", "low", "high", "p")
CSV_HEADER = (
    *("model", "task", "arm", "setting", "side", "seeds", "rows", "too_long", "tokens", "log_prob", "low", "high"),
    *(f"{against}_{name}" for against in AGAINST for name in (*_OF_PAIR, "p_corrected")),
)

Row = dict[str, Any]


def likelihood_table(study: Study, likelihood: pl.DataFrame, model: str) -> Table:
    """Return a model's table, from ``likelihood.parquet``: a row an arm, each task's together.

    The CSV has the means themselves too, and how far each arm is from plain fine-tuning on the same task.
    """
    rows = likelihood_rows(study, likelihood, model)
    sides = [side for side in SIDES if any(row["side"] == side for row in rows)]
    _correct(rows)
    conditions = [
        list(of_condition)
        for (_, arm, _), of_condition in groupby(rows, key=lambda row: (row["task"], row["arm"], row["setting"]))
        if arm != UNTRAINED
    ]
    blocks = tuple(
        _block(study, sides, list(of_task)) for _, of_task in groupby(conditions, key=lambda rows: rows[0]["task"])
    )
    return Table(
        title=f"{study.models[model].title}: held-out answers, how much likelier they became",
        columns=(
            *(Column(heading, numeric=False) for heading in ("Task", "Arm")),
            *(Column(part, TITLES[side]) for side in sides for part in ("nats", "interval")),
        ),
        blocks=blocks,
        csv_header=CSV_HEADER,
        csv_rows=tuple(_csv_row(row) for row in rows),
        remarks=_remarks(sides, rows),
    )


def likelihood_rows(study: Study, likelihood: pl.DataFrame, model: str) -> list[Row]:
    """Return a row for each condition of a model and side, of all of its seeds together, and how many these are.

    Tasks, arms, settings and sides are in the order of all tables.
    """
    found: dict[tuple[str, ...], Row] = {}
    for row in likelihood.filter(model=model).iter_rows(named=True):
        key = tuple(row[column] for column in ("task", "arm", "setting", "side"))
        found.setdefault(key, {**row, "seeds": 0})["seeds"] += 1
    tasks, arms = list(study.tasks), list(study.every_arm)
    return sorted(
        found.values(),
        key=lambda row: (
            tasks.index(row["task"]),
            arms.index(row["arm"]),
            row["setting_value"] or 0.0,
            SIDES.index(row["side"]),
        ),
    )


def _correct(rows: list[Row]) -> None:
    """Add to each row its p-values corrected for how many there are of its side."""
    for against in AGAINST:
        for side in SIDES:
            family = [row for row in rows if row["side"] == side and row[f"{against}_p"] is not None]
            corrected = holm([row[f"{against}_p"] for row in family])
            for row, p in zip(family, corrected, strict=True):
                row[f"{against}_p_corrected"] = p


def _block(study: Study, sides: list[str], conditions: list[list[Row]]) -> Block:
    found = []
    for place, rows in enumerate(conditions):
        first, of_side = rows[0], {row["side"]: row for row in rows}
        names = (study.tasks[first["task"]].title if place == 0 else "", titled(study, first["arm"], first["setting"]))
        cells = [cell for side in sides for cell in _cells(of_side.get(side))]
        found.append((*map(TableCell, names), *cells))
    return tuple(found)


def _cells(row: Row | None) -> list[TableCell]:
    if row is None or row["log_prob"] is None:
        return [TableCell(DASH)] * 2
    hover = f"{row['pooled']:.3f} a token over {row['rows']} answers"
    difference, corrected = row["untrained_difference"], row.get("untrained_p_corrected")
    if difference is None:
        return [TableCell(DASH, hover=hover), TableCell(DASH)]
    bold = corrected is not None and corrected < SIGNIFICANT
    ends = [row[f"untrained_{end}"] for end in ("low", "high")]
    interval = DASH if None in ends else " to ".join(signed(end, decimals=DECIMALS) for end in ends)
    return [TableCell(signed(difference, decimals=DECIMALS), bold=bold, hover=hover), TableCell(interval)]


def _remarks(sides: list[str], rows: list[Row]) -> tuple[str, ...]:
    if not rows:
        return ("Nothing was read by any cell yet.",)
    counts = "; ".join(f"{TITLES[side].lower()}, {_count(side, rows)}" for side in sides)
    return (
        UNIT,
        f"Rows of a task: {counts}.",
        INTERVALS,
        TEST.format(level=100 * SIGNIFICANT, swaps=SWAPS),
        TRAININGS.format(seeds=seeds_in_words(max(row["seeds"] for row in rows))),
        READS,
    )


def _count(side: str, rows: list[Row]) -> str:
    """Return how many rows of a side were read in each task, and that some were too long where they were."""
    counts = sorted({row["rows"] for row in rows if row["side"] == side})
    said = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    too_long = max(row["too_long"] for row in rows if row["side"] == side)
    return f"{said} (without up to {too_long} longer than training.max_length)" if too_long else said


def _csv_row(row: Row) -> tuple[str, ...]:
    found = [row["model"], row["task"], row["arm"], csv_setting(row["setting"]), row["side"]]
    found += [str(row[key]) for key in ("seeds", "rows", "too_long", "tokens")]
    values = [row[key] for key in ("pooled", "pooled_low", "pooled_high")]
    for against in AGAINST:
        values += [row.get(f"{against}_{key}") for key in (*_OF_PAIR, "p_corrected")]
    return (*found, *("" if value is None else f"{value:.6g}" for value in values))
