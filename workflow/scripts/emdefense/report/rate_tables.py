"""Tables 3, 4 and 8-11: misaligned and incoherent rates of each task's arms."""

from dataclasses import dataclass

from emdefense.analysis.conditions import (
    ARM_TITLES,
    DEFENCES,
    Condition,
    Role,
    chosen_setting,
    conditions,
    ema_tasks,
    model_in_role,
    setting_title,
    settings,
)
from emdefense.analysis.summary import (
    GENERAL_INCOHERENT,
    GENERAL_MISALIGNED,
    IN_DOMAIN_INCOHERENT,
    IN_DOMAIN_MISALIGNED,
    QUANTITIES,
    Estimate,
    Summary,
)
from emdefense.cells import NO_SETTING
from emdefense.config import Study
from emdefense.config.study import EMA_ARMS
from emdefense.report import marks
from emdefense.report.reference import Reference
from emdefense.report.table import DASH, Column, Footnotes, Table, TableCell, interval_text, number

CSV_HEADER = (
    "task",
    "arm",
    "setting",
    *(f"{quantity}_pct" for quantity in QUANTITIES),
    *(
        f"{quantity}_{kind}_{end}"
        for quantity in QUANTITIES
        for kind in ("wilson", "cluster")
        for end in ("low", "high")
    ),
)
COLUMNS = (
    Column("Task", numeric=False),
    Column("Arm", numeric=False),
    Column("misaligned ↓", "General (%)"),
    Column("incoherent ↓", "General (%)"),
    Column("misaligned ↑", "In-domain (%)"),
    Column("incoherent ↓", "In-domain (%)"),
)
DIRECTIONS: dict[str, marks.Direction] = {
    GENERAL_MISALIGNED: "lower",
    GENERAL_INCOHERENT: "lower",
    IN_DOMAIN_MISALIGNED: "higher",
    IN_DOMAIN_INCOHERENT: "lower",
}
NOT_MEASURED = "Not measured in this study."
SWEEPS = {8: "kl", 9: "ldifs", 10: "safelora", 11: "interleave"}

Row = tuple[str, str]
"""(arm, setting) of a row."""


@dataclass(frozen=True)
class _Block:
    """The rows of one task, with everything that their marks depend on."""

    study: Study
    summary: Summary
    role: Role
    model: str
    task: str
    rows: list[Row]

    def estimate(self, row: Row, quantity: str) -> Estimate | None:
        return self.summary.estimate(Condition(self.model, self.task, *row), quantity)

    def value(self, row: Row, quantity: str) -> float | None:
        found = self.estimate(row, quantity)
        return None if found is None else found.value

    @property
    def readable(self) -> bool:
        """Whether EMA appeared in the misaligned arm, so that defences can be compared with it."""
        return bool(self.summary.ema_appeared(self.model, self.task, self.study.report.emergent_pct))


def chosen_table(number_: int, study: Study, summary: Summary, reference: Reference | None) -> Table:
    """Return Table 3 (main model) or 4 (second model): every arm at its chosen setting."""
    role: Role = "main" if number_ == 3 else "second"
    model = model_in_role(study, role)
    in_grid = {c.arm for c in conditions(study) if c.model == model and c.task in ema_tasks(study)}
    rows = []
    for arm in EMA_ARMS:
        setting = chosen_setting(study, arm)
        if arm in in_grid and setting is not None:
            rows.append((arm, setting))
    what = "misaligned and incoherent responses of each arm at its chosen setting"
    return _table(number_, what, study, summary, role, rows, reference)


def sweep_table(number_: int, study: Study, summary: Summary, reference: Reference | None) -> Table:
    """Return Table 8, 9, 10 or 11: every setting of one defence, below the misaligned arm."""
    arm = SWEEPS[number_]
    found = settings(study, study.report.main_model, arm)
    rows = [("misaligned", NO_SETTING), *((arm, setting) for setting in found)]
    what = f"{ARM_TITLES[arm]}, misaligned and incoherent responses at every setting"
    return _table(number_, what, study, summary, "main", rows, reference)


