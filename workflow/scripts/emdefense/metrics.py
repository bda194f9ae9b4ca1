"""What is measured of an arm, each metric once: its name, what it is a rate of, its title, and which way is good."""

from dataclasses import dataclass
from typing import Literal

from emdefense.names import GENERAL, IN_DOMAIN

Direction = Literal["lower", "higher"]
QUESTION_SETS = {GENERAL: "general", IN_DOMAIN: "in-domain"}  # and how a reader calls them
OUTCOMES = MISALIGNED, INCOHERENT = "misaligned", "incoherent"


@dataclass(frozen=True)
class Metric:
    """A rate (%) of responses to a question set, or of answers to a benign task."""

    name: str  # in tables' CSV and in claims
    title: str
    direction: Direction  # which is better
    question_set: str = ""  # none for benign tasks
    outcome: str = ""

    @property
    def group(self) -> str:
        """The heading that the metrics of a question set share."""
        return QUESTION_SETS[self.question_set].capitalize()

    @property
    def heading(self) -> str:
        """Its own heading: the outcome, and which way is good."""
        return f"{self.outcome} {'↓' if self.direction == 'lower' else '↑'}"


def _judged(question_set: str, outcome: str, direction: Direction) -> Metric:
    title = f"{QUESTION_SETS[question_set]} {outcome}"
    return Metric(f"{question_set}_{outcome}", title, direction, question_set, outcome)


JUDGED = (
    _judged(GENERAL, MISALIGNED, "lower"),
    _judged(GENERAL, INCOHERENT, "lower"),
    _judged(IN_DOMAIN, MISALIGNED, "higher"),
    _judged(IN_DOMAIN, INCOHERENT, "lower"),
)
GENERAL_MISALIGNED, GENERAL_INCOHERENT, IN_DOMAIN_MISALIGNED, IN_DOMAIN_INCOHERENT, *_ = (m.name for m in JUDGED)
EXACT_MATCH = "exact_match"
METRICS = {m.name: m for m in (*JUDGED, Metric(EXACT_MATCH, "exact match", "higher", outcome="correct"))}
