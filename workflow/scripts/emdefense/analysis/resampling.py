"""Rates in many resamples of the questions, the same draw for every condition."""

from collections.abc import Sequence
from zlib import crc32

import numpy as np
import polars as pl
from numpy.typing import NDArray

from emdefense.analysis.conditions import Condition
from emdefense.analysis.intervals import draw_questions
from emdefense.analysis.question_groups import groups_of
from emdefense.cells import GENERAL
from emdefense.config.study import QuestionGroups
from emdefense.metrics import EXACT_MATCH, METRICS, OUTCOMES


class ResampledRates:
    """Rates (%) when whole questions are drawn again, seeds pooled: an array with an entry a resample.

    Where ``groups``, which are ``scoring.question_groups``, name some together, these are drawn as one.
    All conditions see the same draw of the general questions, and all of one task the same draw of its in-domain or
    benign questions, so that what arms are compared by is resampled as a pair. ``questions`` is as in
    ``QUESTIONS_SCHEMA``, ``benign`` as in ``BENIGN_SCHEMA``.
    """

    def __init__(
        self,
        questions: pl.DataFrame,
        resamples: int,
        groups: QuestionGroups = None,
        benign: pl.DataFrame | None = None,
    ):
        self._resamples, self._groups = resamples, groups
        self._draws: dict[tuple[str, ...], NDArray[np.int64]] = {}
        self._counts: dict[tuple[Condition, str], pl.DataFrame] = {}
        self._add(questions, ("scored", *OUTCOMES))
        if benign is not None:
            metric = METRICS[EXACT_MATCH]
            answers = benign.with_columns(pl.lit(metric.question_set).alias("question_set"), scored=pl.col("answers"))
            self._add(answers, ("scored", metric.outcome))

    def _add(self, counts: pl.DataFrame, columns: Sequence[str]) -> None:
        key_columns = [*Condition._fields, "question_set"]
        pooled = counts.group_by(*key_columns, "question_id").agg(pl.col(columns).sum())
        for key, rows in pooled.group_by(key_columns):
            *condition, question_set = key
            self._counts[Condition(*condition), str(question_set)] = rows.sort("question_id")

    def __call__(self, condition: Condition, quantity: str) -> NDArray[np.float64] | None:
        """Return the rates of e.g. ``general_misaligned``; None if not measured, or without a score in a resample."""
        metric = METRICS[quantity]
        rows = self._counts.get((condition, metric.question_set))
        if rows is None:
            return None
        asked_of = "" if metric.question_set == GENERAL else condition.task
        draws = self._draw((asked_of, *rows["question_id"]))
        scored = draws @ rows["scored"].to_numpy()
        if not scored.all():
            return None
        shares: NDArray[np.float64] = 100 * (draws @ rows[metric.outcome].to_numpy()) / scored
        return shares

    def _draw(self, questions: tuple[str, ...]) -> NDArray[np.int64]:
        """Return the draw of the questions of a task, whose name is first, or of the general ones; each independent.

        It has a column a question, alike for those of one group.
        """
        if questions not in self._draws:
            names = groups_of(questions[1:], self._groups)
            place = {name: n for n, name in enumerate(dict.fromkeys(names))}
            stream = crc32("\n".join((questions[0], *place)).encode())
            drawn = draw_questions(len(place), self._resamples, stream)
            self._draws[questions] = drawn[:, [place[name] for name in names]]
        return self._draws[questions]
