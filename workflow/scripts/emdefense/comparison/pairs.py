"""Paired differences between studies: the same arm, task and setting on the same questions."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import polars as pl

from emdefense.analysis.aggregate import benign_questions
from emdefense.analysis.benign_differences import asked as asked_benign
from emdefense.analysis.conditions import Condition, chosen_arms, conditions, ema_tasks
from emdefense.analysis.differences import Difference, corrected, paired_difference, pooled
from emdefense.cells import GENERAL, Cell
from emdefense.comparison.alike import Asking, judged_unlike, rubrics_count, shared
from emdefense.comparison.places import Place, places
from emdefense.config.study import Scoring
from emdefense.finished import Finished
from emdefense.metrics import EXACT_MATCH, JUDGED, METRICS, Metric
from emdefense.names import SHARED_TASK

Counts = dict[tuple[Condition, str], pl.DataFrame]


class Row(NamedTuple):
    """What stands in a row: an arm at a setting on a task, of the models of a place."""

    place: Place
    task: str
    arm: str
    setting: str

    def condition(self, study: int) -> Condition | None:
        """Return the condition of the study of that number; None if it has no model here."""
        model = self.place.models[study]
        return None if model is None else Condition(model, self.task, self.arm, self.setting)


@dataclass(frozen=True)
class Compared:
    """A rate of the study numbered ``study`` less that of the first one, on the questions that both asked alike.

    ``unlike`` says in words by what they were judged differently; such a difference is in no family of tests.
    ``other_words`` is how many questions have one id and different words, and so are not compared.
    """

    row: Row
    study: int
    difference: Difference
    unlike: tuple[str, ...] = ()
    other_words: int = 0


class Comparison:
    """Studies side by side, each against the first."""

    def __init__(self, studies: Sequence[Finished]):
        self.studies = studies
        self.places = places([one.study for one in studies])
        self._asking = [Asking(one) for one in studies]

    def rows(self, *, every: bool = False) -> list[Row]:
        """Return the arms on EMA tasks, those at settings that a study chose or, with ``every``, at all of them.

        Without ``every``, only what two studies have, or more, if they have anything in common.
        """
        found = self._rows(lambda number, model: list(self._ema(number, model, every)))
        if every:
            return found
        there = [set(conditions(one.study)) for one in self.studies]
        return [row for row in found if self._of_several(row, there)] or found

    def benign_rows(self) -> list[Row]:
        """Return the arms on benign tasks that two studies or more have, at the settings that their own tables have."""
        there = [list(asked_benign(one.study)) for one in self.studies]
        found = self._rows(lambda number, model: [c for c in there[number] if c.model == model])
        return [row for row in found if self._of_several(row, there)]

    def _of_several(self, row: Row, there: Sequence[Collection[Condition]]) -> bool:
        """Whether two studies or more have a row's condition among theirs."""
        return sum(row.condition(n) in of_study for n, of_study in enumerate(there)) > 1

    def scoring(self, number: int) -> Scoring:
        """Return how a study's differences are computed: as the first one's are, in either's groups of questions."""
        first, other = (self.studies[n].study.scoring for n in (0, number))
        groups = other.question_groups if first.question_groups is None else first.question_groups
        return first.model_copy(update={"question_groups": groups})

    def differences(self) -> list[Compared]:
        """Return the rates of every study less the first one's, for all arms and settings that both measured.

        The p-values of arms at chosen settings are corrected within a family: one study, place and quantity, all tasks
        and arms. Those that were judged unlike are in none.
        """
        shown, counts = set(self.rows()), [pooled(one.questions) for one in self.studies]
        found = []
        for number in range(1, len(self.studies)):
            unlike = tuple(judged_unlike(self.studies[number], self.studies[0]))
            for place in self.places:
                rows = [row for row in self.rows(every=True) if row.place == place]
                family = [
                    one
                    for row in rows
                    for metric in JUDGED
                    if (one := self._judged(row, number, metric, counts, unlike)) is not None
                ]
                found += _corrected(family, shown)
        return found

    def benign_differences(self) -> list[Compared]:
        """Return the same of right answers to benign tasks."""
        counts = [_benign(one) for one in self.studies]
        found = []
        for number in range(1, len(self.studies)):
            for place in self.places:
                rows = [row for row in self.benign_rows() if row.place == place]
                family = [one for row in rows if (one := self._benign(row, number, counts)) is not None]
                found += _corrected(family, set(rows))
        return found

    def _ema(self, number: int, model: str, every: bool) -> Iterator[Condition]:
        study = self.studies[number].at_chosen
        tasks, chosen = ema_tasks(study, model), set(chosen_arms(study, model))
        in_grid = [c for c in conditions(study) if c.model == model and c.task in tasks]
        order = list(study.every_arm)
        for task in tasks:
            here = [c for c in in_grid if c.task == task and (every or (c.arm, c.setting) in chosen)]
            yield from sorted(here, key=lambda c: (order.index(c.arm), setting_value(c.setting)))

    def _rows(self, of: Callable[[int, str], list[Condition]]) -> list[Row]:
        """Return the rows of all studies' conditions, tasks and arms in the order in which they first come."""
        found: list[Row] = []
        for place in self.places:
            here = [
                Row(place, c.task, c.arm, c.setting)
                for number, model in enumerate(place.models)
                if model is not None
                for c in of(number, model)
            ]
            tasks = list(dict.fromkeys(row.task for row in here))
            arms = list(dict.fromkeys(row.arm for row in here))
            found += sorted(
                dict.fromkeys(here),
                key=lambda row: (tasks.index(row.task), arms.index(row.arm), setting_value(row.setting)),
            )
        return found

    def _judged(
        self, row: Row, number: int, metric: Metric, counts: list[Counts], unlike: tuple[str, ...]
    ) -> Compared | None:
        pair = self._pair(row, number)
        if pair is None:
            return None
        mine, other = (counts[n].get((of, metric.question_set)) for n, of in zip((number, 0), pair, strict=True))
        if mine is None or other is None:
            return None
        here, there = (
            self._asking[n].judged(_cell(of, metric), metric.question_set)
            for n, of in zip((number, 0), pair, strict=True)
        )
        same = shared(here.questions, there.questions)
        if rubrics_count(self.studies[number], self.studies[0]) and any(
            here.rubrics[name] != there.rubrics[name] for name in same
        ):
            unlike = (*unlike, "rubric")
        common = set(mine["question_id"]) & set(other["question_id"])
        difference = paired_difference(
            (pair[0], mine.filter(pl.col("question_id").is_in(same))),
            (pair[1], other.filter(pl.col("question_id").is_in(same))),
            metric.name,
            (metric.outcome, "scored"),
            self.scoring(number),
        )
        return None if difference is None else Compared(row, number, difference, unlike, len(common - set(same)))

    def _benign(self, row: Row, number: int, counts: list[Counts]) -> Compared | None:
        pair = self._pair(row, number)
        if pair is None:
            return None
        mine, other = (counts[n].get((of, EXACT_MATCH)) for n, of in zip((number, 0), pair, strict=True))
        if mine is None or other is None:
            return None
        here, there = (self._asking[n].benign(row.task) for n in (number, 0))
        same = [name for name in shared(here.questions, there.questions) if here.rubrics[name] == there.rubrics[name]]
        matches = [getattr(self.studies[n].study.tasks[row.task], "match", None) for n in (number, 0)]
        unlike = () if matches[0] == matches[1] else (f"match: {matches[0]}, not {matches[1]}",)
        common = set(mine["question_id"]) & set(other["question_id"])
        difference = paired_difference(
            (pair[0], mine.filter(pl.col("question_id").is_in(same))),
            (pair[1], other.filter(pl.col("question_id").is_in(same))),
            EXACT_MATCH,
            (METRICS[EXACT_MATCH].outcome, "answers"),
            self.scoring(number),
        )
        return None if difference is None else Compared(row, number, difference, unlike, len(common - set(same)))

    def _pair(self, row: Row, number: int) -> tuple[Condition, Condition] | None:
        mine, other = row.condition(number), row.condition(0)
        return None if mine is None or other is None else (mine, other)


def _corrected(found: list[Compared], shown: set[Row]) -> list[Compared]:
    """Return a family's differences with their p-values corrected, as far as they are shown and judged alike."""
    alike = {id(one.difference) for one in found if not one.unlike and one.row in shown}
    mended = corrected([one.difference for one in found], lambda difference: id(difference) in alike)
    return [replace(one, difference=difference) for one, difference in zip(found, mended, strict=True)]


def _benign(study: Finished) -> Counts:
    counts = benign_questions(study.study, study.layout)
    named = counts.with_columns(pl.lit(EXACT_MATCH).alias("question_set"))
    return pooled(named, ("answers", "correct"), asked="answers")


def _cell(condition: Condition, metric: Metric) -> Cell:
    """Return a cell that is asked the questions of a condition; of which seed does not matter."""
    task = SHARED_TASK if metric.question_set == GENERAL else condition.task
    return Cell(condition.model, task, condition.arm, condition.setting, 0)


def setting_value(setting: str) -> float:
    """Return the number of a setting, by which rows are ordered; 0 for arms without one."""
    try:
        return float(setting)
    except ValueError:
        return 0.0
