"""Tables 3, 4 and 8-11, and those like them: misaligned and incoherent rates of each task's arms."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from emdefense.analysis.conditions import (
    Condition,
    Role,
    arm_title,
    arms_like,
    chosen_setting,
    defences,
    ema_arms,
    ema_tasks,
    headline_defences,
    is_defence,
    model_in_role,
    role_in_paper,
    settings,
    titled,
)
from emdefense.analysis.summary import Gaps, Summary
from emdefense.analysis.verdicts import YES, Answer, Verdicts
from emdefense.arms import MISALIGNED, NO_SETTING
from emdefense.config import Study
from emdefense.config.study import TableColumn
from emdefense.metrics import JUDGED, QUESTION_SETS, Metric
from emdefense.report.tables import marks
from emdefense.report.tables.notes import TableNotes, left_out, task_note
from emdefense.report.tables.rate_columns import (
    Quantity,
    Rate,
    cells,
    columns,
    csv_header,
    csv_row,
    kinds_shown,
    remarks,
    second_hand_remark,
    seeds_remark,
)
from emdefense.report.tables.reference import Reference
from emdefense.report.tables.table import Block, Column, Table, TableCell, csv_setting

QUANTITIES = tuple(Quantity(metric.name, f"{metric.group} (%)", metric.heading) for metric in JUDGED)
CSV_HEADER = ("task", "arm", "setting", *csv_header(QUANTITIES, [f"{metric.name}_pct" for metric in JUDGED]))
GAPS = (
    "Raised beside a rate, from 5 % on: u, how many per cent of the responses have no score and are in no "
    "rate; c, how many per cent were cut at the length limit."
)

Row = tuple[str, str]
"""(arm, setting) of a row."""


def chosen_table(
    study: Study, summary: Summary, reference: Reference | None, model: str | None, like: tuple[int, ...]
) -> Table:
    """Return Table 3 or 4 for a model: every arm at its chosen setting."""
    arms = [
        arm for arm in ema_arms(study, model or "") if not is_defence(study, arm) or arm in headline_defences(study)
    ]
    chosen = [(arm, chosen_setting(study, arm)) for arm in arms]
    rows = [(arm, setting) for arm, setting in chosen if setting is not None]
    what = "misaligned and incoherent responses of each arm at its chosen setting"
    further = [] if model is None else left_out(study, model)
    return _table(what, study, summary, model, rows, reference, like, further)


def sweep_table(
    study: Study, summary: Summary, reference: Reference | None, model: str, arm: str, like: tuple[int, ...]
) -> Table:
    """Return Table 8, 9, 10 or 11 for a model, or what is like them for an arm that the paper does not have.

    Every setting of a defence and of its variants, below the misaligned arm.
    """
    found = [(one, setting) for one in arms_like(study, arm) for setting in settings(study, model, one)]
    what = f"{arm_title(study, arm)}, misaligned and incoherent responses at every setting"
    rows = [(MISALIGNED, NO_SETTING), *found]
    further = [] if found else [f"The study's grid has no setting of {arm_title(study, arm)} for this model."]
    return _table(what, study, summary, model, rows, reference, like, further, sweep=arm)


@dataclass(frozen=True)
class _Task:
    """The rows of one task, with everything that their marks depend on."""

    study: Study
    summary: Summary
    verdicts: Verdicts
    reference: Reference | None
    role: Role | None
    model: str
    task: str
    rows: list[Row]
    sweep: str | None

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
        """Each row's rates, in the order of ``JUDGED``, with their marks."""
        best = {metric.name: self._best(metric) for metric in JUDGED}
        return {
            row: [
                Rate(
                    self.summary.estimate(Condition(self.model, self.task, *row), metric.name),
                    **self._paper(row, metric.name),
                    bold=row in best[metric.name],
                    italic=self._is_marked_by(marks.LOSES, row, metric),
                    underline=self._is_marked_by(marks.STANDS_OUT, row, metric),
                )
                for metric in JUDGED
            ]
            for row in self.rows
        }

    def gaps(self, row: Row, question_set: str) -> Gaps:
        """Return how many of a row's responses have no score or were cut."""
        return self.summary.gaps(Condition(self.model, self.task, *row), question_set)

    def value(self, row: Row, quantity: str) -> float | None:
        return self.summary.value(Condition(self.model, self.task, *row), quantity)

    def _paper(self, row: Row, quantity: str) -> dict[str, Any]:
        """Return the paper's rate, and whether it is second-hand."""
        if self.reference is None or self.role is None:
            return {}
        if self.sweep:
            own = self.reference.same_setting(self.role, self.task, *row, quantity)
        else:
            own = self.reference.chosen(self.role, self.task, row[0], quantity)
        later = self.reference.later(self.role, self.task, *row, quantity) if own is None else None
        return {"paper": own if later is None else later, "second_hand": later is not None}

    def _is_marked(self, row: Row) -> bool:
        return self.readable and row[0] in defences(self.study)

    def _best(self, metric: Metric) -> set[Row]:
        marked = [row for row in self.rows if self._is_marked(row)]
        winners = marks.best([self.value(row, metric.name) for row in marked], metric.direction)
        return {row for row, wins in zip(marked, winners, strict=True) if wins}

    def _is_marked_by(self, rules: marks.Rules, row: Row, metric: Metric) -> bool:
        rule = rules.get(metric.name)
        mine, misaligned = (self.value(of, metric.name) for of in (row, (MISALIGNED, NO_SETTING)))
        if rule is None or mine is None or misaligned is None:
            return False
        return self._is_marked(row) and rule(mine, misaligned)


