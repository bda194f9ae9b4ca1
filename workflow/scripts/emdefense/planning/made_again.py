"""What is there already and is to be made again, and why: settings or inputs have changed since."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from emdefense.planning.job import Job

# Reasons that say only that something else is to run, that an output is missing, or that one was half-made.
NOT_OF_ITS_OWN = {"input files updated by another job", "output files have to be generated", "forced"}


@dataclass(frozen=True)
class Again:
    """``jobs`` of a rule whose outputs are all there and that run again for a reason of their own, in words."""

    rule: str
    jobs: int
    reason: str


def made_again(jobs: Iterable[Job]) -> list[Again]:
    """Return what is to be made again, and why, by rule; not what only follows from it."""
    counts: Counter[tuple[str, str]] = Counter()
    for job in jobs:
        reasons = [reason for reason in job.reasons if reason not in NOT_OF_ITS_OWN]
        if reasons and all(Path(output).exists() for output in job.outputs):
            counts[job.rule, ", ".join(reasons)] += 1
    return [Again(rule, number, reason) for (rule, reason), number in counts.items()]


def made_again_text(found: Sequence[Again]) -> list[str]:
    """Return a line for each of them."""
    return [f"to make again: {again.jobs} {again.rule}: {again.reason}" for again in found]
