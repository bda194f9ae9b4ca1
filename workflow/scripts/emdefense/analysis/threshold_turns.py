"""What a study would conclude otherwise at another threshold, as far as intervals tell it at both.

Each threshold is judged by itself: intervals hold for all defences together, not for all thresholds together.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np

from emdefense.analysis.achievements import Mark, reduction_aim
from emdefense.analysis.conditions import Condition, headline_defences
from emdefense.analysis.differences import SIGNIFICANT
from emdefense.analysis.paired import holm
from emdefense.analysis.thresholds import AtThresholds, Threshold
from emdefense.analysis.verdicts import FEWEST_GROUPS, Says
from emdefense.metrics import GENERAL_MISALIGNED

Arm = tuple[str, str]


@dataclass(frozen=True)
class Turns:
    """The conclusions at every threshold that was tried, the study's own among them.

    ``ema`` says of each task whether EMA appeared, ``marks`` has Table 1's first mark of each defence; none where EMA
    did not appear in all the tasks that the study reads. ``orders`` holds, for each pair of defences of which one is
    surely lower on general questions, which: the first (−1) or the second (1).
    """

    at: AtThresholds

    @cached_property
    def defences(self) -> list[Arm]:
        """The defences that are judged, at their chosen settings."""
        headline = headline_defences(self.at.study)
        return [arm for arm in self.at.arms if arm[0] in headline]

    @cached_property
    def ema(self) -> dict[Threshold, dict[str, Says]]:
        """By threshold and task."""
        return {
            threshold: {task: self.at.verdicts(threshold).ema(self.at.model, task).says for task in self.at.tasks}
            for threshold in self.at.tried
        }

    @cached_property
    def marks(self) -> dict[Threshold, dict[Arm, Mark]]:
        """By threshold and defence."""
        at, tasks = self.at, self.at.readable
        found = {}
        for threshold in at.tried:
            verdicts = at.verdicts(threshold)
            there = bool(tasks) and set(tasks) <= set(verdicts.readable(at.model))
            found[threshold] = {
                arm: reduction_aim(at.study, verdicts, at.model, tasks, *arm).mark
                for arm in (self.defences if there else ())
            }
        return found

    @cached_property
    def orders(self) -> dict[Threshold, dict[tuple[Arm, Arm], int]]:
        """By threshold and pair of defences: the mean over the tasks that the study reads, by Holm's method."""
        return {threshold: self._order(threshold) for threshold in self.at.tried}

    def _order(self, threshold: Threshold) -> dict[tuple[Arm, Arm], int]:
        counts, tasks = self.at.verdicts(threshold).counts, self.at.readable
        number, signs, p_values = len(tasks), [], []
        pairs = list(combinations(self.defences, 2)) if tasks else []
        for pair in pairs:
            keys = [(Condition(self.at.model, task, *arm), GENERAL_MISALIGNED) for arm in pair for task in tasks]
            found = counts.contrast([keys], lambda r: float(np.mean(r[:number]) - np.mean(r[number:])))
            told = found is not None and found.as_scored.groups >= FEWEST_GROUPS
            signs.append(1 if found is not None and found.as_scored.value > 0 else -1)
            p_values.append(min(1.0, 2 * min(found.p_above(0), found.p_below(0))) if found and told else 1.0)
        corrected = holm(p_values)
        return {pair: sign for pair, sign, p in zip(pairs, signs, corrected, strict=True) if p < SIGNIFICANT}
