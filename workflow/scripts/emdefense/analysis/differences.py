"""Paired differences of a study: every arm against the misaligned one, and chosen defences against each other."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import polars as pl

from emdefense.analysis.conditions import (
    Condition,
    chosen_setting,
    conditions,
    ema_arms,
    ema_tasks,
    headline_defences,
    settings,
)
from emdefense.analysis.intervals import Interval
from emdefense.analysis.paired import Pair, holm, smallest_p
from emdefense.analysis.question_groups import in_groups
from emdefense.arms import MISALIGNED
from emdefense.config import Study
from emdefense.config.study import QuestionGroups, Scoring
from emdefense.metrics import JUDGED, OUTCOMES, Metric

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Difference:
    """A rate of ``condition`` less that of ``against``, on the ``questions`` that both have, all seeds together.

    Interval and p-value draw and swap whole questions, or groups of them where ``scoring.question_groups`` names some.
    ``groups`` is how many there are to draw. ``value`` and ``interval`` are in percentage points. ``p_corrected`` is
    None where the comparison is in no family, of which ``compared`` is the size.
    """

    condition: Condition
    against: Condition
    quantity: str
    questions: int
    groups: int
    value: float
    interval: Interval
    p: float
    is_exact: bool
    p_corrected: float | None = None
    compared: int = 1

    @property
    def is_significant(self) -> bool:
        """Whether its corrected p-value is below 5 %."""
        return self.p_corrected is not None and self.p_corrected < SIGNIFICANT

    @property
    def least_p(self) -> float:
        """The smallest corrected p-value that so many groups allow to the largest of differences, in its family."""
        return min(1.0, self.compared * smallest_p(self.groups))


def against_misaligned(study: Study, questions: pl.DataFrame) -> list[Difference]:
    """Return every arm and setting less the misaligned arm, as far as both were measured.

    ``questions`` is as in ``QUESTIONS_SCHEMA``. The p-values of defences at their chosen settings are corrected within
    a family: one model and quantity, all tasks and defences. Other settings, and arms that are no defence, are in none.
    """
    in_grid, chosen = set(conditions(study)), _chosen(study)
    pairs = [
        (condition, Condition(model, task, MISALIGNED))
        for model, task in _places(study)
        for arm in ema_arms(study, model)
        for setting in settings(study, model, arm)
        if arm != MISALIGNED and (condition := Condition(model, task, arm, setting)) in in_grid
    ]
    return corrected(_differences(study, questions, pairs), lambda d: (d.condition.arm, d.condition.setting) in chosen)


def among_defences(study: Study, questions: pl.DataFrame) -> list[Difference]:
    """Return every pair of defences at their chosen settings, the first less the second, as far as both were measured.

    The family of the p-values is one model and quantity, all tasks and pairs.
    """
    in_grid = set(conditions(study))
    pairs: list[tuple[Condition, Condition]] = []
    for model, task in _places(study):
        here = [Condition(model, task, *chosen) for chosen in _chosen(study)]
        pairs += combinations([condition for condition in here if condition in in_grid], 2)
    return corrected(_differences(study, questions, pairs), lambda _: True)


def _places(study: Study) -> list[tuple[str, str]]:
    models = dict.fromkeys(condition.model for condition in conditions(study))
    return [(model, task) for model in models for task in ema_tasks(study)]


def _chosen(study: Study) -> list[tuple[str, str]]:
    """Return the defences that have a chosen setting, with it."""
    return [(arm, setting) for arm in headline_defences(study) if (setting := chosen_setting(study, arm)) is not None]


def _differences(
    study: Study, questions: pl.DataFrame, pairs: Iterable[tuple[Condition, Condition]]
) -> list[Difference]:
    counts = pooled(questions)
    found = (
        _difference(counts, condition, against, metric, study.scoring)
        for condition, against in pairs
        for metric in JUDGED
    )
    return [difference for difference in found if difference is not None]


def corrected(found: list[Difference], belongs: Callable[[Difference], bool]) -> list[Difference]:
    """Return the differences, those that belong to a family, of one model and quantity, with corrected p-values."""
    families: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, difference in enumerate(found):
        if belongs(difference):
            families[difference.condition.model, difference.quantity].append(place)
    mended = list(found)
    for members in families.values():
        for place, p in zip(members, holm([found[place].p for place in members]), strict=True):
            mended[place] = replace(found[place], p_corrected=p, compared=len(members))
    return mended


def pooled(
    questions: pl.DataFrame, columns: Sequence[str] = ("scored", *OUTCOMES), asked: str = "scored"
) -> dict[tuple[Condition, str], pl.DataFrame]:
    """Return each condition's counts by question, all seeds together, of each question set.

    Questions that have nothing in the column ``asked`` are left out.
    """
    summed = (
        questions.filter(pl.col(asked) > 0)
        .group_by(*Condition._fields, "question_set", "question_id", maintain_order=True)
        .agg(pl.col(columns).sum())
    )
    return {
        (Condition(*(str(part) for part in key[:4])), str(key[4])): rows
        for key, rows in summed.group_by(*Condition._fields, "question_set", maintain_order=True)
    }


def _difference(
    counts: dict[tuple[Condition, str], pl.DataFrame],
    condition: Condition,
    against: Condition,
    metric: Metric,
    scoring: Scoring,
) -> Difference | None:
    mine, other = (counts.get((of, metric.question_set)) for of in (condition, against))
    if mine is None or other is None:
        return None
    return paired_difference((condition, mine), (against, other), metric.name, (metric.outcome, "scored"), scoring)


def paired_difference(
    mine: tuple[Condition, pl.DataFrame],
    other: tuple[Condition, pl.DataFrame],
    quantity: str,
    columns: tuple[str, str],
    scoring: Scoring,
) -> Difference | None:
    """Return one condition's share less another's, on the questions that both have; None if there are none.

    Each comes with its counts, a row a question; ``columns`` names that of what is counted, and that of all there are.
    """
    pair, questions = paired(mine[1], other[1], columns, scoring.question_groups)
    if not questions:
        return None
    low, high = pair.interval(scoring.bootstrap_resamples)
    return Difference(
        mine[0],
        other[0],
        quantity,
        questions,
        len(pair.trials),
        100 * pair.difference,
        (100 * low, 100 * high),
        pair.p_value(),
        pair.is_exact,
    )


def paired(
    mine: pl.DataFrame, other: pl.DataFrame, columns: tuple[str, str], groups: QuestionGroups
) -> tuple[Pair, int]:
    """Return the counts of two frames, a row a question, at the questions that both have, and how many these are.

    ``columns`` as in :func:`paired_difference`. An entry a question, or a group of ``scoring.question_groups``.
    """
    both = mine.join(other, on="question_id", suffix="_other", maintain_order="left")
    named = (*columns, *(f"{column}_other" for column in columns))
    drawn = in_groups(both, named, groups)
    return Pair(*(drawn[column].to_numpy() for column in named)), both.height
