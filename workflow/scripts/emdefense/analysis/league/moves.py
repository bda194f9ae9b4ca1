"""What moves a quantity of rates: each seed, each group of questions, and the answers alone, for many rows at once.

A quantity is linearised, and what each (seed, group of questions) adds to it is kept, so that the difference between
two rows is a subtraction, and what they share falls out. Errors are by two-way clustering (Cameron, Gelbach and Miller
2011, "Robust inference with multiway clustering"): over groups, plus over seeds, less what both count; with Student's t
by Satterthwaite, for three seeds say little of a fourth.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, sqrt

import numpy as np

from emdefense.analysis.evidence import Error, Evidence, Numbers, slopes
from emdefense.analysis.verdicts import FEWEST_GROUPS

Quantity = Callable[[Numbers], float]


@dataclass(frozen=True)
class Count:
    """How often something was seen, of how many answers: (seeds + 1, groups of questions).

    The last row is of a model that no seed trained. Counts of one ``name`` are the same answers, and those of one
    ``stratum`` are of the same questions.
    """

    name: Hashable
    stratum: str
    successes: Numbers
    trials: Numbers


@dataclass(frozen=True)
class Moves:
    """A quantity, and how far each (seed, group) of a stratum moves it: (seeds + 1, groups), which sum to 0.

    ``answers`` has the standard error that the answers of each rate leave, with one more of either kind added to each;
    ``padded`` is the quantity with these. ``groups`` is how many groups of each stratum have answers.
    """

    value: float
    by_group: Mapping[str, Numbers]
    groups: Mapping[str, int]
    padded: float
    answers: Mapping[Hashable, float]

    def minus(self, other: "Moves") -> "Moves":
        """Return the difference; of strata that both have, the smaller number of groups."""
        return mixed(self.value - other.value, self.padded - other.padded, [(1.0, 1.0, self), (-1.0, -1.0, other)])

    def evidence(self) -> Evidence:
        """Return both errors: over groups of questions and seeds, and of the answers alone."""
        of_answers = sqrt(sum(error**2 for error in self.answers.values()))
        fewest = min(self.groups.values(), default=0)
        over = Error(self.value, *_over_both(self.by_group, self.groups))
        return Evidence(self.value, over, Error(self.padded, of_answers, inf), fewest)

    @property
    def is_told(self) -> bool:
        """Whether there are questions enough to say anything of others."""
        return min(self.groups.values(), default=0) >= FEWEST_GROUPS


def moves(counts: Sequence[Count], quantity: Quantity, smooth: Quantity | None = None) -> Moves:
    """Return what moves a quantity of the rates of ``counts``, in their order.

    ``smooth`` is what to differentiate where the quantity has a kink.
    """
    smooth = smooth or quantity
    with np.errstate(divide="ignore", invalid="ignore"):
        successes = np.array([count.successes.sum() for count in counts])
        trials = np.array([count.trials.sum() for count in counts])
        rates, padded = successes / trials, (successes + 1) / (trials + 2)
        slope, of_padded = slopes(smooth, rates), slopes(smooth, padded)
        by_group: dict[str, Numbers] = {}
        asked: dict[str, Numbers] = {}
        answers: dict[Hashable, float] = {}
        for n, count in enumerate(counts):
            moved = (count.successes - count.trials * rates[n]) * slope[n] / trials[n]
            by_group[count.stratum] = by_group.get(count.stratum, 0.0) + moved
            asked[count.stratum] = asked.get(count.stratum, 0.0) + count.trials.sum(axis=0)
            error = of_padded[n] * sqrt(padded[n] * (1 - padded[n]) / (trials[n] + 2))
            answers[count.name] = answers.get(count.name, 0.0) + float(error)
        groups = {stratum: int((number > 0).sum()) for stratum, number in asked.items()}
        return Moves(float(quantity(rates)), by_group, groups, float(quantity(padded)), answers)


def mixed(value: float, padded: float, parts: Sequence[tuple[float, float, Moves]]) -> Moves:
    """Return what moves a quantity of other quantities: its slope by each of them, as measured and as padded."""
    by_group: dict[str, Numbers] = {}
    groups: dict[str, int] = {}
    answers: dict[Hashable, float] = {}
    for slope, of_padded, part in parts:
        for stratum, moved in part.by_group.items():
            by_group[stratum] = by_group.get(stratum, 0.0) + slope * moved
            groups[stratum] = min(groups.get(stratum, part.groups[stratum]), part.groups[stratum])
        for name, error in part.answers.items():
            answers[name] = answers.get(name, 0.0) + of_padded * error
    return Moves(value, by_group, groups, padded, answers)


def _over_both(by_group: Mapping[str, Numbers], groups: Mapping[str, int]) -> tuple[float, float]:
    """Return the standard error over groups of questions and seeds, and its degrees of freedom."""
    if not by_group or min(groups.values()) < 2:
        return inf, 1.0
    over_groups = {s: float((m.sum(axis=0) ** 2).sum()) * groups[s] / (groups[s] - 1) for s, m in by_group.items()}
    variance, squares = sum(over_groups.values()), sum(v**2 / (groups[s] - 1) for s, v in over_groups.items())
    per_seed = np.sum([moved[:-1].sum(axis=1) for moved in by_group.values()], axis=0)
    seeds = len(per_seed)
    if seeds < 2:
        return sqrt(variance), variance**2 / squares if squares else float(min(groups.values()) - 1)
    over_seeds = float(per_seed @ per_seed) * seeds / (seeds - 1)
    twice = sum(
        float((moved[:-1] ** 2).sum()) * seeds * groups[s] / (seeds * groups[s] - 1) for s, moved in by_group.items()
    )
    both, squares = variance + over_seeds, squares + over_seeds**2 / (seeds - 1)
    freedom = both**2 / squares if squares else float(seeds - 1)
    return sqrt(max(both - twice, variance, over_seeds)), freedom
