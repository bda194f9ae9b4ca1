"""The counts that a league is from: of each condition by seed and question, as arrays; and of the benign answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from math import nan

import numpy as np
import polars as pl
from numpy.typing import NDArray

from emdefense.analysis.conditions import Condition
from emdefense.analysis.evidence import Numbers
from emdefense.analysis.league.halves import halves
from emdefense.analysis.league.moves import Count
from emdefense.analysis.question_groups import groups_of
from emdefense.config import Study
from emdefense.config.study import QuestionGroups
from emdefense.metrics import METRICS, OUTCOMES
from emdefense.names import IN_DOMAIN

COUNTED = ("scored", *OUTCOMES)
Settings = tuple[str, str]
"""The settings that the questions of the first and of the second half are reported under."""
Key = tuple[Condition, Settings, str]
"""A condition, of which the setting is replaced by those of the halves, and a quantity."""


@dataclass(frozen=True)
class Questions:
    """The questions of a stratum: in which half each is, and in which group."""

    ids: tuple[str, ...]
    half: NDArray[np.int64]
    group: NDArray[np.int64]

    @classmethod
    def of(cls, ids: Sequence[str], groups: QuestionGroups) -> "Questions":
        """Return the questions with these ids; ``groups`` is ``scoring.question_groups``."""
        names = groups_of(ids, groups)
        number = {name: n for n, name in enumerate(dict.fromkeys(names))}
        return cls(tuple(ids), halves(ids, groups), np.array([number[name] for name in names], dtype=np.int64))

    def grouped(self, counts: Numbers) -> Numbers:
        """Return the sums of (seeds + 1, questions) within groups."""
        found = np.zeros((len(counts), int(self.group.max(initial=-1)) + 1))
        np.add.at(found.T, self.group, counts.T)
        return found


class LeagueCounts:
    """Looks up the counts of a model by condition and quantity, all of a stratum at the same questions.

    A stratum is the general questions, or those of a task in domain. ``frame`` is as in ``QUESTIONS_SCHEMA``.
    """

    def __init__(self, study: Study, frame: pl.DataFrame, model: str):
        here = frame.filter(pl.col("scored") > 0, model=model)
        self._study, self._trained = study, {name: arm.arm.is_trained for name, arm in study.every_arm.items()}
        trained = here.filter(pl.col("arm").is_in([name for name, is_ in self._trained.items() if is_]))
        self.seeds = sorted(trained["seed"].unique().to_list())
        self._place = {seed: n for n, seed in enumerate(self.seeds)}
        self.questions: dict[str, Questions] = {}
        stratum = pl.when(pl.col("question_set") == IN_DOMAIN).then(
            pl.concat_str("question_set", "task", separator="\n")
        )
        here = here.with_columns(stratum.otherwise("question_set").alias("stratum"))
        for (name,), rows in here.group_by("stratum", maintain_order=True):
            ids = sorted(set(rows["question_id"]))
            self.questions[str(name)] = Questions.of(ids, study.scoring.question_groups)
        self._counts = self._arrays(here)

    def _arrays(self, frame: pl.DataFrame) -> dict[tuple[Condition, str], dict[str, Numbers]]:
        found: dict[tuple[Condition, str], dict[str, Numbers]] = {}
        places = {name: {q: n for n, q in enumerate(of.ids)} for name, of in self.questions.items()}
        for (*key, stratum), rows in frame.group_by(*Condition._fields, "stratum", maintain_order=True):
            condition, place = Condition(*map(str, key)), places[str(stratum)]
            row = self._seed_rows(condition.arm, rows["seed"].to_list())
            column = [place[question] for question in rows["question_id"]]
            found[condition, str(stratum)] = {}
            for name in COUNTED:
                counts = np.zeros((len(self.seeds) + 1, len(place)))
                np.add.at(counts, (row, column), rows[name].to_numpy())
                found[condition, str(stratum)][name] = counts
        return found

    def _seed_rows(self, arm: str, seeds: Sequence[int]) -> list[int]:
        """Return the row of each seed; the last one for a model that no seed trained."""
        return [self._place[seed] for seed in seeds] if self._trained[arm] else [len(self.seeds)] * len(seeds)

    def stratum(self, condition: Condition, quantity: str) -> str:
        """Return the questions that a quantity of a condition is of."""
        question_set = METRICS[quantity].question_set
        return f"{question_set}\n{condition.task}" if question_set == IN_DOMAIN else question_set

    def has(self, condition: Condition, quantity: str) -> bool:
        """Whether a rate was measured: a response has a score."""
        return (condition, self.stratum(condition, quantity)) in self._counts

    def seeds_of(self, condition: Condition, quantity: str) -> int:
        """Return how many seeds of a condition have a response with a score."""
        scored = self._counts[condition, self.stratum(condition, quantity)]["scored"]
        return int((scored.sum(axis=1) > 0).sum())

    def at_halves(self, condition: Condition, settings: Settings, quantity: str) -> tuple[Numbers, Numbers]:
        """Return successes and trials, (seeds + 1, questions), of each half's questions under its setting."""
        stratum, outcome = self.stratum(condition, quantity), METRICS[quantity].outcome
        first, second = (self._counts[condition._replace(setting=setting), stratum] for setting in settings)
        is_first = self.questions[stratum].half == 0
        return (
            np.where(is_first, first[outcome], second[outcome]),
            np.where(is_first, first["scored"], second["scored"]),
        )

    def together(self, keys: Sequence[Key]) -> list[Count]:
        """Return counts at the questions of their stratum that all of them have a score for."""
        return [
            Count(key, stratum, *(self.questions[stratum].grouped(counts) for counts in of_key))
            for key, (stratum, *of_key) in zip(keys, self._shared(keys), strict=True)
        ]

    def rates_on(self, half: int | None, keys: Sequence[Key]) -> list[float]:
        """Return the rates (shares) on one half of those questions, or on both together, nan where there are none."""
        found = []
        for stratum, successes, trials in self._shared(keys):
            of_half = self.questions[stratum].half
            here = of_half == of_half if half is None else of_half == half
            asked = trials[:, here].sum()
            found.append(float(successes[:, here].sum() / asked) if asked else nan)
        return found

    def _shared(self, keys: Sequence[Key]) -> list[tuple[str, Numbers, Numbers]]:
        found = [(self.stratum(c, quantity), *self.at_halves(c, at, quantity)) for c, at, quantity in keys]
        shared = {
            name: reduce(np.logical_and, (trials.sum(axis=0) > 0 for of, _, trials in found if of == name))
            for name, *_ in found
        }
        return [(of, successes * shared[of], trials * shared[of]) for of, successes, trials in found]


