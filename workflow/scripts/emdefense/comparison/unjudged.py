"""What needs no judge, side by side: multiple choice, and how likely held-out answers are."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, NamedTuple

from emdefense.comparison.pairs import Comparison, Row, setting_value
from emdefense.comparison.tables import NOT_POOLED, titled
from emdefense.finished import Finished
from emdefense.likelihood.read import SIDES
from emdefense.names import SHARED_TASK
from emdefense.report.tables.likelihood import TITLES
from emdefense.report.tables.table import DASH, Column, Table, TableCell, csv_setting

CSV_HEADER = ("study", "model", "task", "arm", "setting", "of", "value", "low", "high")
BRACKETS = "In brackets: 95 % interval, when whole {drawn} are drawn anew, all of the study's seeds together."


class Value(NamedTuple):
    """A number and its interval."""

    value: float
    low: float
    high: float


Key = tuple[str, str, str, str, str]  # model, task, arm, setting, and what it is of
Values = Mapping[Key, Value]


def choice_tables(comparison: Comparison) -> list[Table]:
    """Return a table for each set of multiple-choice questions that two studies ask, or more."""
    names = dict.fromkeys(name for one in comparison.studies for name in one.study.multiple_choice)
    found = []
    for name in names:
        title = next(one.study.multiple_choice[name].title for one in comparison.studies if name in _asked(one))
        remarks = (
            f"Right answers in per cent. {NOT_POOLED}{BRACKETS.format(drawn='questions')}",
            *_other_questions(comparison, name),
        )
        values = [_choices(one, name) for one in comparison.studies]
        table = _table(comparison, values, {name: "Right answers (%)"}, "{:.1f} [{:.1f}, {:.1f}]")
        found.append(_named(table, f"multiple_choice_{name}", f"{title}, multiple choice, side by side", remarks))
    return [table for table in found if table.blocks]


def likelihood_table(comparison: Comparison) -> Table | None:
    """Return the table of how likely held-out answers are; None if there are no two studies that measure it."""
    values = [_likelihood(one) for one in comparison.studies]
    sides = {side: TITLES[side] for side in SIDES if any(key[-1] == side for found in values for key in found)}
    table = _table(comparison, values, sides, "{:.2f} [{:.2f}, {:.2f}]")
    said = "Mean log-probability a token of answers that nothing was trained on, in nats; rows may be other ones. "
    remark = said + NOT_POOLED + BRACKETS.format(drawn="rows")
    return _named(table, "likelihood", "Held-out answers, side by side", (remark,)) if table.blocks else None


def _asked(study: Finished) -> Mapping[str, Any]:
    return study.study.multiple_choice


def _choices(study: Finished, name: str) -> Values:
    if name not in _asked(study):
        return {}
    rows = study.measured.multiple_choice.filter(set=name, score=_asked(study)[name].score)
    return {
        (*_condition(row), name): Value(row["pooled_pct"], row["pooled_low_pct"], row["pooled_high_pct"])
        for row in rows.iter_rows(named=True)
    }


def _likelihood(study: Finished) -> Values:
    if study.study.likelihood is None:
        return {}
    return {
        (*_condition(row), row["side"]): Value(row["pooled"], row["pooled_low"], row["pooled_high"])
        for row in study.measured.likelihood.iter_rows(named=True)
    }


def _condition(row: Mapping[str, Any]) -> tuple[str, str, str, str]:
    return row["model"], row["task"], row["arm"], row["setting"]


def _other_questions(comparison: Comparison, name: str) -> list[str]:
    """Return a warning where studies of one set do not ask in the same way."""
    asked = [_asked(one)[name] for one in comparison.studies if name in _asked(one)]
    keys = [key for key in ("file", "options", "score", "limit", "seed") if len({getattr(a, key) for a in asked}) > 1]
    return [f"Not asked alike: {', '.join(keys)} of the set differ between the studies."] if keys else []


def _table(comparison: Comparison, values: Sequence[Values], of: Mapping[str, str], written: str) -> Table:
    """Return the table of ``values``, one mapping a study: a row an arm, a column what it is ``of`` and a study."""
    rows = _rows(comparison, values)
    several = len({row.place for row in rows}) > 1
    blocks = []
    for (place, task), here in groupby(rows, key=lambda row: (row.place, row.task)):
        names = [*([place.title] if several else []), _task_title(comparison, task)]
        block = [
            (
                *(TableCell(name if n == 0 else "") for name in names),
                TableCell(titled(comparison, row)),
                *(
                    TableCell(_written(written, _value(found, row, k, key)))
                    for key in of
                    for k, found in enumerate(values)
                ),
            )
            for n, row in enumerate(here)
        ]
        blocks.append(tuple(block))
    headings = [*(["Model"] if several else []), "Task", "Arm"]
    return Table(
        title="",
        columns=(
            *(Column(heading, numeric=False) for heading in headings),
            *(Column(one.label, group) for group in of.values() for one in comparison.studies),
        ),
        blocks=tuple(blocks),
        csv_header=CSV_HEADER,
        csv_rows=tuple(
            (one.label, *key[:3], csv_setting(key[3]), key[4], *(f"{part:.6g}" for part in value))
            for one, found in zip(comparison.studies, values, strict=True)
            for key, value in found.items()
        ),
    )


def _rows(comparison: Comparison, values: Sequence[Values]) -> list[Row]:
    """Return a row for each arm of which two studies have a value, in the order of places, tasks and arms."""
    arms = dict.fromkeys(arm for one in comparison.studies for arm in one.study.every_arm)
    tasks = dict.fromkeys((SHARED_TASK, *(task for one in comparison.studies for task in one.study.tasks)))
    found: dict[Row, set[int]] = {}
    for k, of_study in enumerate(values):
        for model, task, arm, setting, _ in of_study:
            place = next(place for place in comparison.places if place.models[k] == model)
            found.setdefault(Row(place, task, arm, setting), set()).add(k)
    places, order, names = list(comparison.places), list(arms), list(tasks)
    return sorted(
        (row for row, of in found.items() if len(of) > 1),
        key=lambda row: (
            *(places.index(row.place), names.index(row.task), order.index(row.arm)),
            setting_value(row.setting),
        ),
    )


def _value(found: Values, row: Row, number: int, of: str) -> Value | None:
    model = row.place.models[number]
    return None if model is None else found.get((model, row.task, row.arm, row.setting, of))


def _task_title(comparison: Comparison, task: str) -> str:
    if task == SHARED_TASK:
        return "not fine-tuned"
    return next(one.study.tasks[task].title for one in comparison.studies if task in one.study.tasks)


def _written(how: str, value: Value | None) -> str:
    if value is None:
        return DASH
    return how.format(*value).replace("-", "−")


def _named(table: Table, name: str, title: str, remarks: tuple[str, ...]) -> Table:
    return replace(table, name=name, title=title, remarks=remarks)
