"""Paired differences of a study: every arm against the misaligned one, and chosen defences against each other."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations

import polars as pl

from emdefense.analysis.conditions import (
    Condition,
    chosen_setting,
    conditions,
    ema_arms,
    ema_tasks,
    settings,
    summed_up,
)
from emdefense.analysis.intervals import Interval
from emdefense.analysis.paired import Pair, holm
from emdefense.analysis.rates import OUTCOMES
from emdefense.analysis.summary import QUANTITIES
from emdefense.cells import GENERAL, IN_DOMAIN, NO_SETTING
from emdefense.config import Study
from emdefense.config.study import PLAIN_ARMS

SIGNIFICANT = 0.05
QUESTION_SETS = {quantity: GENERAL if quantity.startswith(GENERAL) else IN_DOMAIN for quantity in QUANTITIES}
CONDITION = ("model", "task", "arm", "setting")


@dataclass(frozen=True)
class Difference:
    """A rate of ``condition`` less that of ``against``, on the ``questions`` that both have, all seeds together.

    ``value`` and ``interval`` are in percentage points. ``p_corrected`` is None where the comparison is in no family.
    """

    condition: Condition
    against: Condition
    quantity: str
    questions: int
    value: float
    interval: Interval
    p: float
    is_exact: bool
    p_corrected: float | None = None

    @property
    def is_significant(self) -> bool:
        """Whether its corrected p-value is below 5 %."""
        return self.p_corrected is not None and self.p_corrected < SIGNIFICANT


def differences(study: Study, questions: pl.DataFrame) -> list[Difference]:
    """Return the differences of a study from its ``questions`` (``QUESTIONS_SCHEMA``), as far as both were measured.

    The p-values of the chosen defences are corrected within a family: one model and quantity, all tasks and defences;
    those against the misaligned arm and those against each other apart. Settings that were not chosen, and arms that
    are no defence, are in no family.
    """
    counts = _pooled(questions)
    defences = {arm: setting for arm in summed_up(study) if (setting := chosen_setting(study, arm)) is not None}
    found: list[Difference] = []
    families: dict[tuple[str, str, bool], list[int]] = defaultdict(list)
    for condition, against in _comparisons(study, defences):
        among_defences = against.arm != "misaligned"
        for quantity in QUANTITIES:
            difference = _difference(counts, condition, against, quantity, study.scoring.bootstrap_resamples)
            if difference is None:
                continue
            if defences.get(condition.arm) == condition.setting:
                families[condition.model, quantity, among_defences].append(len(found))
            found.append(difference)
    for members in families.values():
        corrected = holm([found[place].p for place in members])
        for place, p in zip(members, corrected, strict=True):
            found[place] = replace(found[place], p_corrected=p)
    return found


def _comparisons(study: Study, defences: dict[str, str]) -> Iterator[tuple[Condition, Condition]]:
    """Yield what is compared with what: first all with the misaligned arm, then defences with each other."""
    in_grid = set(conditions(study))
    models = list(dict.fromkeys(condition.model for condition in conditions(study)))
    places = [(model, task) for model in models for task in ema_tasks(study)]
    for model, task in places:
        for arm in ema_arms(study, model):
            for setting in [NO_SETTING] if arm in PLAIN_ARMS else settings(study, model, arm):
                condition = Condition(model, task, arm, setting)
                if arm != "misaligned" and condition in in_grid:
                    yield condition, Condition(model, task, "misaligned")
    for model, task in places:
        chosen = [Condition(model, task, *pair) for pair in defences.items()]
        yield from combinations([condition for condition in chosen if condition in in_grid], 2)


def _pooled(questions: pl.DataFrame) -> dict[tuple[Condition, str], pl.DataFrame]:
    """Return each condition's counts by question, all seeds together, of each question set."""
    pooled = (
        questions.filter(pl.col("scored") > 0)
        .group_by(*CONDITION, "question_set", "question_id", maintain_order=True)
        .agg(pl.col("scored", *OUTCOMES).sum())
    )
    return {
        (Condition(*(str(part) for part in key[:4])), str(key[4])): rows
        for key, rows in pooled.group_by(*CONDITION, "question_set", maintain_order=True)
    }


def _difference(
    counts: dict[tuple[Condition, str], pl.DataFrame],
    condition: Condition,
    against: Condition,
    quantity: str,
    resamples: int,
) -> Difference | None:
    question_set = QUESTION_SETS[quantity]
    outcome = quantity.removeprefix(f"{question_set}_")
    mine, other = counts.get((condition, question_set)), counts.get((against, question_set))
    if mine is None or other is None:
        return None
    both = mine.join(other, on="question_id", suffix="_other", maintain_order="left")
    if both.is_empty():
        return None
    columns = (outcome, "scored", f"{outcome}_other", "scored_other")
    pair = Pair(*(both[column].to_numpy() for column in columns))
    low, high = pair.interval(resamples)
    return Difference(
        condition,
        against,
        quantity,
        both.height,
        100 * pair.difference,
        (100 * low, 100 * high),
        pair.p_value(),
        pair.is_exact,
    )
