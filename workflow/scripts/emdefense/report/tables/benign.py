"""Tables 5 and 6, exact match on OpSwap's tiers and on FoQA, and those of a study's own benign tasks."""

from dataclasses import dataclass

from emdefense.analysis.answers import match_of
from emdefense.analysis.conditions import (
    Condition,
    benign_settings,
    conditions,
    defences,
    is_defence,
    role_in_paper,
    titled,
)
from emdefense.analysis.summary import Summary
from emdefense.arms import NO_SETTING, in_order
from emdefense.config import Study
from emdefense.matching import EXACT, TITLES, Match
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
from emdefense.report.tables.reference import FOQA, OPSWAP, Reference, benign_task, benign_tasks
from emdefense.report.tables.table import Column, Table, TableCell, csv_setting

TIERS = (0, 1, 2, 3)
LEGEND = "{what} (%). Bold: the best defence in the column, as printed."
MEANING: dict[Match, str] = {
    "number": "Last number right: the last number in the answer is an expected one, exactly.",
    "normalised": "Normalised match: the answer is an expected one but for case, punctuation, articles and spaces, as "
    "in SQuAD's evaluation.",
}

Row = tuple[str, str]
"""(arm, setting) of a row."""


@dataclass(frozen=True)
class _Column:
    """A column: the task that fills it, if the study has one, what it is in the paper, and how it is called."""

    task: str | None
    quantity: Quantity
    csv_value: str
    of_paper: tuple[str, int | None] | None = None


def opswap_table(study: Study, summary: Summary, reference: Reference | None) -> Table:
    """Return Table 5: arms × tiers of OpSwap."""
    columns = []
    for tier in TIERS:
        task, name = benign_task(study, OPSWAP, tier), f"tier_{tier}"
        quantity = Quantity(name, f"{_match(study, task)} (%)", f"tier {tier} ↑")
        columns.append(_Column(task, quantity, name, (OPSWAP, tier)))
    return _table((5,), "OpSwap, exact match by tier", study, summary, reference, study.report.main_model, columns)


def foqa_table(study: Study, summary: Summary, reference: Reference | None) -> Table:
    """Return Table 6: exact match on FoQA, or on the study's analogue of it, and beside it on tasks that join it."""
    tasks = benign_tasks(study, FOQA)
    first = tasks[0] if tasks else None
    quantity = Quantity(EXACT_MATCH, "", f"{_match(study, first)} ↑ (%)")
    columns = [_Column(first, quantity, f"{EXACT_MATCH}_pct", (FOQA, None))]
    columns += [_own_column(study, task) for task in tasks[1:]]
    title = f"{'FoQA' if first is None else study.tasks[first].title}, {_match(study, first).lower()}"
    return _table((6,), title, study, summary, reference, study.report.main_model, columns)


def own_table(study: Study, summary: Summary, model: str, table: str) -> Table:
    """Return the table of a study's own benign tasks that name it: a column a task, in the order of the config."""
    columns = [_own_column(study, task) for task in benign_tasks(study, table)]
    titles = ", ".join(study.tasks[column.task].title for column in columns if column.task is not None)
    return _table((), f"{titles}: right answers", study, summary, None, model, columns)


def _own_column(study: Study, task: str) -> _Column:
    return _Column(task, Quantity(task, f"{_match(study, task)} (%)", f"{study.tasks[task].title} ↑"), f"{task}_pct")


def _match(study: Study, task: str | None) -> str:
    """Return what the answers of a task are marked by, as a heading."""
    return TITLES[EXACT if task is None else match_of(study, task)].capitalize()


def _table(
    like: tuple[int, ...],
    what: str,
    study: Study,
    summary: Summary,
    reference: Reference | None,
    model: str,
    shown_columns: list[_Column],
) -> Table:
    if role_in_paper(study, model) != "main":
        reference = None  # the paper has these tables of one model
    tasks = [column.task for column in shown_columns]
    rows = _rows(study, model, set(tasks))
    best = {task: _best(study, summary, model, rows, task) for task in tasks}
    rates = {
        row: [
            Rate(
                None if column.task is None else summary.estimate(Condition(model, column.task, *row), EXACT_MATCH),
                paper=_of_paper(study, reference, column, row),
                bold=row in best[column.task],
            )
            for column in shown_columns
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
    quantities = [column.quantity for column in shown_columns]
    matches = list(dict.fromkeys(EXACT if task is None else match_of(study, task) for task in tasks))
    return Table(
        title=f"{study.models[model].title}: {what}",
        columns=(Column("Arm", numeric=False), *columns(quantities, shown)),
        blocks=tuple(tuple(block) for block in blocks.values() if block),
        csv_header=("arm", "setting", *csv_header(quantities, [column.csv_value for column in shown_columns])),
        csv_rows=tuple((arm, csv_setting(setting), *csv_row(of_row)) for (arm, setting), of_row in rates.items()),
        remarks=(
            *([_legend(matches)] if rows else ["This study has no such task."]),
            *(MEANING[match] for match in matches if rows and match in MEANING),
            *remarks(shown, "correct answers of all", paper),
            *seeds_remark(flat),
        ),
        footnotes=notes.lettered(),
        title_footnote=notes.title,
    )


def _legend(matches: list[Match]) -> str:
    what = TITLES[matches[0]].capitalize() if len(matches) == 1 else "Right answers, by the match of each task"
    return LEGEND.format(what=what)


def _of_paper(study: Study, reference: Reference | None, column: _Column, row: Row) -> float | None:
    """Return the paper's exact match; None beside what is not exact match, or if it has none."""
    if reference is None or column.of_paper is None:
        return None
    if column.task is not None and match_of(study, column.task) != EXACT:
        return None
    return reference.exact_match(*column.of_paper, *row)


def _rows(study: Study, model: str, tasks: set[str | None]) -> list[Row]:
    """Return (arm, setting) of every row: the grid's arms on these tasks, in the paper's order."""
    found: dict[str, set[str]] = {}
    for c in conditions(study):
        if c.model == model and c.task in tasks:
            found.setdefault(c.arm, set()).add(c.setting)
    plain = [(arm, NO_SETTING) for arm in study.every_arm if arm in found and not is_defence(study, arm)]
    return plain + [
        (arm, setting)
        for arm in defences(study)
        if arm in found
        for setting in benign_settings(study, arm, in_order(found[arm]))
    ]


def _best(study: Study, summary: Summary, model: str, rows: list[Row], task: str | None) -> set[Row]:
    marked = [row for row in rows if is_defence(study, row[0])]
    found = [None if task is None else summary.value(Condition(model, task, *row), EXACT_MATCH) for row in marked]
    return {row for row, wins in zip(marked, marks.best(found, METRICS[EXACT_MATCH].direction), strict=True) if wins}
