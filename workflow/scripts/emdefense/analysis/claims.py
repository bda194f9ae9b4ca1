"""The paper's quantitative claims, recomputed from its own tables and from our measurements."""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Literal, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict

from emdefense.analysis.conditions import ARM_TITLES, Role, chosen_condition, ema_tasks, model_in_role
from emdefense.analysis.summary import GENERAL_INCOHERENT, GENERAL_MISALIGNED, IN_DOMAIN_MISALIGNED, Summary
from emdefense.cells import NO_SETTING
from emdefense.config import Study

HOLDS, DIFFERS, NOT_MEASURED, NO_EMA = "holds", "does not hold", "not measured", "EMA did not appear"
Quantity = Literal["mean_ema_reduction", "mean_in_domain_retention", "incoherence_increase"]
TABLE_ROUNDING = 0.005  # half a unit of the last digit in the paper's tables, in percentage points


class Computation(NamedTuple):
    """How a quantity follows from the mean, over tasks, of a rate's share of the misaligned arm's rate."""

    rate: str
    of_mean_share: Callable[[float], float]
    formula: str


COMPUTATIONS: dict[Quantity, Computation] = {
    "mean_ema_reduction": Computation(
        GENERAL_MISALIGNED,
        lambda share: 100 * (1 - share),
        "mean over the tasks of 1 − general misaligned ({arm}) / general misaligned (Misaligned)",
    ),
    "mean_in_domain_retention": Computation(
        IN_DOMAIN_MISALIGNED,
        lambda share: 100 * share,
        "mean over the tasks of in-domain misaligned ({arm}) / in-domain misaligned (Misaligned)",
    ),
    "incoherence_increase": Computation(
        GENERAL_INCOHERENT,
        lambda share: 100 * (share - 1),
        "general incoherent ({arm}) / general incoherent (Misaligned) − 1, on {task}",
    ),
}


class Range(NamedTuple):
    """A value, and how far it could move if the rates behind it were rounded; per cent."""

    value: float
    low: float
    high: float


class Claim(BaseModel):
    """A sentence of the paper with a number in it, and how that number is computed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    claim: str
    quantity: Quantity
    model: Role
    arm: str
    paper_pct: str
    task: str | None = None
    without: str | None = None

    @property
    def formula(self) -> str:
        """The formula in words."""
        return COMPUTATIONS[self.quantity].formula.format(arm=ARM_TITLES[self.arm], task=self.task)

    def agrees(self, found: Range) -> bool:
        """Whether a value in ``found`` rounds to the paper's figure, at the digits that the paper gives."""
        decimals = len(self.paper_pct.partition(".")[2])
        half_unit = 0.5 * 0.1**decimals
        paper = float(self.paper_pct)
        return found.low <= paper + half_unit and found.high >= paper - half_unit


class Verdict(BaseModel):
    """A claim beside the number that the paper's own tables give, and ours; percentages."""

    claim: Claim
    recomputed: float | None
    recomputed_without: float | None
    follows: bool
    ours: float | None
    verdict: str


def load_claims() -> list[Claim]:
    """Return the paper's claims, in the order in which they are reported."""
    raw = yaml.safe_load((Path(__file__).parent / "claims.yaml").read_text(encoding="utf-8"))
    return [Claim.model_validate(entry) for entry in raw]


def judge_claims(study: Study, measured: Summary, paper_study: Study, paper: Summary) -> list[Verdict]:
    """Return a verdict for each claim: does it follow from the paper's tables, and does it hold for ``measured``."""
    return [_judge(claim, study, measured, paper_study, paper) for claim in load_claims()]


def _judge(claim: Claim, study: Study, measured: Summary, paper_study: Study, paper: Summary) -> Verdict:
    published = evaluate(claim, paper_study, paper, rounding=TABLE_ROUNDING)
    without = None
    if claim.without is not None:
        rest = [task for task in ema_tasks(paper_study) if task != claim.without]
        without = evaluate(claim, paper_study, paper, tasks=rest)
    ours = evaluate(claim, study, measured)
    if ours is None:
        verdict = NOT_MEASURED
    elif not _ema_appeared(claim, study, measured):
        verdict = NO_EMA
    else:
        verdict = HOLDS if claim.agrees(ours) else DIFFERS
    return Verdict(
        claim=claim,
        recomputed=None if published is None else published.value,
        recomputed_without=None if without is None else without.value,
        follows=published is not None and claim.agrees(published),
        ours=None if ours is None else ours.value,
        verdict=verdict,
    )


def evaluate(
    claim: Claim, study: Study, summary: Summary, *, tasks: Sequence[str] = (), rounding: float = 0.0
) -> Range | None:
    """Return the claim's quantity over ``tasks`` (absent: the claim's, or all EMA tasks); None if a cell is missing.

    ``rounding`` is by how much each rate may be off (percentage points).
    """
    rate, of_mean_share, _ = COMPUTATIONS[claim.quantity]
    shares, smallest, largest = [], [], []
    for task in tasks or _tasks(claim, study):
        condition = chosen_condition(study, claim.model, task, claim.arm)
        if condition is None:
            return None
        mine = summary.value(condition, rate)
        reference = summary.value(condition._replace(arm="misaligned", setting=NO_SETTING), rate)
        if mine is None or not reference:
            return None
        shares.append(mine / reference)
        smallest.append((mine - rounding) / (reference + rounding))
        largest.append((mine + rounding) / (reference - rounding))
    if not shares:
        return None
    ends = sorted((of_mean_share(fmean(smallest)), of_mean_share(fmean(largest))))
    return Range(of_mean_share(fmean(shares)), *ends)


def _tasks(claim: Claim, study: Study) -> list[str]:
    return [task for task in ema_tasks(study) if claim.task in (None, task)]


def _ema_appeared(claim: Claim, study: Study, summary: Summary) -> bool:
    model = model_in_role(study, claim.model)
    return model is not None and all(
        summary.ema_appeared(model, task, study.report.emergent_pct) for task in _tasks(claim, study)
    )
