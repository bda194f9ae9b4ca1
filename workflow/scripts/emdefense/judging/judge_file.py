"""Judge a file of responses into a file of judgments."""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from emdefense.errors import InputError
from emdefense.files import file_digest, write_json, write_jsonl
from emdefense.judging.budget import Account
from emdefense.judging.protocol import Judgment
from emdefense.judging.registry import build_judge, parse_settings
from emdefense.judging.responses import ResponseFile
from emdefense.provenance import made_by, record_beside

CACHE = Path("judge_cache")
PACKAGES = {"openai": ("openai", "pydantic"), "oracle": ("pydantic",)}
MAX_ERROR_RATE, MAX_UNPARSED_RATE = 0.0, 1.0  # of judges whose settings have no bounds of their own


@dataclass
class Outcome:
    """What became of the responses so far.

    ``labels`` counts those with this label under either rubric; ``said`` is what the endpoint said of errors.
    """

    judged: int = 0
    errors: int = 0
    filtered: int = 0
    first_error: str = ""
    said: str = ""
    first_unparsed: str = ""
    labels: Counter[str] = field(default_factory=Counter)
    scored_by: set[str] = field(default_factory=set)

    def count(self, judgment: Judgment) -> None:
        """Take a judgment in."""
        self.judged += 1
        self.scored_by.add(judgment.scored_by)
        self.labels.update({label for label in (judgment.alignment.label, judgment.coherence.label) if label})
        self.filtered += judgment.filtered
        if "UNPARSED" in (judgment.alignment.label, judgment.coherence.label):
            self.first_unparsed = self.first_unparsed or judgment.unparsed
        if judgment.error:
            self.errors += 1
            self.first_error = self.first_error or judgment.error
            self.said = self.said or judgment.said


def judge_file(
    spec: Mapping[str, Any],
    questions: Path,
    responses: Path,
    judgments: Path,
    *,
    running: Mapping[str, Any] | None = None,
    cache: Path = CACHE,
    cache_only: bool = False,
    account: Account | None = None,
) -> None:
    """Write one judgment a response, in the order of the responses, and beside them a record of how they came to be.

    ``running`` are settings of the judge on which no judgment depends; ``account`` says who pays. Raises
    :class:`InputError` where the judge failed on more than ``max_error_rate`` of the responses, or gave neither a score
    nor a label for more than ``max_unparsed_rate``. What was paid for is in ``cache``, never asked again.
    """
    started = datetime.now(UTC)
    settings = parse_settings({**spec, **(running or {})})
    judge = build_judge(settings, cache, cache_only=cache_only, account=account)
    outcome = Outcome()

    def rows() -> Iterator[dict[str, Any]]:
        for judgment in judge.judge(ResponseFile(questions, responses)):
            outcome.count(judgment)
            yield judgment.row()
        unparsed, bound = outcome.labels["UNPARSED"], getattr(settings, "max_unparsed_rate", MAX_UNPARSED_RATE)
        if unparsed > bound * outcome.judged:
            raise InputError(
                f"{responses}: judge '{settings.name}' gave neither a score nor a label for {unparsed} of "
                f"{outcome.judged} responses (first: {outcome.first_unparsed}), more than judge.max_unparsed_rate = "
                f"{bound:g} allows; its replies so far are kept in {cache}; take another judge, or raise that"
            )
        allowed = getattr(settings, "max_error_rate", MAX_ERROR_RATE)
        if outcome.errors > allowed * outcome.judged:
            raise InputError(
                f"{responses}: judge '{settings.name}' failed on {outcome.errors} of {outcome.judged} responses "
                f"(first: {outcome.first_error}), more than judge.max_error_rate = {allowed:g} allows; its replies so "
                f"far are kept in {cache}, mend that and run again to ask for the rest{_said(outcome)}"
            )

    write_jsonl(judgments, rows())
    if outcome.errors:
        print(
            f"{responses}: {outcome.errors} of {outcome.judged} responses stay without scores ({outcome.first_error})"
            f"{_said(outcome)}",
            file=sys.stderr,
        )
    if outcome.labels["REFUSAL"] or outcome.labels["UNPARSED"]:
        filtered = f" ({outcome.filtered} by a filter of the endpoint's)" if outcome.filtered else ""
        print(
            f"{responses}: of {outcome.judged} responses, the judge refused to rate {outcome.labels['REFUSAL']}"
            f"{filtered}, and gave neither a score nor a label for {outcome.labels['UNPARSED']}",
            file=sys.stderr,
        )
    record = {
        "spec": dict(spec),
        "questions": {"file": str(questions), "sha256": file_digest(questions)},
        "responses": {"file": str(responses), "sha256": file_digest(responses)},
        "judged": outcome.judged,
        "errors": outcome.errors,
        "labels": dict(sorted(outcome.labels.items())),
        "filtered": outcome.filtered,
        "scored_by": sorted(outcome.scored_by),
        **made_by(started, PACKAGES[settings.kind], __name__),
    }
    write_json(record_beside(judgments), record)


def _said(outcome: Outcome) -> str:
    return f". It said: {outcome.said}" if outcome.said else ""
