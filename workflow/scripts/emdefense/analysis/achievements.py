"""What a defence achieves of Table 1's three aims, each with its interval: reached, partly, missed, or cannot be told.

Intervals of a model's defences hold together (Bonferroni), so that trying more defences finds no more by chance.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf, isfinite, nan, sqrt
from statistics import NormalDist, fmean
from typing import Literal

import numpy as np

from emdefense.analysis.conditions import (
    Condition,
    benign_settings,
    chosen_setting,
    conditions,
    ema_tasks,
    headline_defences,
    setting_title,
)
from emdefense.analysis.evidence import Error, Evidence, Numbers
from emdefense.analysis.intervals import CONFIDENCE, Interval
from emdefense.analysis.printed import points
from emdefense.analysis.question_counts import Contrast, RateKey
from emdefense.analysis.summary import Summary
from emdefense.analysis.verdicts import FEWEST_GROUPS, LEVEL, Verdicts, in_doubt, too_few, what_settles
from emdefense.arms import MISALIGNED, NO_SETTING, PLAIN
from emdefense.config import Study
from emdefense.metrics import EXACT_MATCH, GENERAL_INCOHERENT, GENERAL_MISALIGNED, IN_DOMAIN_MISALIGNED

Mark = Literal["✓", "~", "✗", "?", ""]
REACHED: Mark = "✓"
PARTLY: Mark = "~"
MISSED: Mark = "✗"
CANNOT_BE_TOLD: Mark = "?"
NOTHING: Mark = ""
_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


@dataclass(frozen=True)
class Aim:
    """How far one aim was reached: a percentage with its interval, and the mark that follows from the interval.

    ``surely`` names the thresholds (per cent) that the value lies above for certain, ``surely_not`` is whether ✓ is
    missed for certain. ``value`` is None, and the mark empty, where nothing was measured or nothing can be read.
    """

    value: float | None = None
    mark: Mark = NOTHING
    interval: Interval | None = None
    surely: tuple[float, ...] = ()
    surely_not: bool = False
    why: str = ""
    settle: str = ""


@dataclass(frozen=True)
class Achievement:
    """What an arm at its chosen setting achieves, means over tasks in per cent.

    ``of_excess`` is whether reduction and retention are of what exceeds the untrained model. ``benign_at`` names the
    settings on the benign tasks where the chosen one was not measured on them, ``unlearned`` the benign tasks of which
    plain SFT gets nothing right, so that no share of it can be kept.
    """

    reduction: Aim = Aim()
    in_domain_retention: Aim = Aim()
    benign_retention: Aim = Aim()
    coherence: Aim = Aim()
    benign_at: str = ""
    unlearned: tuple[str, ...] = ()

    @cached_property
    def learning(self) -> Aim:
        """The worse of the two retentions; without benign tasks, the one in domain."""
        both = [aim for aim in (self.in_domain_retention, self.benign_retention) if aim.value is not None]
        if self.in_domain_retention.value is None or len(both) == 1:
            return self.in_domain_retention
        smaller = min(both, key=lambda aim: aim.value or 0.0)
        for mark in (MISSED, CANNOT_BE_TOLD, PARTLY):  # a doubt about one leaves the whole in doubt
            marked = [aim for aim in both if aim.mark == mark]
            if marked:
                return smaller if smaller in marked else marked[0]
        return smaller


def achievement(study: Study, summary: Summary, verdicts: Verdicts, model: str, arm: str) -> Achievement:
    """Return an arm's achievements on a model; tasks in which EMA is not shown to have appeared are left out."""
    setting = chosen_setting(study, arm)
    if setting is None:
        return Achievement()
    thresholds, tasks = study.report.verdicts, verdicts.readable(model)
    level = LEVEL / max(1, _compared(study, model))
    benign = _benign_conditions(study, model, arm)
    plain = arm == MISALIGNED
    return Achievement(
        reduction=Aim(0.0 if tasks else None, MISSED if tasks else NOTHING)
        if plain
        else reduction_aim(study, verdicts, model, tasks, arm, setting),
        in_domain_retention=Aim(100.0 if tasks else None, REACHED if tasks else NOTHING)
        if plain
        else _high(study, retention(verdicts, model, tasks, arm, setting), thresholds.retention_pct, level),
        benign_retention=_high(study, _benign_retention(study, summary, benign), thresholds.retention_pct, level),
        coherence=_low(study, _incoherence(study, verdicts, model, arm, setting), thresholds.incoherent_pct, level),
        benign_at=", ".join(
            setting_title(study, arm, s) for s in dict.fromkeys(c.setting for c in benign) if s != setting
        ),
        unlearned=tuple(dict.fromkeys(study.tasks[c.task].title for c in benign if _is_unlearned(summary, c))),
    )


