"""Rates on further question sets, and how far a condition moves them, question by question."""

from dataclasses import dataclass

import polars as pl

from emdefense.analysis.conditions import Condition
from emdefense.analysis.differences import paired, pooled
from emdefense.analysis.intervals import Interval, cluster_interval
from emdefense.analysis.question_groups import in_groups
from emdefense.analysis.summary import Gaps, gaps_of
from emdefense.config import Study
from emdefense.names import GENERAL


@dataclass(frozen=True)
class SetRate:
    """A rate (%): ``successes`` of ``trials``, all seeds together.

    ``interval`` (%) is for questions like these: whole ``groups`` of them are drawn again.
    """

    value: float
    interval: Interval
    successes: int
    trials: int
    questions: int
    groups: int


@dataclass(frozen=True)
class Change:
    """A rate under a condition less that on the plain set, in points, on the ``questions`` that both have."""

    value: float
    interval: Interval
    questions: int


class SetRates:
    """Looks up the rates of a study on any question set; ``questions`` is as in ``QUESTIONS_SCHEMA``."""

    def __init__(self, study: Study, questions: pl.DataFrame):
        self._scoring = study.scoring
        self._counts = pooled(questions)
        self._gaps = gaps_of(questions)

    def rate(self, condition: Condition, question_set: str, outcome: str) -> SetRate | None:
        """Return the rate of an outcome; None if no response has both scores."""
        rows = self._counts.get((condition, question_set))
        if rows is None:
            return None
        drawn = in_groups(rows, (outcome, "scored"), self._scoring.question_groups)
        successes, trials = drawn[outcome].to_numpy(), drawn["scored"].to_numpy()
        low, high = cluster_interval(successes, trials, self._scoring.bootstrap_resamples)
        value = 100 * float(successes.sum() / trials.sum())
        sums = int(successes.sum()), int(trials.sum())
        return SetRate(value, (100 * low, 100 * high), *sums, rows.height, drawn.height)

    def change(self, condition: Condition, question_set: str, plain: str, outcome: str) -> Change | None:
        """Return how far a conditional set's rate is from that of the ``plain`` set; None if one is not measured."""
        mine, other = (self._counts.get((condition, name)) for name in (question_set, plain))
        if mine is None or other is None:
            return None
        pair, questions = paired(mine, other, (outcome, "scored"), self._scoring.question_groups)
        if not questions:
            return None
        low, high = pair.interval(self._scoring.bootstrap_resamples)
        return Change(100 * pair.difference, (100 * low, 100 * high), questions)

    def gaps(self, condition: Condition, question_set: str) -> Gaps:
        """Return how many responses have no score or were cut."""
        return self._gaps.get((condition, question_set), Gaps())


def in_place_of_general(frame: pl.DataFrame, name: str) -> pl.DataFrame:
    """Return rates, or counts of questions, with a set in the place of the general questions.

    What is computed of these, such as the trade-off, then is of the set.
    """
    others = frame.filter(pl.col("question_set") != GENERAL)
    return others.with_columns(pl.col("question_set").replace({name: GENERAL}))
