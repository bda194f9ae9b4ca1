"""The paper's quantitative claims, recomputed from its own tables and from our measurements."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from emdefense.analysis.conditions import Condition, ema_tasks, model_in_role
from emdefense.analysis.intervals import percentile_interval
from emdefense.analysis.quantity import Quantity, Rates
from emdefense.analysis.summary import EXACT_MATCH, Summary
from emdefense.config import Study
from emdefense.yaml_files import read_yaml

HOLDS, DIFFERS, UNCLEAR = "holds", "does not hold", "unclear"
NOT_MEASURED, NO_EMA = "not measured", "EMA did not appear"
CONTROLS = {"untrained", "aligned"}
TABLE_ROUNDING = 0.005  # half a unit of the last digit in the paper's tables, in percentage points
Comparison = Literal["equals", "at least", "at most", "above", "below"]


class Range(NamedTuple):
    """A value, and the ends of what it may be: by rounding, or of its 95 % interval."""

    value: float
    low: float
    high: float


class Claim(BaseModel):
    """A statement with a number in it, and how that number is computed.

    ``source`` says whether the paper's text gives the figure, or only its tables do and the wording and the bound are
    ours. ``without`` names a task without which the quantity is shown too.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    claim: str
    source: Literal["text", "tables"]
    tables: tuple[int, ...]
    quantity: Quantity
    comparison: Comparison = "equals"
    paper: str
    without: str | None = None

    def holds(self, found: Range) -> str:
        """Return the verdict on a value: ``unclear`` where a bound lies within its range.

        A figure holds if the range reaches what rounds to it, at the digits that it has.
        """
        bound = float(self.paper)
        if self.comparison == "equals":
            half_unit = 0.5 * 0.1 ** len(self.paper.partition(".")[2])
            return HOLDS if found.low <= bound + half_unit and found.high >= bound - half_unit else DIFFERS
        satisfied: Callable[[float], bool] = {
            "at least": lambda value: value >= bound,
            "at most": lambda value: value <= bound,
            "above": lambda value: value > bound,
            "below": lambda value: value < bound,
        }[self.comparison]
        ends = {satisfied(found.low), satisfied(found.high)}
        return UNCLEAR if len(ends) == 2 else HOLDS if ends == {True} else DIFFERS


class Verdict(BaseModel):
    """A claim beside the number that the paper's own tables give, and ours, in the unit of its quantity."""

    claim: Claim
    recomputed: float | None
    recomputed_without: float | None
    follows: bool
    ours: float | None
    interval: tuple[float, float] | None
    verdict: str


def load_claims() -> list[Claim]:
    """Return the claims, in the order in which they are reported."""
    raw = read_yaml(Path(__file__).parent / "claims.yaml")
    return [Claim.model_validate(entry) for entry in raw]


def judge_claims(
    study: Study, measured: Summary, paper_study: Study, paper: Summary, resampled: Rates | None = None
) -> list[Verdict]:
    """Return a verdict for each claim: does it follow from the paper's tables, and does it hold for ``measured``.

    ``resampled`` gives our rates with an entry a resample of the questions; without it ours have no interval.
    """
    return [_judge(claim, study, measured, paper_study, paper, resampled) for claim in load_claims()]


def _judge(
    claim: Claim, study: Study, measured: Summary, paper_study: Study, paper: Summary, resampled: Rates | None
) -> Verdict:
    quantity = claim.quantity
    published = recompute(quantity, paper_study, paper)
    without = None
    if claim.without is not None:
        rest = [task for task in ema_tasks(paper_study) if task != claim.without]
        without = recompute(quantity, paper_study, paper, rest)
    ours = quantity.evaluate(study, measured.value)
    drawn = None if ours is None or resampled is None else quantity.evaluate(study, resampled)
    interval = None if drawn is None else percentile_interval(np.asarray(drawn))
    arms_alone = quantity.model_copy(update={"relation": "value"})
    if ours is None and arms_alone.evaluate(study, measured.value) is None:
        verdict = NOT_MEASURED
    elif (why := _why_unreadable(claim, study, measured)) is not None:
        verdict = why
    elif ours is None:
        verdict = NOT_MEASURED  # what to compare with is missing, or 0
    else:
        verdict = claim.holds(Range(float(ours), *(interval or (float(ours), float(ours)))))
    return Verdict(
        claim=claim,
        recomputed=None if published is None else published.value,
        recomputed_without=None if without is None else without.value,
        follows=published is not None and claim.holds(published) in (HOLDS, UNCLEAR),
        ours=None if ours is None else float(ours),
        interval=interval,
        verdict=verdict,
    )


def recompute(quantity: Quantity, study: Study, printed: Summary, tasks: Sequence[str] = ()) -> Range | None:
    """Return a quantity from a paper's tables, and how far the rounding of their entries can move it."""

    def moved(by: float) -> Rates:
        def rate(condition: Condition, name: str) -> float | None:
            value = printed.value(condition, name)
            return None if value is None else value + by

        return rate

    value = quantity.evaluate(study, printed.value, tasks=tasks)
    ends = [quantity.evaluate(study, moved(by), moved(-by), tasks=tasks) for by in (-TABLE_ROUNDING, TABLE_ROUNDING)]
    if value is None or ends[0] is None or ends[1] is None:
        return None
    return Range(float(value), *sorted(float(end) for end in ends if end is not None))


def _why_unreadable(claim: Claim, study: Study, summary: Summary) -> str | None:
    """Return the verdict where nothing was to be prevented; None for what can be read: controls, benign tasks too."""
    quantity = claim.quantity
    if quantity.rate == EXACT_MATCH or set(quantity.arms) <= CONTROLS:
        return None
    model = model_in_role(study, quantity.model)
    if model is None:
        return NOT_MEASURED
    appeared = {summary.ema_appeared(model, task, study.report.emergent_pct) for task in quantity.tasks_of(study)}
    return NO_EMA if False in appeared else NOT_MEASURED if None in appeared else None
