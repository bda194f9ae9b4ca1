"""Tables 3, 4 and 8-11: misaligned and incoherent rates of each task's arms."""

from dataclasses import dataclass, replace
from functools import cached_property

from emdefense.analysis.conditions import (
    Condition,
    Role,
    arm_title,
    arms_like,
    chosen_setting,
    conditions,
    defences,
    ema_arms,
    ema_tasks,
    headline_defences,
    is_defence,
    model_in_role,
    settings,
    titled,
)
from emdefense.analysis.summary import (
    GENERAL_INCOHERENT,
    GENERAL_MISALIGNED,
    IN_DOMAIN_INCOHERENT,
    IN_DOMAIN_MISALIGNED,
    Gaps,
    Summary,
)
from emdefense.analysis.verdicts import YES, Answer, Verdicts
from emdefense.arms import DEFENCES, MISALIGNED, NO_SETTING
from emdefense.cells import GENERAL, IN_DOMAIN
from emdefense.config import Study
from emdefense.config.study import TableColumn
from emdefense.report import marks
from emdefense.report.ema_notes import task_note
from emdefense.report.rate_columns import (
    CSV_BESIDE,
    CSV_BOUNDS,
    Quantity,
    Rate,
    cells,
    columns,
    csv_beside,
    csv_bounds,
    csv_columns,
    kinds_shown,
    remarks,
    seeds_remark,
)
from emdefense.report.reference import Reference
from emdefense.report.table import Block, Column, Table, TableCell, number
from emdefense.report.table_notes import TableNotes

QUANTITIES = (
    Quantity(GENERAL_MISALIGNED, "General (%)", "misaligned ↓"),
    Quantity(GENERAL_INCOHERENT, "General (%)", "incoherent ↓"),
    Quantity(IN_DOMAIN_MISALIGNED, "In-domain (%)", "misaligned ↑"),
    Quantity(IN_DOMAIN_INCOHERENT, "In-domain (%)", "incoherent ↓"),
)
CSV_HEADER = (
    *("task", "arm", "setting"),
    *csv_columns(QUANTITIES, ["pct"]),
    *csv_columns(QUANTITIES, CSV_BOUNDS),
    *csv_columns(QUANTITIES, CSV_BESIDE),
)
DIRECTIONS: dict[str, marks.Direction] = {
    GENERAL_MISALIGNED: "lower",
    GENERAL_INCOHERENT: "lower",
    IN_DOMAIN_MISALIGNED: "higher",
    IN_DOMAIN_INCOHERENT: "lower",
}
GAPS = (
    "Raised beside a rate, from 5 % on: u, how many per cent of the responses have no score and are in no "
    "rate; c, how many per cent were cut at the length limit."
)
SWEEPS = {arm.sweep.table: arm.name for arm in DEFENCES if arm.sweep}

Row = tuple[str, str]
"""(arm, setting) of a row."""


def chosen_table(number_: int, study: Study, summary: Summary, reference: Reference | None) -> Table:
    """Return Table 3 (main model) or 4 (second model): every arm at its chosen setting."""
    role: Role = "main" if number_ == 3 else "second"
    model = model_in_role(study, role)
    arms = [
        arm for arm in ema_arms(study, model or "") if not is_defence(study, arm) or arm in headline_defences(study)
    ]
    chosen = [(arm, chosen_setting(study, arm)) for arm in arms]
    rows = [(arm, setting) for arm, setting in chosen if setting is not None]
    what = "misaligned and incoherent responses of each arm at its chosen setting"
    return _table(number_, what, study, summary, role, rows, reference)


def sweep_table(number_: int, study: Study, summary: Summary, reference: Reference | None) -> Table:
    """Return Table 8, 9, 10 or 11: every setting of one defence and of its variants, below the misaligned arm."""
    arm = SWEEPS[number_]
    model = study.report.main_model
    found = [(like, setting) for like in arms_like(study, arm) for setting in settings(study, model, like)]
    what = f"{arm_title(study, arm)}, misaligned and incoherent responses at every setting"
    return _table(number_, what, study, summary, "main", [(MISALIGNED, NO_SETTING), *found], reference)


