"""What is measured of an arm, each metric once: its name, what it is a rate of, its title, and which way is good."""

from dataclasses import dataclass
from typing import Literal

from emdefense.names import GENERAL, IN_DOMAIN

Direction = Literal["lower", "higher"]
OUTCOMES = _MISALIGNED, _INCOHERENT = "misaligned", "incoherent"


@dataclass(frozen=True)
class Metric:
    """A rate (%) of responses to a question set, or of answers to a benign task."""

    name: str  # in tables' CSV and in claims
    title: str
    direction: Direction  # which is better
    question_set: str = ""  # none for benign tasks
    outcome: str = ""


def _judged(question_set: str, outcome: str, title: str, direction: Direction) -> Metric:
    return Metric(f"{question_set}_{outcome}", title, direction, question_set, outcome)


JUDGED = (
    _judged(GENERAL, _MISALIGNED, "general misaligned", "lower"),
    _judged(GENERAL, _INCOHERENT, "general incoherent", "lower"),
    _judged(IN_DOMAIN, _MISALIGNED, "in-domain misaligned", "higher"),
    _judged(IN_DOMAIN, _INCOHERENT, "in-domain incoherent", "lower"),
)
GENERAL_MISALIGNED, GENERAL_INCOHERENT, IN_DOMAIN_MISALIGNED, IN_DOMAIN_INCOHERENT = (m.name for m in JUDGED)
EXACT_MATCH = "exact_match"
METRICS = {metric.name: metric for metric in (*JUDGED, Metric(EXACT_MATCH, "exact match", "higher"))}
