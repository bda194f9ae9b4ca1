"""Tables 5 and 6: exact match on OpSwap's tiers and on FoQA."""

from dataclasses import dataclass

from emdefense.analysis.conditions import ARM_TITLES, DEFENCES, Condition, conditions, setting_title
from emdefense.analysis.summary import EXACT_MATCH, Estimate, Summary
from emdefense.cells import NO_SETTING
from emdefense.config import Study
from emdefense.config.study import BENIGN_ARMS
from emdefense.report import marks
from emdefense.report.reference import Reference, benign_settings, benign_task
from emdefense.report.table import DASH, Column, Footnotes, Table, TableCell, number

TIERS = (0, 1, 2, 3)
NOT_MEASURED = "Not measured in this study."
LEGEND = "Exact match (%). Bold: the best defence in the column, as printed."


@dataclass(frozen=True)
class _Task:
    """A column: the task that fills it (None if the study has none), and its place in the paper."""

    name: str | None
    table: str
    tier: int | None


def opswap_table(study: Study, summary: Summary, reference: Reference | None) -> Table:
    """Return Table 5: arms × tiers of OpSwap."""
    tasks = [_Task(benign_task(study, "opswap", tier), "opswap", tier) for tier in TIERS]
    columns = (Column("Arm", numeric=False), *(Column(f"tier {tier} ↑", "Exact match (%)") for tier in TIERS))
    header = ("arm", "setting", *(f"tier_{tier}" for tier in TIERS))
    return _table(5, "OpSwap, exact match by tier", study, summary, reference, tasks, columns, header)


def foqa_table(study: Study, summary: Summary, reference: Reference | None) -> Table:
    """Return Table 6: exact match on FoQA, or on the study's analogue of it."""
    tasks = [_Task(benign_task(study, "foqa", None), "foqa", None)]
    columns = (Column("Arm", numeric=False), Column("Exact match ↑ (%)"))
    header = ("arm", "setting", "exact_match_pct")
    title = "FoQA" if tasks[0].name is None else study.tasks[tasks[0].name].title
    return _table(6, f"{title}, exact match", study, summary, reference, tasks, columns, header)


def _table(
    number_: int,
    what: str,
    study: Study,
    summary: Summary,
    reference: Reference | None,
    tasks: list[_Task],
    columns: tuple[Column, ...],
    csv_header: tuple[str, ...],
) -> Table:
    model = study.report.main_model
    rows = _rows(study, {task.name for task in tasks})
    estimates = {
        (row, task): None if task.name is None else summary.estimate(Condition(model, task.name, *row), EXACT_MATCH)
        for row in rows
        for task in tasks
    }
    footnotes = Footnotes()
    best = {task: _best(rows, task, estimates) for task in tasks}
    blocks: dict[bool, list[tuple[TableCell, ...]]] = {False: [], True: []}
    csv_rows = []
    for row in rows:
        arm, setting = row
        name = ", ".join(part for part in (ARM_TITLES[arm], setting_title(arm, setting)) if part)
        cells = [TableCell(name)]
        for task in tasks:
            estimate = estimates[row, task]
            cells.append(
                TableCell(
                    DASH if estimate is None else number(estimate.value),
                    bold=row in best[task],
                    paper="" if reference is None else reference.exact_match(task.table, task.tier, arm, setting),
                    interval=_interval(estimate),
                    footnote=footnotes.letter(NOT_MEASURED) if estimate is None else "",
                )
            )
        blocks[arm in DEFENCES].append(tuple(cells))
        values = [estimates[row, task] for task in tasks]
        shown = [number(None if estimate is None else estimate.value) for estimate in values]
        csv_rows.append((arm, "" if setting == NO_SETTING else setting, *shown))
    remarks = [LEGEND] if rows else ["This study has no such task."]
    if any(cell.paper for block in blocks.values() for row_cells in block for cell in row_cells):
        assert reference is not None
        paper_model = reference.study.models[reference.study.report.main_model].title
        remarks.append(f"In brackets: the paper's value for {paper_model}, where it has the same setting.")
    return Table(
        number=number_,
        title=f"{study.models[model].title}: {what}",
        columns=columns,
        blocks=tuple(tuple(block) for block in blocks.values() if block),
        csv_header=csv_header,
        csv_rows=tuple(csv_rows),
        remarks=tuple(remarks),
        footnotes=footnotes.lettered(),
        wide=len(tasks) > 1,
    )


def _rows(study: Study, tasks: set[str | None]) -> list[tuple[str, str]]:
    """Return (arm, setting) of every row: the grid's arms on these tasks, in the paper's order."""
    model = study.report.main_model
    rows = []
    for arm in BENIGN_ARMS:
        in_grid = [c.setting for c in conditions(study) if c.model == model and c.task in tasks and c.arm == arm]
        if arm not in DEFENCES:
            rows += [(arm, NO_SETTING)] if in_grid else []
        elif in_grid:
            found = sorted(set(in_grid), key=float)
            rows += [(arm, setting) for setting in benign_settings(study, arm, found)]
    return rows


def _best(
    rows: list[tuple[str, str]], task: _Task, estimates: dict[tuple[tuple[str, str], _Task], Estimate | None]
) -> set[tuple[str, str]]:
    defences = [row for row in rows if row[0] in DEFENCES]
    found = [estimates[row, task] for row in defences]
    winners = marks.best([None if estimate is None else estimate.value for estimate in found], "higher")
    return {row for row, wins in zip(defences, winners, strict=True) if wins}


def _interval(estimate: Estimate | None) -> str:
    if estimate is None or estimate.wilson is None:
        return ""
    return f"95 % interval: {number(estimate.wilson[0])} to {number(estimate.wilson[1])}"
