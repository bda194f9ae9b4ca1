"""The counts of a study by condition and question, and the evidence that they are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from emdefense.analysis.conditions import Condition
from emdefense.analysis.evidence import Evidence, Numbers, Quantity, Stratum, evidence, slopes
from emdefense.analysis.question_groups import check_groups, groups_of
from emdefense.config.study import QuestionGroups
from emdefense.metrics import METRICS, OUTCOMES

RateKey = tuple[Condition, str]
"""A condition, and a quantity such as ``general_misaligned``."""
COUNTED = ("responses", "scored", *OUTCOMES, "cut_scored", *(f"cut_{outcome}" for outcome in OUTCOMES))


@dataclass(frozen=True)
class Counted:
    """The counts of one condition and question set, all seeds together: for each column an entry a question."""

    questions: tuple[str, ...]
    columns: Mapping[str, Numbers]

    def with_any(self, column: str) -> set[str]:
        """Return the questions at which a column is not 0."""
        return {name for name, number in zip(self.questions, self.columns[column], strict=True) if number > 0}

    def at(self, questions: Sequence[str], column: str) -> Numbers:
        """Return a column at some of the questions, in their order."""
        if tuple(questions) == self.questions:
            return self.columns[column]
        place = {name: n for n, name in enumerate(self.questions)}
        return self.columns[column][[place[name] for name in questions]]


@dataclass(frozen=True)
class Contrast:
    """What is known of a quantity, and what would be if responses that are in doubt all were to its disadvantage.

    In doubt are responses without a score, and those that were cut at the length limit. ``lowest`` is with them as they
    make the quantity smallest, ``highest`` largest; both None where there are none.
    """

    as_scored: Evidence
    lowest: Evidence | None = None
    highest: Evidence | None = None

    def p_above(self, bound: float) -> float:
        """Return the one-sided p-value against ``bound`` or less, whatever the responses in doubt are."""
        return max(e.p_above(bound) for e in (self.as_scored, self.lowest) if e is not None)

    def p_below(self, bound: float) -> float:
        """Return the one-sided p-value against ``bound`` or more, whatever the responses in doubt are."""
        return max(e.p_below(bound) for e in (self.as_scored, self.highest) if e is not None)


class QuestionCounts:
    """Looks up counts by condition and question set."""

    def __init__(self, counts: Mapping[tuple[Condition, str], Counted], groups: QuestionGroups = None):
        self._counts, self._groups = counts, groups

    @classmethod
    def of(cls, questions: pl.DataFrame, groups: QuestionGroups = None) -> Self:
        """Return the counts of a frame as in ``QUESTIONS_SCHEMA``; ``groups`` is ``scoring.question_groups``.

        :class:`InputError` if these are of other questions.
        """
        asked = questions.filter(pl.col("responses") > 0)
        check_groups(asked["question_id"].unique(maintain_order=True).to_list(), groups)
        key = [*Condition._fields, "question_set"]
        pooled = asked.group_by(*key, "question_id", maintain_order=True).agg(pl.col(*COUNTED).sum())
        found = {}
        for (*condition, question_set), rows in pooled.group_by(key, maintain_order=True):
            columns = {name: rows[name].to_numpy().astype(np.float64) for name in COUNTED}
            place = Condition(*(str(part) for part in condition)), str(question_set)
            found[place] = Counted(tuple(rows["question_id"].to_list()), columns)
        return cls(found, groups)

    def has(self, key: RateKey) -> bool:
        """Whether a rate was measured: a response has a score."""
        counted = self._find(key)
        return counted is not None and bool(counted.columns["scored"].sum() > 0)

    def rate(self, key: RateKey) -> float | None:
        """Return a rate as a share; None if it was not measured."""
        counted = self._find(key)
        if counted is None or not counted.columns["scored"].sum():
            return None
        return float(counted.columns[METRICS[key[1]].outcome].sum() / counted.columns["scored"].sum())

    def bounds(self, key: RateKey) -> tuple[float, float]:
        """Return a measured rate as a share if none of the responses in doubt counted, and if each did."""
        counted = self._find(key)
        if counted is None:
            raise KeyError(key)
        total = {name: float(values.sum()) for name, values in counted.columns.items()}
        sure = total[METRICS[key[1]].outcome] - total[f"cut_{METRICS[key[1]].outcome}"]
        doubt = total["responses"] - total["scored"] + total["cut_scored"]
        return sure / total["responses"], (sure + doubt) / total["responses"]

    def contrast(
        self, strata: Sequence[Sequence[RateKey]], quantity: Quantity, smooth: Quantity | None = None
    ) -> Contrast | None:
        """Return what is known of a quantity of rates, those on the same questions in one stratum.

        ``smooth`` is as in :func:`evidence`. None if a rate was not measured, or if those of a stratum share no
        question.
        """
        as_scored = [self._stratum(keys, [0] * len(keys)) for keys in strata]
        if any(stratum is None for stratum in as_scored):
            return None
        known = [stratum for stratum in as_scored if stratum is not None]
        found = evidence(known, quantity, smooth)
        if not any(self._in_doubt(key) for keys in strata for key in keys):
            return Contrast(found)
        rates = np.concatenate([stratum.successes.sum(axis=0) / stratum.trials.sum(axis=0) for stratum in known])
        leans = np.where(slopes(smooth or quantity, rates) >= 0, 1, -1)
        lowest, highest = (self._assumed(strata, sign * leans) for sign in (-1, 1))
        return Contrast(found, evidence(lowest, quantity, smooth), evidence(highest, quantity, smooth))

    def _assumed(self, strata: Sequence[Sequence[RateKey]], leans: NDArray[np.int64]) -> list[Stratum]:
        found, first = [], 0
        for keys in strata:
            stratum = self._stratum(keys, leans[first : first + len(keys)])
            first += len(keys)
            if stratum is not None:
                found.append(stratum)
        return found

    def _stratum(self, keys: Sequence[RateKey], leans: Sequence[int] | NDArray[np.int64]) -> Stratum | None:
        """Return the counts at the questions that all rates have a score for; with assumptions, a response.

        ``leans`` says of each rate what becomes of responses in doubt: 0 as scored, −1 none counts, 1 each does.
        """
        counted = [self._find(key) for key in keys]
        if any(one is None for one in counted):
            return None
        found = [one for one in counted if one is not None]
        needed = "responses" if np.any(leans) else "scored"
        shared = reduce(set.__and__, (one.with_any(needed) for one in found))
        questions = [name for name in found[0].questions if name in shared]
        if not questions:
            return None
        successes, trials = [], []
        for (_, quantity), one, lean in zip(keys, found, leans, strict=True):
            outcome = METRICS[quantity].outcome
            at = {name: one.at(questions, name) for name in COUNTED}
            if lean == 0:
                successes.append(at[outcome])
                trials.append(at["scored"])
                continue
            sure = at[outcome] - at[f"cut_{outcome}"]
            successes.append(sure if lean < 0 else sure + at["responses"] - at["scored"] + at["cut_scored"])
            trials.append(at["responses"])
        names = groups_of(questions, self._groups)
        number = {name: n for n, name in enumerate(dict.fromkeys(names))}
        groups = np.array([number[name] for name in names])
        return Stratum(np.stack(successes, axis=1), np.stack(trials, axis=1), groups)

    def _in_doubt(self, key: RateKey) -> bool:
        counted = self._find(key)
        if counted is None:
            return False
        columns = counted.columns
        return bool((columns["responses"] - columns["scored"] + columns["cut_scored"]).sum() > 0)

    def _find(self, key: RateKey) -> Counted | None:
        condition, quantity = key
        return self._counts.get((condition, METRICS[quantity].question_set))