def _table(
    what: str,
    study: Study,
    summary: Summary,
    model: str | None,
    rows: list[Row],
    reference: Reference | None,
    like: tuple[int, ...],
    further: list[str],
    sweep: str | None = None,
) -> Table:
    role = role_in_paper(study, model)
    has_variants = any(arm in study.variants for arm, _ in rows)
    compared = reference is not None and role is not None and len(rows) > 1
    notes = TableNotes(study, like, compared=compared, arm=None if has_variants else sweep)
    verdicts = Verdicts.of(study, summary)
    of_model = [] if model is None else [(model, task) for task in ema_tasks(study, model)]
    tasks = [_Task(study, summary, verdicts, reference, role, *place, rows, sweep) for place in of_model]
    rates = [rate for task in tasks for row in task.rates.values() for rate in row]
    kinds = kinds_shown(study.report.table_columns, rates)
    blocks = tuple(_block(task, kinds, notes) for task in tasks)
    title = "this study names no second model" if model is None else f"{study.models[model].title}: {what}"
    in_short = any(t.gaps(row, name).in_short for t in tasks for row in rows for name in QUESTION_SETS)
    return Table(
        title=title[0].upper() + title[1:],
        columns=(Column("Task", numeric=False), Column("Arm", numeric=False), *columns(QUANTITIES, kinds)),
        blocks=blocks,
        csv_header=CSV_HEADER,
        csv_rows=tuple(
            (task.task, arm, csv_setting(setting), *csv_row(task.rates[arm, setting]))
            for task in tasks
            for arm, setting in rows
        ),
        remarks=(
            *([marks.LEGEND] if tasks else []),
            *remarks(kinds, "responses of all that have both scores", _of_paper(role, reference, sweep)),
            *further,
            *second_hand_remark(rates),
            *([GAPS] if in_short else []),
            *seeds_remark(rates),
        ),
        footnotes=notes.lettered(),
        title_footnote=notes.title,
    )


def _of_paper(role: Role | None, reference: Reference | None, sweep: str | None) -> str:
    """Return what the paper's rates are of."""
    if reference is None or role is None:
        return ""
    model = reference.study.models[str(model_in_role(reference.study, role))].title
    return f"{model}, {'at the same setting' if sweep else 'at the setting that it chose'}"


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
        for rate, metric in zip(rates, JUDGED, strict=True):
            gaps = task.gaps(row, metric.question_set)
            missing = "" if rate.estimate is not None or gaps.responses else notes.not_measured()
            shown = cells(rate, kinds, missing)
            if gaps.in_short:
                shown[0] = replace(shown[0], footnote=gaps.in_short)
            of_rates.append(shown)
        rendered.append((*names, *(cell for of_rate in of_rates for cell in of_rate)))
    return tuple(rendered)
