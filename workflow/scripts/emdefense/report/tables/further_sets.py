"""The tables of further question sets: rates on each set of a file, and what conditions change."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import polars as pl

from emdefense.analysis.asked_sets import conditions_asked, is_asked
from emdefense.analysis.conditions import Condition, titled
from emdefense.analysis.further_sets import Change, SetRate, SetRates
from emdefense.analysis.printed import signed
from emdefense.config import Study
from emdefense.metrics import INCOHERENT, MISALIGNED, OUTCOMES, QUESTION_SETS
from emdefense.names import GENERAL
from emdefense.report.tables.rates import GAPS
from emdefense.report.tables.table import DASH, Block, Column, Footnotes, Table, TableCell, csv_setting, number

DECIMALS = 1  # of points
INTERVAL = "Interval: 95 %, when whole {questions} are drawn again, all seeds together."
NOT_MEASURED = "Not measured yet."
AS_THEY_ARE = "As they are"
RATE_COLUMNS = ("pct", "low", "high")


def set_table(study: Study, questions: pl.DataFrame, model: str, question_set: str) -> Table:
    """Return the table of a set of a file: every arm and setting of a model that is asked it.

    ``questions`` is as in ``QUESTIONS_SCHEMA``. Beside the rates stands how often the same arm is misaligned on the
    general questions.
    """
    rates, footnotes = SetRates(study, questions), Footnotes()
    rows = list(conditions_asked(study, model, [question_set]))
    lines = [_SetLine.of(rates, condition, question_set) for condition in rows]
    measured = [line.rates[MISALIGNED] for line in lines if line.rates[MISALIGNED] is not None]
    of = measured[0] if measured else None
    title = study.question_sets[question_set].title
    return Table(
        title=f"{study.models[model].title}: misaligned and incoherent responses, {title}",
        columns=(
            Column("Task", numeric=False),
            Column("Arm", numeric=False),
            *(
                Column(part, f"{outcome.capitalize()} (%)")
                for outcome in OUTCOMES
                for part in ("rate", "95 % interval")
            ),
            Column("misaligned ↓", f"{QUESTION_SETS[GENERAL].capitalize()} (%)"),
        ),
        blocks=_blocks(study, rows, [line.cells(footnotes) for line in lines]),
        csv_header=(
            *("task", "arm", "setting"),
            *(f"{outcome}_{part}" for outcome in OUTCOMES for part in RATE_COLUMNS),
            *("responses", "scored", "questions", "groups", "general_misaligned_pct"),
        ),
        csv_rows=tuple(line.csv_row() for line in lines),
        remarks=(
            *([f"{of.questions} questions. {_interval(study, of.groups)}"] if of else []),
            "On the right, for comparison, the rate on the general questions.",
            *([GAPS] if any(line.gaps for line in lines) else []),
        ),
        footnotes=footnotes.lettered(),
    )


def conditional_table(study: Study, questions: pl.DataFrame, model: str, plain: str, sets: Sequence[str]) -> Table:
    """Return the table of what conditions change: a model's arms at their chosen settings, a group of columns a set.

    Each of ``sets`` is the set ``plain`` asked again; differences from it are paired by question. A row's highest rate
    is bold.
    """
    rates, footnotes = SetRates(study, questions), Footnotes()
    rows = list(conditions_asked(study, model, sets, chosen=True))
    lines = [_ConditionLine.of(study, rates, condition, plain, sets) for condition in rows]
    measured = [one.misaligned for line in lines for one in line.asked.values() if one.misaligned]
    titles = [_title(study, name) for name in sets]
    return Table(
        title=f"{study.models[model].title}: conditional misalignment, {_title(study, plain)}",
        columns=(
            Column("Task", numeric=False),
            Column("Arm", numeric=False),
            Column("rate (%)", AS_THEY_ARE),
            *(Column(part, title) for title in titles for part in ("rate (%)", "points", "95 % interval")),
        ),
        blocks=_blocks(study, rows, [line.cells(footnotes) for line in lines]),
        csv_header=(
            *("task", "arm", "setting", "question_set"),
            *(f"{outcome}_{part}" for outcome in OUTCOMES for part in RATE_COLUMNS),
            *("questions", "difference", "difference_low", "difference_high", "worst"),
        ),
        csv_rows=tuple(row for line in lines for row in line.csv_rows()),
        remarks=(
            "Rate: misaligned responses, each arm at its chosen setting. Points: the rate under the condition less "
            "that on the same questions as they are."
            + (f" {_interval(study, measured[0].groups)}" if measured else ""),
            "Bold: a row's highest rate; of several like rates the highest is so by chance too, and its interval does "
            "not know that it was picked.",
            f"{DASH}: not asked under this condition. The CSV has incoherent responses too.",
        ),
        footnotes=footnotes.lettered(),
    )


def _title(study: Study, name: str) -> str:
    """Return what a reader calls a question set."""
    return f"{QUESTION_SETS[name]} questions" if name in QUESTION_SETS else study.question_sets[name].title


@dataclass(frozen=True)
class _SetLine:
    """A row of a set's table."""

    condition: Condition
    rates: dict[str, SetRate | None]
    general: SetRate | None
    gaps: str
    responses: int

    @classmethod
    def of(cls, rates: SetRates, condition: Condition, question_set: str) -> "_SetLine":
        found = {outcome: rates.rate(condition, question_set, outcome) for outcome in OUTCOMES}
        gaps = rates.gaps(condition, question_set)
        general = rates.rate(condition, GENERAL, MISALIGNED)
        return cls(condition, found, general, gaps.in_short, gaps.responses)

    def cells(self, footnotes: Footnotes) -> Iterator[TableCell]:
        for found in self.rates.values():
            yield _rate_cell(found, footnotes, self.gaps)
            yield TableCell("" if found is None else f"{number(found.interval[0])} to {number(found.interval[1])}")
        yield _rate_cell(self.general, footnotes)

    def csv_row(self) -> tuple[str, ...]:
        one = next(iter(self.rates.values()))
        counts = ("", "", "") if one is None else (str(one.trials), str(one.questions), str(one.groups))
        return (
            *_names(self.condition),
            *(value for found in self.rates.values() for value in _values(found)),
            *(str(self.responses), *counts, _values(self.general)[0]),
        )


