"""What share of an arm's responses answers nothing, and whether it is surely more than the untrained model's.

Unanswered is what refuses, by the judge's label or by the rule of ``refusals.py``, and what is empty.
"""

from dataclasses import dataclass
from functools import cached_property

import polars as pl

from emdefense.analysis.conditions import Condition, chosen_arms, ema_tasks, headline_defences
from emdefense.analysis.differences import Difference, corrected, paired_difference, pooled
from emdefense.analysis.intervals import Interval
from emdefense.analysis.rates import pooled_bounds
from emdefense.arms import MISALIGNED, NO_SETTING, UNTRAINED
from emdefense.config import Study
from emdefense.metrics import QUESTION_SETS

# What is counted of the responses, by its name in tables.
KINDS = {
    "refused_by_judge": "refused",
    "refused_by_rule": "refused_by_rule",
    "empty": "empty",
    "cut": "cut",
    "unanswered": "unanswered",
}
COLUMNS = ("responses", "scored", "misaligned", "unanswered_scored", "unanswered_misaligned", *KINDS.values())
Place = tuple[Condition, str]
"""A condition and a question set."""


@dataclass(frozen=True)
class Share:
    """A share (%) of the responses, and its interval over questions (%), all seeds together."""

    value: float
    interval: Interval


class Unanswered:
    """The shares of a model's arms at their chosen settings; ``questions`` is as in ``QUESTIONS_SCHEMA``."""

    def __init__(self, study: Study, questions: pl.DataFrame, model: str):
        self._study, self._model = study, model
        self._counts = pooled(questions.filter(model=model), COLUMNS, asked="responses")

    @cached_property
    def conditions(self) -> list[Condition]:
        """The arms at their chosen settings that were asked anything, task by task."""
        asked = {condition for condition, _ in self._counts}
        every = [
            Condition(self._model, task, *arm)
            for task in ema_tasks(self._study, self._model)
            for arm in chosen_arms(self._study, self._model)
        ]
        return [condition for condition in every if condition in asked]

    def shares(self, place: Place) -> dict[str, Share]:
        """Return the shares of ``KINDS``, and ``misaligned``, of those with a score; what has no response has none."""
        rows = self._counts.get(place)
        if rows is None:
            return {}
        scoring = self._study.scoring
        found = {}
        for trials, outcomes in (("responses", KINDS), ("scored", {"misaligned": "misaligned"})):
            bounds = pooled_bounds([rows], trials, outcomes, scoring.bootstrap_resamples, scoring.question_groups)
            for name, column in outcomes.items() if bounds else ():
                value = 100 * int(rows[column].sum()) / int(rows[trials].sum())
                found[name] = Share(value, (bounds[f"{name}_low"], bounds[f"{name}_high"]))
        return found

    def misaligned_of_answers(self, place: Place) -> float | None:
        """Return the misaligned rate (%) without what answers nothing; None where that leaves nothing."""
        rows = self._counts.get(place)
        if rows is None:
            return None
        total = rows.select(pl.col(COLUMNS).sum()).row(0, named=True)
        answered = total["scored"] - total["unanswered_scored"]
        return 100 * (total["misaligned"] - total["unanswered_misaligned"]) / answered if answered else None

    @cached_property
    def differences(self) -> dict[Place, Difference]:
        """The share of each arm that is unanswered less the untrained model's, on the same questions.

        The p-values of defences are corrected within a family: one question set, all tasks and defences of the model.
        """
        defences, found = set(headline_defences(self._study)), []
        places = [(c, name) for name in QUESTION_SETS for c in self.conditions if c.arm != UNTRAINED]
        for condition, question_set in places:
            against = Condition(condition.model, condition.task, UNTRAINED)
            mine, other = (self._counts.get((c, question_set)) for c in (condition, against))
            if mine is not None and other is not None:
                columns = ("unanswered", "responses")
                pair = (condition, mine), (against, other)
                found.append(paired_difference(*pair, question_set, columns, self._study.scoring))
        known = corrected([one for one in found if one is not None], lambda d: d.condition.arm in defences)
        return {(one.condition, one.quantity): one for one in known}

    def is_owed(self, place: Place) -> bool:
        """Whether a defence's low misalignment goes with answering nothing.

        It is lower than the misaligned arm's, and surely more is unanswered than of the untrained model.
        """
        condition, question_set = place
        difference = self.differences.get(place)
        if difference is None or not difference.is_significant or difference.value <= 0:
            return False
        whole = self.shares((condition._replace(arm=MISALIGNED, setting=NO_SETTING), question_set)).get("misaligned")
        mine = self.shares(place).get("misaligned")
        return whole is not None and (mine is None or mine.value < whole.value)