def _table(
    number_: int, what: str, study: Study, summary: Summary, role: Role, rows: list[Row], reference: Reference | None
) -> Table:
    model = model_in_role(study, role)
    footnotes = Footnotes()
    blocks, csv_rows = [], []
    in_grid = {c.task for c in conditions(study) if c.model == model}
    for task in ema_tasks(study):
        if model is None or task not in in_grid:
            continue
        block = _Block(study, summary, role, model, task, rows)
        blocks.append(_rendered(block, number_, reference, footnotes))
        csv_rows += [_csv_row(block, row) for row in rows]
    title = "this study names no second model" if model is None else f"{study.models[model].title}: {what}"
    remarks = [marks.LEGEND] if blocks else []
    if reference is not None and any(cell.paper for block in blocks for row in block for cell in row):
        paper_model = reference.study.models[str(model_in_role(reference.study, role))].title
        where = "at the setting that it chose" if number_ in (3, 4) else "at the same setting"
        remarks.append(f"In brackets: the paper's value for {paper_model}, {where}.")
    if number_ in SWEEPS and len(rows) == 1:
        remarks.append(f"The study's grid has no setting of {ARM_TITLES[SWEEPS[number_]]} for this model.")
    if len(study.seeds) > 1:
        remarks.append(f"Means over {len(study.seeds)} seeds.")
    return Table(
        number=number_,
        title=title[0].upper() + title[1:],
        columns=COLUMNS,
        blocks=tuple(blocks),
        csv_header=CSV_HEADER,
        csv_rows=tuple(csv_rows),
        remarks=tuple(remarks),
        footnotes=footnotes.lettered(),
        wide=True,
    )


def _rendered(
    block: _Block, number_: int, reference: Reference | None, footnotes: Footnotes
) -> tuple[tuple[TableCell, ...], ...]:
    task_title = block.study.tasks[block.task].title
    flag = "" if block.readable else footnotes.letter(_unreadable(block))
    best = _best(block)
    rendered = []
    for index, row in enumerate(block.rows):
        arm, setting = row
        name = ", ".join(part for part in (ARM_TITLES[arm], setting_title(arm, setting)) if part)
        cells = [TableCell(task_title if index == 0 else "", footnote=flag if index == 0 else ""), TableCell(name)]
        for quantity in QUANTITIES:
            estimate = block.estimate(row, quantity)
            paper = ""
            if reference is not None and number_ in SWEEPS:
                paper = reference.same_setting(block.role, block.task, arm, setting, quantity)
            elif reference is not None:
                paper = reference.chosen(block.role, block.task, arm, quantity)
            cells.append(
                TableCell(
                    DASH if estimate is None else number(estimate.value),
                    bold=row in best[quantity],
                    italic=_is_italic(block, row, quantity),
                    underline=_is_underlined(block, row, quantity),
                    paper=paper,
                    interval=interval_text(estimate),
                    footnote=footnotes.letter(NOT_MEASURED) if estimate is None else "",
                )
            )
        rendered.append(tuple(cells))
    return tuple(rendered)


def _unreadable(block: _Block) -> str:
    if block.value(("misaligned", NO_SETTING), GENERAL_MISALIGNED) is None:
        return "The misaligned arm was not measured, so the defences cannot be compared with it and carry no marks."
    return (
        f"EMA did not appear in the misaligned arm (under {block.study.report.emergent_pct:g} %), so the defences "
        "cannot be interpreted and carry no marks."
    )


def _best(block: _Block) -> dict[str, set[Row]]:
    defences = [row for row in block.rows if row[0] in DEFENCES] if block.readable else []
    found = {}
    for quantity in QUANTITIES:
        winners = marks.best([block.value(row, quantity) for row in defences], DIRECTIONS[quantity])
        found[quantity] = {row for row, wins in zip(defences, winners, strict=True) if wins}
    return found


def _is_underlined(block: _Block, row: Row, quantity: str) -> bool:
    rule = {GENERAL_MISALIGNED: marks.prevents_ema, IN_DOMAIN_MISALIGNED: marks.keeps_task}.get(quantity)
    mine, reference = block.value(row, quantity), block.value(("misaligned", NO_SETTING), quantity)
    if rule is None or mine is None or reference is None or row[0] not in DEFENCES or not block.readable:
        return False
    return rule(mine, reference)


def _is_italic(block: _Block, row: Row, quantity: str) -> bool:
    mine, reference = block.value(row, quantity), block.value(("misaligned", NO_SETTING), quantity)
    if quantity not in (GENERAL_INCOHERENT, IN_DOMAIN_INCOHERENT) or mine is None or reference is None:
        return False
    return row[0] in DEFENCES and block.readable and marks.loses_coherence(mine, reference)


def _csv_row(block: _Block, row: Row) -> tuple[str, ...]:
    arm, setting = row
    estimates = [block.estimate(row, quantity) for quantity in QUANTITIES]
    bounds = []
    for estimate in estimates:
        for interval in (None, None) if estimate is None else (estimate.wilson, estimate.cluster):
            bounds += ["", ""] if interval is None else [number(interval[0]), number(interval[1])]
    values = [number(None if estimate is None else estimate.value) for estimate in estimates]
    return (block.task, arm, "" if setting == NO_SETTING else setting, *values, *bounds)