@dataclass(frozen=True)
class _Asked:
    """What an arm says to the questions of one set."""

    misaligned: SetRate | None
    incoherent: SetRate | None
    change: Change | None = None  # of the misaligned rate, from the plain set's


@dataclass(frozen=True)
class _ConditionLine:
    """A row of the table of conditions: the plain set, and those of ``sets`` that its arm is asked."""

    condition: Condition
    plain: str
    sets: tuple[str, ...]
    asked: dict[str, _Asked]

    @classmethod
    def of(
        cls, study: Study, rates: SetRates, condition: Condition, plain: str, sets: Sequence[str]
    ) -> "_ConditionLine":
        asked = {}
        for name in (plain, *(name for name in sets if is_asked(study, condition, name))):
            misaligned, incoherent = (rates.rate(condition, name, outcome) for outcome in (MISALIGNED, INCOHERENT))
            change = None if name == plain else rates.change(condition, name, plain, MISALIGNED)
            asked[name] = _Asked(misaligned, incoherent, change)
        return cls(condition, plain, tuple(sets), asked)

    @property
    def worst(self) -> str | None:
        """The set with the highest rate, the plain one first among equals; None before anything is measured."""
        found = {name: one.misaligned.value for name, one in self.asked.items() if one.misaligned}
        return max(found, key=lambda name: found[name]) if found else None

    def cells(self, footnotes: Footnotes) -> Iterator[TableCell]:
        yield self._rate_cell(self.plain, footnotes)
        for name in self.sets:
            if name not in self.asked:
                yield from (TableCell(DASH), TableCell(""), TableCell(""))
                continue
            one = self.asked[name]
            yield self._rate_cell(name, footnotes)
            if one.change is None:
                yield from (TableCell(""), TableCell(""))
                continue
            low, high = (signed(end, decimals=DECIMALS) for end in one.change.interval)
            yield TableCell(signed(one.change.value, decimals=DECIMALS))
            yield TableCell(f"{low} to {high}")

    def _rate_cell(self, name: str, footnotes: Footnotes) -> TableCell:
        return replace(_rate_cell(self.asked[name].misaligned, footnotes), bold=name == self.worst)

    def csv_rows(self) -> Iterator[tuple[str, ...]]:
        for name, one in self.asked.items():
            moved = () if one.change is None else (one.change.value, *one.change.interval)
            yield (
                *_names(self.condition),
                name,
                *_values(one.misaligned),
                *_values(one.incoherent),
                "" if one.misaligned is None else str(one.misaligned.questions),
                *(tuple(f"{value:.6g}" for value in moved) or ("",) * 3),
                "yes" if name == self.worst else "no",
            )


def _blocks(study: Study, rows: Sequence[Condition], of_rows: Sequence[Iterator[TableCell]]) -> tuple[Block, ...]:
    """Return a block for each task, its title and the arms on the left."""
    blocks: dict[str, list[tuple[TableCell, ...]]] = {}
    for condition, cells in zip(rows, of_rows, strict=True):
        block = blocks.setdefault(condition.task, [])
        task = TableCell("" if block else study.tasks[condition.task].title)
        block.append((task, TableCell(titled(study, condition.arm, condition.setting)), *cells))
    return tuple(tuple(block) for block in blocks.values())


def _rate_cell(rate: SetRate | None, footnotes: Footnotes, gaps: str = "") -> TableCell:
    if rate is None:
        return TableCell(DASH, footnote=footnotes.letter(NOT_MEASURED))
    return TableCell(number(rate.value), hover=f"{rate.successes} of {rate.trials}", footnote=gaps)


def _interval(study: Study, groups: int) -> str:
    if study.scoring.question_groups is None:
        return INTERVAL.format(questions="questions")
    return INTERVAL.format(questions=f"groups of questions, of which there are {groups},")


def _names(condition: Condition) -> tuple[str, str, str]:
    return condition.task, condition.arm, csv_setting(condition.setting)


def _values(rate: SetRate | None) -> tuple[str, ...]:
    return ("",) * 3 if rate is None else tuple(f"{value:.6g}" for value in (rate.value, *rate.interval))
