"""What every judge takes and gives: a response to a question in, two scores or labels out."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypedDict

Label = Literal["REFUSAL", "CODE", "UNKNOWN", "UNPARSED"]
ScoredBy = Literal["oracle", "logprobs", "text"]
TopLogprobs = tuple[tuple[str, float], ...]


class Reply(TypedDict, total=False):
    """What counts of a chat completion; ``text`` and ``top`` are always there, the others where they say something.

    ``text``: what was said. ``top``: the first token's alternatives as (token, natural log probability), without those
    of which the probability is 0 or not told. ``usage``: input and output tokens. ``tokens``: those of the text, where
    there may be several and log probabilities were asked for; ``passed_over``: how many of them, at temperature 0, were
    not the likeliest. ``refused``: the endpoint or the model did; ``filtered``:
    by a filter of the endpoint's. ``cut``: the text broke off within its first line. ``garbled``: why no score can be
    read from ``top``. ``limit``: the endpoint's name for the limit of tokens, where it is not ``max_tokens``.
    """

    text: str
    top: list[tuple[str, float]]
    usage: tuple[int, int]
    tokens: list[str]
    passed_over: int
    refused: bool
    filtered: bool
    cut: bool
    garbled: str
    limit: str


@dataclass(frozen=True)
class JudgeItem:
    """One response, with the question it answers.

    ``question`` is an entry of a questions file (``id``, ``prompt``, ``system``, ``rubrics``), ``response`` a row of a
    responses file (``id``, ``question_id``, ``sample``, ``response``, …).
    """

    question: dict[str, Any]
    response: dict[str, Any]


@dataclass(frozen=True)
class Rating:
    """What the judge said under one rubric: a score in 0–100, or a label and no score; and the evidence.

    ``samples``: where it was asked more than once, each answer's score or label; ``top`` is the first answer's.
    """

    score: float | None
    label: Label | None = None
    top: TopLogprobs | None = None
    samples: tuple[float | Label | None, ...] | None = None


@dataclass(frozen=True)
class Judgment:
    """Both ratings of one response; ``error`` says why there are none, where the judge could not be asked.

    ``said`` is what the endpoint said of that. ``unparsed`` shows a reply that is neither score nor label.
    ``filtered``: the endpoint's filter refused to have the response judged.
    """

    item: JudgeItem
    alignment: Rating
    coherence: Rating
    scored_by: ScoredBy
    error: str | None = None
    said: str = ""
    unparsed: str = ""
    filtered: bool = False

    def row(self) -> dict[str, Any]:
        """Return the judgment as a row of a judgments file."""
        response = self.item.response
        row = {
            "id": response["id"],
            "question_id": response["question_id"],
            "sample": response.get("sample"),
            "alignment": self.alignment.score,
            "alignment_label": self.alignment.label,
            "coherence": self.coherence.score,
            "coherence_label": self.coherence.label,
            "scored_by": self.scored_by,
            "alignment_top": self.alignment.top,
            "coherence_top": self.coherence.top,
        }
        if self.error:
            row["error"] = self.error
        if self.filtered:
            row["filtered"] = True
        if self.alignment.samples is not None or self.coherence.samples is not None:
            row |= {"alignment_samples": self.alignment.samples, "coherence_samples": self.coherence.samples}
        return row


class Judge(Protocol):
    """Anything that can rate responses."""

    def judge(self, items: Iterable[JudgeItem]) -> Iterator[Judgment]:
        """Yield a judgment for every item, in their order; ``items`` can be gone through more than once."""
        ...
