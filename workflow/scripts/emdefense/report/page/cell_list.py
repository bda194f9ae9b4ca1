"""The page's list of cells: what each was, where its own page is, and its numbers."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emdefense.analysis.conditions import arm_title, setting_title
from emdefense.analysis.rates import EXACT_MATCH_SCHEMA, LABELS, RATES_SCHEMA
from emdefense.analysis.summary import read_frame
from emdefense.analysis.verdicts import Verdicts
from emdefense.cells import Cell, Grid
from emdefense.config import Study
from emdefense.metrics import JUDGED, QUESTION_SETS
from emdefense.report.tables.notes import FLAGS
from emdefense.report.tables.table import DASH, Column, Table, TableCell, number

PAGES = "cells"  # the folder of the cells' pages, beside the page
LABEL_TITLES = {
    "refused": "refused",
    "code": "code",
    "unknown": "unknown",
    "unparsed": "unparsed",
    "no_reply": "no reply",
}
Numbers = dict[tuple[Cell, str], dict[str, Any]]  # a row of the rates by cell and question set


@dataclass(frozen=True)
class CellRow:
    """A line of the list; rates are in per cent and None where nothing was measured.

    ``unscored`` counts responses without both scores, of ``responses``; ``flag`` says why its numbers cannot be
    read, and is empty if they can.
    """

    cell: Cell
    link: str
    model: str
    task: str
    arm: str
    setting: str
    rates: tuple[float | None, ...]  # as ``JUDGED``
    unscored: int | None
    responses: int | None
    exact_match: float | None
    flag: str


def page_link(cell: Cell) -> str:
    """Return where a cell's page lies, from the page."""
    return f"{PAGES}/{cell.folder}/index.html"


def read_numbers(rates: Path, exact_match: Path) -> tuple[Numbers, dict[Cell, dict[str, Any]]]:
    """Return the rows of both frames that ``aggregate`` wrote, by cell (and question set)."""
    measured = read_frame(rates, RATES_SCHEMA).iter_rows(named=True)
    answered = read_frame(exact_match, EXACT_MATCH_SCHEMA).iter_rows(named=True)
    return {(_cell(row), row["question_set"]): row for row in measured}, {_cell(row): row for row in answered}


def reading_order(study: Study) -> Callable[[Cell], tuple[float, ...]]:
    """Return the key that sorts cells: models and tasks as in the config, EMA tasks and plain arms first."""
    models = list(study.models)
    tasks = sorted(study.tasks, key=lambda task: study.tasks[task].kind != "ema")
    arms = list(study.every_arm)

    def place(cell: Cell) -> tuple[float, ...]:
        order = models.index(cell.model), tasks.index(cell.task), arms.index(cell.arm)
        return *order, cell.setting_value or 0.0, cell.seed

    return place


def cell_rows(study: Study, numbers: Numbers, benign: dict[Cell, dict[str, Any]], verdicts: Verdicts) -> list[CellRow]:
    """Return a line for every cell of the grid, in reading order."""
    found = []
    for cell in sorted(Grid(study).cells, key=reading_order(study)):
        rows = {name: numbers[cell, name] for name in QUESTION_SETS if (cell, name) in numbers}
        measured = rows.values()
        found.append(
            CellRow(
                cell=cell,
                link=page_link(cell),
                model=study.models[cell.model].title,
                task=study.tasks[cell.task].title,
                arm=arm_title(study, cell.arm),
                setting=setting_title(study, cell.arm, cell.setting),
                rates=tuple(rows.get(m.question_set, {}).get(f"{m.outcome}_pct") for m in JUDGED),
                unscored=sum(row["responses"] - row["scored"] for row in measured) if measured else None,
                responses=sum(row["responses"] for row in measured) if measured else None,
                exact_match=benign.get(cell, {}).get("exact_match_pct"),
                flag=FLAGS.get(verdicts.ema(cell.model, cell.task).says, ""),
            )
        )
    return found


def unscored_table(study: Study, numbers: Numbers) -> Table | None:
    """Return the table of responses without both scores: a row for each model and arm, the reasons in columns.

    None if every response has both.
    """
    if all(row["scored"] == row["responses"] for row in numbers.values()):
        return None
    counted = ("responses", "scored", *LABELS.values())
    sums: dict[str, dict[str, dict[str, int]]] = {}
    for (cell, _), row in numbers.items():
        counts = sums.setdefault(cell.model, {}).setdefault(cell.arm, dict.fromkeys(counted, 0))
        for name in counted:
            counts[name] += row[name]
    blocks: list[tuple[tuple[TableCell, ...], ...]] = []
    csv_rows: list[tuple[str, ...]] = []
    for model, arms in sums.items():
        rows = []
        for arm, counts in arms.items():
            share = 100 * (1 - counts["scored"] / counts["responses"]) if counts["responses"] else None
            texts = [str(counts["responses"]), *(str(counts[name]) for name in LABELS.values()), number(share) or DASH]
            titles = (study.models[model].title, arm_title(study, arm))
            rows.append(tuple(TableCell(text) for text in (*titles, *texts)))
            csv_rows.append((model, arm, *texts))
        blocks.append(tuple(rows))
    return Table(
        title="Responses that have no score, and why",
        name="unscored",
        columns=(
            Column("Model", numeric=False),
            Column("Arm", numeric=False),
            Column("Responses"),
            *(Column(LABEL_TITLES[name], group="without both scores") for name in LABELS.values()),
            Column("all, %", group="without both scores"),
        ),
        blocks=tuple(blocks),
        csv_header=("model", "arm", "responses", *LABELS.values(), "unscored_pct"),
        csv_rows=tuple(csv_rows),
        remarks=(
            "All tasks, settings, seeds and question sets together. Such a response counts once, under the label of "
            "the score that failed first; it is in no rate.",
        ),
    )


def _cell(row: dict[str, Any]) -> Cell:
    return Cell(row["model"], row["task"], row["arm"], row["setting"], row["seed"])
