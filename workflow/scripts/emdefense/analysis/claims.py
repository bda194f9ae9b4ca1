"""The paper's quantitative claims, recomputed from its own tables and from our measurements."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple
from zlib import crc32

import numpy as np
from pydantic import BaseModel, ConfigDict

from emdefense.analysis.conditions import Condition, ema_tasks, model_of_claim
from emdefense.analysis.intervals import Interval, percentile_interval
from emdefense.analysis.quantity import Quantity, Rates, Values
from emdefense.analysis.summary import Summary
from emdefense.analysis.verdicts import NO, NOT_MEASURED, UNTOLD, Verdicts
from emdefense.arms import ALIGNED, UNTRAINED
from emdefense.config import Study
from emdefense.metrics import EXACT_MATCH
from emdefense.yaml_files import read_yaml

HOLDS, DIFFERS, UNCLEAR = "holds", "does not hold", "unclear"
NO_EMA = "EMA did not appear"
NO_EFFECT = {"difference": 0, "share": 100, "reduction": 0, "increase": 0}
CONTROLS = {UNTRAINED, ALIGNED}
TABLE_ROUNDING = 0.005  # half a unit of the last digit in the paper's tables, in percentage points
Comparison = Literal["equals", "at least", "at most", "above", "below"]


class Range(NamedTuple):
    """A value, and the ends of what it may be: by rounding, or of its 95 % interval."""

    value: float
    low: float
    high: float

    def moved(self, by: float) -> "Range":
        """Return it ``by`` so much further up."""
        return Range(self.value + by, self.low + by, self.high + by)


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

        A figure holds if the range reaches what rounds to it, at the digits that it has; it is ``unclear`` if the range
        reaches no effect at all as well.
        """
        bound = float(self.paper)
        if self.comparison == "equals":
            half_unit = 0.5 * 0.1 ** len(self.paper.partition(".")[2])
            if found.low > bound + half_unit or found.high < bound - half_unit:
                return DIFFERS
            nothing = NO_EFFECT.get(self.quantity.relation)
            return UNCLEAR if nothing is not None and found.low < nothing < found.high else HOLDS
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

    ``resampled`` gives our rates with an entry a resample of the questions; without it ours have no interval. With it
    they have the one that reaches further of two at either end: over questions, and of the answers alone.
    """
    verdicts = Verdicts.of(study, measured)
    drawn: list[Rates] = []
    if resampled is not None:
        drawn = [resampled, _answers_drawn(study, measured)]
    return [_judge(claim, study, measured, verdicts, paper_study, paper, drawn) for claim in load_claims()]


def _judge(
    claim: Claim,
    study: Study,
    measured: Summary,
    verdicts: Verdicts,
    paper_study: Study,
    paper: Summary,
    resampled: Sequence[Rates],
) -> Verdict:
    quantity = claim.quantity
    published = recompute(quantity, paper_study, paper)
    without = None
    if claim.without is not None:
        rest = [task for task in ema_tasks(paper_study) if task != claim.without]
        without = recompute(quantity, paper_study, paper, rest)
    ours = quantity.evaluate(study, measured.value)
    interval = None if ours is None else _widest([quantity.evaluate(study, rates) for rates in resampled])
    arms_alone = quantity.model_copy(update={"relation": "value"})
    if ours is None and arms_alone.evaluate(study, measured.value) is None:
        verdict: str = NOT_MEASURED
    elif (why := _why_unreadable(claim, study, verdicts)) is not None:
        verdict = why
    elif ours is None:
        verdict = NOT_MEASURED  # what to compare with is missing, or 0
    else:
        found = Range(float(ours), *(interval or (float(ours), float(ours))))
        verdict = claim.holds(found)
        if any(claim.holds(found.moved(by)) != verdict for by in _doubts(quantity, study, measured, verdicts)):
            verdict = UNCLEAR
        if resampled and interval is None:
            verdict = UNCLEAR  # in some resample there is nothing to divide by
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


def _widest(drawn: Sequence[Values | None]) -> Interval | None:
    """Return the ends that reach furthest of the intervals of what was drawn; None if there is none of any."""
    found = [percentile_interval(np.asarray(values)) for values in drawn if values is not None]
    if not found or len(found) < len(drawn):
        return None
    return min(low for low, _ in found), max(high for _, high in found)


def _answers_drawn(study: Study, measured: Summary) -> Rates:
    """Return rates drawn as their number of answers allows, with one more of either kind: 0 of 24 is not 0 %.

    Where all questions are alike, drawing questions again would give the rate itself, again and again.
    """

    def rate(condition: Condition, name: str) -> Values | None:
        found = measured.estimate(condition, name)
        if found is None or found.successes is None or found.trials is None:
            return None
        generator = np.random.default_rng(crc32("\n".join((*condition, name)).encode()))
        wrong = found.trials - found.successes
        return 100 * generator.beta(found.successes + 1, wrong + 1, study.scoring.bootstrap_resamples)

    return rate


def _doubts(quantity: Quantity, study: Study, measured: Summary, verdicts: Verdicts) -> list[float]:
    """Return how far responses without a score, or cut ones, can move a quantity down and up."""

    def at(end: int) -> Rates:
        def rate(condition: Condition, name: str) -> float | None:
            value = measured.value(condition, name)
            if name == EXACT_MATCH or value is None:
                return value
            return 100 * verdicts.counts.bounds((condition, name))[end]

        return rate

    value = quantity.evaluate(study, measured.value)
    ends = [quantity.evaluate(study, at(end), at(1 - end)) for end in (0, 1)]
    return [float(end) - float(value) for end in ends if end is not None and value is not None]


def _why_unreadable(claim: Claim, study: Study, verdicts: Verdicts) -> str | None:
    """Return the verdict where nothing was to be prevented, or that cannot be told; None for what can be read.

    That is what is said of controls and of benign tasks, too.
    """
    quantity = claim.quantity
    if quantity.rate == EXACT_MATCH or set(quantity.arms) <= CONTROLS:
        return None
    model = model_of_claim(study, quantity.model)
    if model is None:
        return NOT_MEASURED
    appeared = {verdicts.ema(model, task).says for task in quantity.tasks_of(study)}
    if NO in appeared:
        return NO_EMA
    return NOT_MEASURED if NOT_MEASURED in appeared else UNCLEAR if UNTOLD in appeared else None