def reduction_aim(study: Study, verdicts: Verdicts, model: str, tasks: Sequence[str], arm: str, setting: str) -> Aim:
    """Return the first aim of a defence: how much of EMA it takes, and the mark that follows."""
    level = LEVEL / max(1, _compared(study, model))
    found = reduction(verdicts, model, tasks, arm, setting)
    return _high(study, found, study.report.verdicts.ema_reduction_pct, level)


def reduction(verdicts: Verdicts, model: str, tasks: Sequence[str], arm: str, setting: str) -> Contrast | None:
    """Return the mean over tasks of the share of EMA that an arm takes: of what exceeds the untrained model's rate.

    None if there is no task, or if a rate is missing in any of them.
    """
    if not tasks:
        return None
    mine = [(Condition(model, task, arm, setting), GENERAL_MISALIGNED) for task in tasks]
    whole = [(Condition(model, task, MISALIGNED), GENERAL_MISALIGNED) for task in tasks]
    before = verdicts.untrained(model, tasks[0], GENERAL_MISALIGNED)
    number = len(tasks)

    def taken(rates: Numbers) -> float:
        floor = rates[-1] if before is not None else 0.0
        return float(np.mean(1 - (rates[:number] - floor) / (rates[number : 2 * number] - floor)))

    return verdicts.counts.contrast([[*mine, *whole, *([] if before is None else [before])]], taken)


def retention(verdicts: Verdicts, model: str, tasks: Sequence[str], arm: str, setting: str) -> Contrast | None:
    """Return the mean over tasks of the share, at most 1, of what was learned in domain that an arm learns too.

    Learned is what exceeds the untrained model's rate. None as for :func:`reduction`.
    """
    if not tasks:
        return None
    strata: list[list[RateKey]] = []
    for task in tasks:
        arms = [Condition(model, task, arm, setting), Condition(model, task, MISALIGNED)]
        before = verdicts.untrained(model, task, IN_DOMAIN_MISALIGNED)
        strata.append([*((one, IN_DOMAIN_MISALIGNED) for one in arms), *([] if before is None else [before])])

    def shares(rates: Numbers) -> Numbers:
        found, first = [], 0
        for keys in strata:
            mine, whole, floor = (*rates[first : first + len(keys)], 0.0)[:3]
            found.append((mine - floor) / (whole - floor))
            first += len(keys)
        return np.array(found)

    return verdicts.counts.contrast(
        strata, lambda r: float(np.minimum(shares(r), 1).mean()), smooth=lambda r: float(shares(r).mean())
    )


def _compared(study: Study, model: str) -> int:
    """Return how many defences of a model are judged."""
    there = {(c.arm, c.setting) for c in conditions(study) if c.model == model}
    return len([arm for arm in headline_defences(study) if (arm, chosen_setting(study, arm)) in there])


def _high(study: Study, found: Contrast | None, thresholds: Sequence[float], level: float) -> Aim:
    """Return the aim of a share that should be high: surely above the first threshold, surely below the second ✗.

    In between, ~: something is surely there, and surely less than ✓ asks for.
    """
    if found is None or not isfinite(found.as_scored.value):
        return Aim()
    yes, partly = thresholds
    sure = tuple(bound for bound in (yes, partly, 0.0) if found.p_above(bound / 100) < level)
    below = {bound: found.p_below(bound / 100) < level for bound in (yes, partly)}
    mark = CANNOT_BE_TOLD
    if yes in sure:
        mark = REACHED
    elif below[partly]:
        mark = MISSED
    elif below[yes] and 0.0 in sure:
        mark = PARTLY
    aim = _aim(study, found, mark, level, yes if 0.0 in sure else partly)
    enough = found.as_scored.groups >= FEWEST_GROUPS
    return replace(aim, surely=sure, surely_not=below[yes]) if enough else aim


def _low(study: Study, found: Contrast | None, thresholds: Sequence[float], level: float) -> Aim:
    """Return the aim of a rate that should be low: ✓, ~ or ✗ where the interval lies in one of them as a whole."""
    if found is None:
        return Aim()
    yes, partly = thresholds
    above, below = ({bound: p(bound / 100) < level for bound in (yes, partly)} for p in (found.p_above, found.p_below))
    mark = CANNOT_BE_TOLD
    if below[yes]:
        mark = REACHED
    elif above[partly]:
        mark = MISSED
    elif above[yes] and below[partly]:
        mark = PARTLY
    nearest = min(thresholds, key=lambda bound: abs(100 * found.as_scored.value - bound))
    aim = _aim(study, found, mark, level, nearest)
    low, high = aim.interval or (0.0, 100.0)
    return replace(aim, interval=(max(low, 0.0), min(high, 100.0)))