@dataclass(frozen=True)
class _Task:
    """The rows of one task, with everything that their marks depend on."""

    study: Study
    summary: Summary
    verdicts: Verdicts
    reference: Reference | None
    role: Role
    model: str
    task: str
    table: int
    rows: list[Row]

    @property
    def readable(self) -> bool:
        """Whether EMA appeared in the misaligned arm, so that defences can be compared with it.

        Published tables are marked as they were published.
        """
        return self.summary.published or self._ema.says == YES

    @property
    def why_unreadable(self) -> str:
        """Why defences cannot be compared with the misaligned arm; empty if they can."""
        return "" if self.readable else f"{task_note(self.study, self._ema)} The defences carry no marks."

    @property
    def _ema(self) -> Answer:
        return self.verdicts.ema(self.model, self.task)

    @cached_property
    def rates(self) -> dict[Row, list[Rate]]:
        """Each row's rates, in the order of ``QUANTITIES``, with their marks."""
        best = {quantity.name: self._best(quantity.name) for quantity in QUANTITIES}
        return {
            row: [
                Rate(
                    self.summary.estimate(Condition(self.model, self.task, *row), name),
                    paper=self._paper(row, name),
                    bold=row in best[name],
                    italic=self._is_italic(row, name),
                    underline=self._is_underlined(row, name),
                )
                for name in (quantity.name for quantity in QUANTITIES)
            ]
            for row in self.rows
        }

    def gaps(self, row: Row, question_set: str) -> Gaps:
        """Return how many of a row's responses have no score or were cut."""
        return self.summary.gaps(Condition(self.model, self.task, *row), question_set)

    def value(self, row: Row, quantity: str) -> float | None:
        return self.summary.value(Condition(self.model, self.task, *row), quantity)

    def _paper(self, row: Row, quantity: str) -> float | None:
        if self.reference is None:
            return None
        if self.table in SWEEPS:
            return self.reference.same_setting(self.role, self.task, *row, quantity)
        return self.reference.chosen(self.role, self.task, row[0], quantity)

    def _is_marked(self, row: Row) -> bool:
        return self.readable and row[0] in defences(self.study)

    def _best(self, quantity: str) -> set[Row]:
        marked = [row for row in self.rows if self._is_marked(row)]
        winners = marks.best([self.value(row, quantity) for row in marked], DIRECTIONS[quantity])
        return {row for row, wins in zip(marked, winners, strict=True) if wins}

    def _is_underlined(self, row: Row, quantity: str) -> bool:
        rule = {GENERAL_MISALIGNED: marks.prevents_ema, IN_DOMAIN_MISALIGNED: marks.keeps_task}.get(quantity)
        mine, misaligned = self.value(row, quantity), self.value((MISALIGNED, NO_SETTING), quantity)
        if rule is None or mine is None or misaligned is None:
            return False
        return self._is_marked(row) and rule(mine, misaligned)

    def _is_italic(self, row: Row, quantity: str) -> bool:
        mine, misaligned = self.value(row, quantity), self.value((MISALIGNED, NO_SETTING), quantity)
        if quantity not in (GENERAL_INCOHERENT, IN_DOMAIN_INCOHERENT) or mine is None or misaligned is None:
            return False
        return self._is_marked(row) and marks.loses_coherence(mine, misaligned)


def _table(
    number_: int, what: str, study: Study, summary: Summary, role: Role, rows: list[Row], reference: Reference | None
) -> Table:
    model = model_in_role(study, role)
    has_variants = any(arm in study.variants for arm, _ in rows)
    whole = None if has_variants else SWEEPS.get(number_)
    notes = TableNotes(study, number_, compared=reference is not None and len(rows) > 1, arm=whole)
    in_grid = {c.task for c in conditions(study) if c.model == model}
    verdicts = Verdicts.of(study, summary)
    tasks = [
        _Task(study, summary, verdicts, reference, role, model, task, number_, rows)
        for task in ema_tasks(study)
        if model is not None and task in in_grid
    ]
    rates = [rate for task in tasks for row in task.rates.values() for rate in row]
    kinds = kinds_shown(study.report.table_columns, rates)
    blocks = tuple(_block(task, kinds, notes) for task in tasks)
    title = "this study names no second model" if model is None else f"{study.models[model].title}: {what}"
    return Table(
        number=number_,
        title=title[0].upper() + title[1:],
        columns=(Column("Task", numeric=False), Column("Arm", numeric=False), *columns(QUANTITIES, kinds)),
        blocks=blocks,
        csv_header=CSV_HEADER,
        csv_rows=tuple(_csv_row(task, row) for task in tasks for row in rows),
        remarks=(
            *([marks.LEGEND] if tasks else []),
            *remarks(kinds, "responses of all that have both scores", _of_paper(number_, role, reference)),
            *([_no_setting(study, number_)] if number_ in SWEEPS and len(rows) == 1 else []),
            *(
                [GAPS]
                if any(t.gaps(row, s).in_short for t in tasks for row in rows for s in (GENERAL, IN_DOMAIN))
                else []
            ),
            *seeds_remark(rates),
        ),
        footnotes=notes.lettered(),
        title_footnote=notes.title,
    )


def _of_paper(number_: int, role: Role, reference: Reference | None) -> str:
    """Return what the paper's rates are of."""
    if reference is None:
        return ""
    model = reference.study.models[str(model_in_role(reference.study, role))].title
    return f"{model}, {'at the same setting' if number_ in SWEEPS else 'at the setting that it chose'}"


def _no_setting(study: Study, number_: int) -> str:
    return f"The study's grid has no setting of {arm_title(study, SWEEPS[number_])} for this model."


def _block(task: _Task, kinds: tuple[TableColumn, ...], notes: TableNotes) -> Block:
    title = task.study.tasks[task.task].title
    at_task = notes.of_task(task.task, *filter(None, [task.why_unreadable]))
    rendered: list[tuple[TableCell, ...]] = []
    for row, rates in task.rates.items():
        first = not rendered
        names = (
            TableCell(title if first else "", footnote=at_task if first else ""),
            TableCell(titled(task.study, *row), footnote=notes.of_arm(row[0])),
        )
        of_rates = []
        for rate, question_set in zip(
            rates, (GENERAL, GENERAL, IN_DOMAIN, IN_DOMAIN), strict=True
        ):  # of ``QUANTITIES``
            gaps = task.gaps(row, question_set)
            missing = "" if rate.estimate is not None or gaps.responses else notes.not_measured()
            shown = cells(rate, kinds, missing)
            if gaps.in_short:
                shown[0] = replace(shown[0], footnote=gaps.in_short)
            of_rates.append(shown)
        rendered.append((*names, *(cell for of_rate in of_rates for cell in of_rate)))
    return tuple(rendered)


def _csv_row(task: _Task, row: Row) -> tuple[str, ...]:
    arm, setting = row
    rates = task.rates[row]
    values = [number(None if rate.estimate is None else rate.estimate.value) for rate in rates]
    bounds = [field for rate in rates for field in csv_bounds(rate)]
    beside = [field for rate in rates for field in csv_beside(rate)]
    return (task.task, arm, "" if setting == NO_SETTING else setting, *values, *bounds, *beside)
