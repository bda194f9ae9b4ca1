"""Ranks as far as chance allows, and the Pareto front: which rows no other beats in everything."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from emdefense.analysis.evidence import Numbers
from emdefense.analysis.league.moves import Moves
from emdefense.analysis.paired import holm

LEVEL = 0.05
DRAWS = 2000
SURELY = 0.95  # of the draws
SEED = 0


@dataclass(frozen=True)
class Ranking:
    """For each row: between which ranks it lies, whether it is on the front, and in which share of draws it is.

    ``better`` has the pairs of rows of which the first is better by more than chance, ``pairs`` how many there are.
    """

    ranks: tuple[tuple[int, int], ...]
    better: frozenset[tuple[int, int]]
    on_front: tuple[bool, ...]
    front_share: tuple[float, ...]
    pairs: int

    def surely_on_front(self, row: int) -> bool:
        """Whether a row is on the front and stays there in 95 % of the draws."""
        return self.on_front[row] and self.front_share[row] >= SURELY


def ranking(scores: Sequence[Moves], goods: Sequence[Sequence[Moves]], plain: Sequence[Moves] | None) -> Ranking:
    """Return the ranking of rows by their scores, and the front of their goods, the more the better.

    A rank is a range: from one more than the rows that are surely better to how many are not surely worse. What is sure
    is by two-sided tests at 5 % of all pairs' differences, corrected by Holm's method. ``plain`` are the goods without
    a defence, which can beat rows but has no rank.
    """
    number = len(scores)
    pairs = list(combinations(range(number), 2))
    tails = [_tails(scores[one].minus(scores[other])) for one, other in pairs]
    corrected = holm([min(1.0, 2 * min(tail)) for tail in tails])
    better = frozenset(
        (one, other) if above < below else (other, one)
        for (one, other), (above, below), p in zip(pairs, tails, corrected, strict=True)
        if p < LEVEL
    )
    ranks = tuple(
        (1 + sum(loser == n for _, loser in better), number - sum(winner == n for winner, _ in better))
        for n in range(number)
    )
    every = [*goods, *([] if plain is None else [plain])]
    front = on_front(np.array([[[good.value for good in of_row] for of_row in every]]))[0] if every else np.array([])
    return Ranking(
        ranks,
        better,
        tuple(bool(on) for on in front[:number]),
        tuple(map(float, _front_shares(every)[:number])),
        len(pairs),
    )


def _tails(difference: Moves) -> tuple[float, float]:
    """Return the one-sided p-values of a difference above 0 and below 0."""
    if not difference.is_told:
        return 1.0, 1.0
    evidence = difference.evidence()
    return evidence.p_above(0), evidence.p_below(0)


def on_front(values: Numbers) -> NDArray[np.bool_]:
    """Return whether no other row is as good in everything and better in something, (draws, rows).

    ``values`` is (draws, rows, goods). Goods are shares of which more than 1 is no better than 1.
    """
    values = np.minimum(values, 1)
    number = values.shape[1]
    found: NDArray[np.bool_] = np.ones(values.shape[:2], dtype=bool)
    for other in range(number):
        no_worse, better = values[:, [other]] >= values, values[:, [other]] > values
        found &= ~np.array(no_worse.all(axis=2) & better.any(axis=2))
    return found


def _front_shares(goods: Sequence[Sequence[Moves]]) -> Numbers:
    """Return in which share of draws each row is on the front: of questions and seeds, or of answers, the smaller."""
    if not goods or not all(good.is_told for row in goods for good in row):
        return np.zeros(len(goods))
    shares: Numbers = np.stack([on_front(draws).mean(axis=0) for draws in (_over_both(goods), _of_answers(goods))])
    return np.array(shares.min(axis=0))


def _over_both(goods: Sequence[Sequence[Moves]]) -> Numbers:
    """Draw every good of all rows at once as groups of questions and seeds move it: (draws, rows, goods)."""
    generator = np.random.default_rng(SEED)
    values = np.array([[good.value for good in row] for row in goods])
    draws = np.repeat(values[None], DRAWS, axis=0)
    flat = [good for row in goods for good in row]
    shape = draws.shape
    drawn = draws.reshape(DRAWS, -1)
    strata = {name: moved.shape for good in flat for name, moved in good.by_group.items()}
    per_seed = np.zeros((next(iter(strata.values()))[0] - 1, len(flat)))
    for name, (_, groups) in strata.items():
        moved = np.zeros((groups, len(flat)))
        for n, good in enumerate(flat):
            if name in good.by_group:
                asked = good.groups[name]
                moved[:, n] = good.by_group[name].sum(axis=0) * sqrt(asked / (asked - 1))
                per_seed[:, n] += good.by_group[name][:-1].sum(axis=1)
        drawn += generator.standard_normal((DRAWS, groups)) @ moved
    seeds = len(per_seed)
    if seeds > 1:
        freedom = seeds - 1
        scale = np.sqrt(freedom / generator.chisquare(freedom, (DRAWS, 1)))  # Student's t for few seeds
        drawn += generator.standard_normal((DRAWS, seeds)) * scale @ (per_seed * sqrt(seeds / freedom))
    return drawn.reshape(shape)


def _of_answers(goods: Sequence[Sequence[Moves]]) -> Numbers:
    """Draw every good of all rows at once as the answers alone move it: (draws, rows, goods)."""
    generator = np.random.default_rng(SEED)
    flat = [good for row in goods for good in row]
    names = list(dict.fromkeys(name for good in flat for name in good.answers))
    errors = np.array([[good.answers.get(name, 0.0) for good in flat] for name in names])
    drawn: Numbers = np.array([good.padded for good in flat]) + generator.standard_normal((DRAWS, len(names))) @ errors
    return drawn.reshape(DRAWS, len(goods), -1)