def _aim(study: Study, found: Contrast, mark: Mark, level: float, bound: float) -> Aim:
    evidence = found.as_scored
    low, high = (100 * end for end in evidence.interval(1 - 2 * level))
    value = 100 * evidence.value
    if evidence.groups < FEWEST_GROUPS:
        return Aim(value, CANNOT_BE_TOLD, (low, high), why=too_few(evidence, study))
    if mark != CANNOT_BE_TOLD:
        return Aim(value, mark, (low, high))
    # Were all responses with a score all there are, would it be told?
    if found.lowest is not None and min(evidence.p_above(bound / 100), evidence.p_below(bound / 100)) < level:
        why, settle = in_doubt()
        return Aim(value, mark, (low, high), why=why, settle=settle)
    why = f"its interval, {points(low)} to {points(high)} %, lies on both sides of {bound:g} %"
    settle = what_settles(evidence, evidence.value - bound / 100, level, study)
    return Aim(value, mark, (low, high), why=why, settle=settle)


def _incoherence(study: Study, verdicts: Verdicts, model: str, arm: str, setting: str) -> Contrast | None:
    """Return the mean rate of incoherence on the general questions over all tasks."""
    keys = [(Condition(model, task, arm, setting), GENERAL_INCOHERENT) for task in ema_tasks(study, model)]
    return verdicts.counts.contrast([keys], lambda rates: float(rates.mean())) if keys else None


def _benign_retention(study: Study, summary: Summary, benign: Sequence[Condition]) -> Contrast | None:
    """Return the mean share, at most 1, of plain SFT's exact match on benign tasks.

    None if any of the grid is missing, or there is none. Arms count as asked independently of each other, which errs
    on the side of doubt. The error of the answers alone is that of rates with one more of either kind, as in
    :func:`evidence`: 0 of 100 right are no proof that nothing is left of 5.
    """
    shares: list[float] = []
    padded_shares: list[float] = []
    over_questions = of_answers = 0.0
    for condition in benign:
        if _is_unlearned(summary, condition):
            continue  # of nothing there is no share
        mine, plain = (summary.estimate(c, EXACT_MATCH) for c in (condition, _plain(condition)))
        if mine is None or plain is None:
            return None
        share = mine.value / plain.value
        shares.append(min(share, 1))
        for estimate, slope in ((mine, 1 / plain.value), (plain, share / plain.value)):
            low, high = estimate.cluster or (nan, nan)
            if isfinite(low):
                over_questions += (slope * (high - low) / 2 / _Z) ** 2
        task = study.tasks[condition.task]
        asked = task.test_questions * task.samples_per_question if task.kind == "benign" else 0
        trials = np.array([e.trials or asked for e in (mine, plain)])  # the paper prints no counts
        left, whole = padded = (np.array([mine.value, plain.value]) / 100 * trials + 1) / (trials + 2)
        padded_shares.append(min(left / whole, 1))
        of_rates = padded * (1 - padded) / (trials + 2)
        of_answers += float(of_rates @ (np.array([1, left / whole]) / whole) ** 2)
    if not shares:
        return None
    value, number = fmean(shares), len(shares)
    over = Error(value, sqrt(over_questions) / number, inf)
    of = Error(fmean(padded_shares), sqrt(of_answers) / number, inf)
    return Contrast(Evidence(value, over, of, groups=FEWEST_GROUPS))


def _plain(condition: Condition) -> Condition:
    return condition._replace(arm=PLAIN, setting=NO_SETTING)


def _is_unlearned(summary: Summary, condition: Condition) -> bool:
    """Whether plain SFT gets nothing right on a benign task."""
    return summary.value(_plain(condition), EXACT_MATCH) == 0


def _benign_conditions(study: Study, model: str, arm: str) -> list[Condition]:
    """Return an arm on every benign task: at its chosen setting, or at those of Tables 5 and 6 if that is not there."""
    chosen = chosen_setting(study, arm)
    found: list[Condition] = []
    for name, task in study.tasks.items():
        in_grid = [c.setting for c in conditions(study) if (c.model, c.task, c.arm) == (model, name, arm)]
        if task.kind == "benign" and in_grid:
            there = benign_settings(study, arm, in_grid)
            found += [Condition(model, name, arm, s) for s in ([chosen] if chosen in there else there) if s is not None]
    return found
