"""Tables 5 and 6: exact match on OpSwap's tiers and on FoQA."""

from emdefense.analysis.conditions import Condition, benign_settings, conditions, defences, is_defence, titled
from emdefense.analysis.summary import Summary
from emdefense.arms import NO_SETTING, in_order
from emdefense.config import Study
from emdefense.metrics import EXACT_MATCH, METRICS
from emdefense.report.tables import marks
from emdefense.report.tables.notes import TableNotes
from emdefense.report.tables.rate_columns import (
    Quantity,
    Rate,
    cells,
    columns,
    csv_header,
    csv_row,
    kinds_shown,
    remarks,
    seeds_remark,
)
from emdefense.report.tables.reference import Reference, benign_task
from emdefense.report.tables.table import Column, Table, TableCell

TIERS = (0, 1, 2, 3)
LEGEND = "Exact match (%). Bold: the best defence in the column, as printed."

Row = tuple[str, str]
"""(arm, setting) of a row."""


def opswap_table(study: Study, summary: Summary, reference: Reference | None) -> Table:
    """Return Table 5: arms × tiers of OpSwap."""
    quantities = [Quantity(f"tier_{tier}", "Exact match (%)", f"tier {tier} ↑") for tier in TIERS]
    header = [quantity.name for quantity in quantities]
    return _table((5,), "OpSwap, exact match by tier", study, summary, reference, "opswap", TIERS, quantities, header)


def foqa_table(study: Study, summary: Summary, reference: Reference | None) -> Table:
    """Return Table 6: exact match on FoQA, or on the study's analogue of it."""
    task = benign_task(study, "foqa", None)
    quantities = [Quantity(EXACT_MATCH, "", "Exact match ↑ (%)")]
    title = f"{'FoQA' if task is None else study.tasks[task].title}, exact match"
    return _table((6,), title, study, summary, reference, "foqa", (None,), quantities, [f"{EXACT_MATCH}_pct"])


def _table(
    like: tuple[int, ...],
    what: str,
    study: Study,
    summary: Summary,
    reference: Reference | None,
    kind: str,
    tiers: tuple[int | None, ...],
    quantities: list[Quantity],
    csv_values: list[str],
) -> Table:
    model = study.report.main_model
    tasks = [benign_task(study, kind, tier) for tier in tiers]
    rows = _rows(study, set(tasks))
    best = {task: _best(study, summary, rows, task) for task in tasks}
    rates = {
        row: [
            Rate(
                None if task is None else summary.estimate(Condition(model, task, *row), EXACT_MATCH),
                paper=None if reference is None else reference.exact_match(kind, tier, *row),
                bold=row in best[task],
            )
            for task, tier in zip(tasks, tiers, strict=True)
        ]
        for row in rows
    }
    flat = [rate for of_row in rates.values() for rate in of_row]
    shown = kinds_shown(study.report.table_columns, flat)
    notes = TableNotes(study, like, compared=reference is not None)
    blocks: dict[bool, list[tuple[TableCell, ...]]] = {True: [], False: []}
    for row, of_row in rates.items():
        missing = notes.not_measured() if any(rate.estimate is None for rate in of_row) else ""
        name = TableCell(titled(study, *row), footnote=notes.of_arm(row[0]))
        blocks[not is_defence(study, row[0])].append(
            (name, *(cell for rate in of_row for cell in cells(rate, shown, missing)))
        )
    paper = ""
    if reference is not None:
        title = reference.study.models[reference.study.report.main_model].title
        paper = f"{title}, where it has the same setting"
    return Table(
        title=f"{study.models[model].title}: {what}",
        columns=(Column("Arm", numeric=False), *columns(quantities, shown)),
        blocks=tuple(tuple(block) for block in blocks.values() if block),
        csv_header=("arm", "setting", *csv_header(quantities, csv_values)),
        csv_rows=tuple(
            (arm, "" if setting == NO_SETTING else setting, *csv_row(of_row))
            for (arm, setting), of_row in rates.items()
        ),
        remarks=(
            LEGEND if rows else "This study has no such task.",
            *remarks(shown, "correct answers of all", paper),
            *seeds_remark(flat),
        ),
        footnotes=notes.lettered(),
        title_footnote=notes.title,
    )


def _rows(study: Study, tasks: set[str | None]) -> list[Row]:
    """Return (arm, setting) of every row: the grid's arms on these tasks, in the paper's order."""
    found: dict[str, set[str]] = {}
    for c in conditions(study):
        if c.model == study.report.main_model and c.task in tasks:
            found.setdefault(c.arm, set()).add(c.setting)
    plain = [(arm, NO_SETTING) for arm in study.every_arm if arm in found and not is_defence(study, arm)]
    return plain + [
        (arm, setting)
        for arm in defences(study)
        if arm in found
        for setting in benign_settings(study, arm, in_order(found[arm]))
    ]


def _best(study: Study, summary: Summary, rows: list[Row], task: str | None) -> set[Row]:
    marked = [row for row in rows if is_defence(study, row[0])]
    model = study.report.main_model
    found = [None if task is None else summary.value(Condition(model, task, *row), EXACT_MATCH) for row in marked]
    return {row for row, wins in zip(marked, marks.best(found, METRICS[EXACT_MATCH].direction), strict=True) if wins}
