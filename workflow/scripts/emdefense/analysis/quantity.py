"""A quantity of a study as data: which rate, of which arms, against which, over which tasks."""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict

from emdefense.analysis.conditions import (
    Condition,
    Role,
    chosen_setting,
    conditions,
    ema_tasks,
    model_of_claim,
)
from emdefense.arms import MISALIGNED, NO_SETTING, PLAIN, STANDARD, format_setting
from emdefense.config import Study
from emdefense.metrics import EXACT_MATCH, METRICS

Values = float | NDArray[np.float64]  # one rate, or the same rate in many resamples (per cent)
Rates = Callable[[Condition, str], Values | None]


def _known(rate: str) -> str:
    if rate not in METRICS:
        raise ValueError(f"'{rate}' is no metric; write one of {', '.join(METRICS)}")
    return rate


Rate = Annotated[str, AfterValidator(_known)]
Relation = Literal["value", "difference", "share", "reduction", "increase"]
Extreme = Literal["smallest", "largest"]

RELATIONS: dict[Relation, tuple[str, Callable[[Any, Any], Any]]] = {
    "difference": ("{0} − {1}", lambda mine, other: mine - other),
    "share": ("{0} / {1}", lambda mine, other: 100 * mine / other),
    "reduction": ("1 − {0} / {1}", lambda mine, other: 100 * (1 - mine / other)),
    "increase": ("{0} / {1} − 1", lambda mine, other: 100 * (mine / other - 1)),
}
SUMMARIES: dict[str, Callable[[Any], Any]] = {
    "mean": lambda values: np.mean(values, axis=0),
    "smallest": lambda values: np.min(values, axis=0),
    "largest": lambda values: np.max(values, axis=0),
}