class BenignCounts:
    """Looks up a model's answers to benign questions; ``frame`` is as in ``BENIGN_SCHEMA``."""

    def __init__(self, study: Study, frame: pl.DataFrame, model: str, seeds: Sequence[int]):
        self._trained = {name: arm.arm.is_trained for name, arm in study.every_arm.items()}
        self._seeds = {seed: n for n, seed in enumerate(seeds)}
        here = frame.filter(pl.col("answers") > 0, model=model)
        self._rows = {
            Condition(*map(str, key)): rows
            for key, rows in here.group_by(*Condition._fields, maintain_order=True)
            if self._trained[str(key[2])]
        }
        self._questions = {
            str(task): {question: n for n, question in enumerate(sorted(set(rows["question_id"])))}
            for (task,), rows in here.group_by("task", maintain_order=True)
        }

    @cached_property
    def tasks(self) -> list[str]:
        """The tasks that were measured, each once."""
        return list(dict.fromkeys(condition.task for condition in self._rows))

    def settings(self, task: str, arm: str) -> list[str]:
        """Return the settings at which an arm was measured on a task."""
        return [c.setting for c in self._rows if (c.task, c.arm) == (task, arm)]

    def count(self, condition: Condition, settings: Sequence[str]) -> Count:
        """Return the answers at some settings together."""
        place = self._questions[condition.task]
        found = [np.zeros((len(self._seeds) + 1, len(place))) for _ in range(2)]
        for setting in settings:
            rows = self._rows[condition._replace(setting=setting)]
            rows = rows.filter(pl.col("seed").is_in(list(self._seeds)))
            at = [self._seeds[seed] for seed in rows["seed"]], [place[question] for question in rows["question_id"]]
            for counts, column in zip(found, ("correct", "answers"), strict=True):
                np.add.at(counts, at, rows[column].to_numpy())
        return Count((condition, tuple(settings)), f"benign\n{condition.task}", *found)