class Quantity(BaseModel):
    """A rate, or how it compares with that of another arm, summarised over tasks and then over arms and settings.

    ``against`` is the arm compared with; absent, the misaligned arm, on benign tasks plain fine-tuning. ``tasks`` names
    tasks of the study, or ``ema``, ``foqa``, ``opswap-<tier>``. ``setting`` holds for the arms that have one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rate: Rate
    arms: tuple[str, ...]
    relation: Relation = "value"
    against: tuple[str, ...] = ()
    model: Role = "main"
    tasks: tuple[str, ...] = ("ema",)
    setting: Literal["chosen", "weakest", "strongest", "every"] | float = "chosen"
    over_tasks: Literal["mean", "smallest", "largest"] = "mean"
    over_rest: Extreme = "smallest"

    @property
    def unit(self) -> str:
        """What the value is in: per cent, or percentage points."""
        return "points" if self.relation == "difference" else "%"

    @property
    def references(self) -> tuple[str, ...]:
        """The arms compared with; none for a plain value."""
        if self.relation == "value":
            return ()
        return self.against or ((PLAIN,) if self.rate == EXACT_MATCH else (MISALIGNED,))

    def in_words(self) -> str:
        """Return the formula as text."""
        mine, other = (
            f"{METRICS[self.rate].title} ({', '.join(STANDARD[arm].title for arm in arms)})"
            for arms in (self.arms, self.references)
        )
        formula = mine if self.relation == "value" else RELATIONS[self.relation][0].format(mine, other)
        several = len(self.arms) * max(len(self.references), 1) > 1
        benign = self.rate == EXACT_MATCH and any(STANDARD[arm].is_defence for arm in (*self.arms, *self.references))
        swept = self.setting == "every" or benign  # Tables 5 and 6 may have several settings
        rest = [name for name, there in (("arms", several), ("settings", swept)) if there]
        where = "tasks" if self.tasks == ("ema",) else _tasks_in_words(self.tasks)
        one_task = len(self.tasks) == 1 and self.tasks != ("ema",)
        on = f", on {where}" if one_task else ""
        if not one_task and self.over_tasks == self.over_rest:
            steps = [f"{self.over_tasks} over the {_and([where, *rest])}"]
        else:
            steps = [f"{self.over_rest} over the {_and(rest)}"] if rest else []
            steps += [] if one_task else [f"{self.over_tasks} over the {where}"]
        return " of ".join([*steps, formula]) + on + self._setting_in_words()

    def _setting_in_words(self) -> str:
        if self.setting in ("weakest", "strongest"):
            return f", at the {self.setting} setting"
        if isinstance(self.setting, float):
            swept = next(found for arm in self.arms if (found := STANDARD[arm].setting))
            return f", at {swept.titled(format_setting(self.setting))}"
        return ""

    def tasks_of(self, study: Study) -> list[str]:
        """Return the study's tasks that are meant; empty if one of them is not in it."""
        found: list[str] = []
        for name in self.tasks:
            if name == "ema":
                here = ema_tasks(study)
            elif name == "foqa" or name.startswith("opswap-"):
                table, _, tier = name.partition("-")
                here = [
                    task
                    for task, entry in study.tasks.items()
                    if entry.kind == "benign" and entry.table == table and str(entry.tier or 0) == (tier or "0")
                ][:1]
            else:
                here = [task for task in ema_tasks(study) if task == name]
            if not here:
                return []
            found += here
        return found

    def evaluate(
        self, study: Study, rates: Rates, reference_rates: Rates | None = None, tasks: Sequence[str] = ()
    ) -> Values | None:
        """Return the value in :attr:`unit`; None if a rate is missing or one to divide by is 0.

        ``reference_rates`` gives the rates of ``against`` where they come from elsewhere, ``tasks`` replaces the tasks.
        """
        model, tasks = model_of_claim(study, self.model), tasks or self.tasks_of(study)
        if model is None or not tasks:
            return None
        mine = [(arm, setting) for arm in self.arms for setting in self._settings(study, model, arm, tasks)]
        others = [(arm, setting) for arm in self.references for setting in self._settings(study, model, arm, tasks)]
        found = []
        pairs = product(mine, others) if self.references else ((one, None) for one in mine)
        for one, other in pairs:
            over_tasks = []
            for task in tasks:
                value = rates(Condition(model, task, *one), self.rate)
                if other is not None and value is not None:
                    value = self._related(value, (reference_rates or rates)(Condition(model, task, *other), self.rate))
                if value is None:
                    return None
                over_tasks.append(value)
            found.append(SUMMARIES[self.over_tasks](over_tasks))
        if len({arm for arm, _ in mine}) < len(self.arms) or len({arm for arm, _ in others}) < len(self.references):
            return None
        result: Values = SUMMARIES[self.over_rest](found)
        return result

    def _related(self, mine: Values, other: Values | None) -> Values | None:
        if other is None or (self.relation != "difference" and np.any(np.equal(other, 0))):
            return None
        related: Values = RELATIONS[self.relation][1](mine, other)
        return related

    def _settings(self, study: Study, model: str, arm: str, tasks: Sequence[str]) -> list[str]:
        """Return an arm's settings that are meant, weakest first."""
        if STANDARD[arm].setting is None:
            return [NO_SETTING]
        if isinstance(self.setting, float):
            return [format_setting(self.setting)]
        chosen = chosen_setting(study, arm)
        if self.setting == "chosen" and self.rate != EXACT_MATCH:
            return [] if chosen is None else [chosen]
        in_grid = {c.setting for c in conditions(study) if (c.model, c.arm) == (model, arm) and c.task in tasks}
        found = sorted(in_grid, key=float)
        if self.setting == "chosen":
            benign = study.report.chosen_benign.get(arm)
            return found if benign is None else [format_setting(value) for value in benign]
        return found if self.setting == "every" else found[:1] if self.setting == "weakest" else found[-1:]


def _tasks_in_words(names: Sequence[str]) -> str:
    tiers = [name.removeprefix("opswap-") for name in names if name.startswith("opswap-")]
    opswap = [f"OpSwap tier{'s' if len(tiers) > 1 else ''} {_and(tiers)}"] if tiers else []
    others = ["FoQA" if name == "foqa" else name for name in names if not name.startswith("opswap-")]
    return _and([*opswap, *others])


def _and(words: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)
