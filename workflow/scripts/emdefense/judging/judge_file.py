"""Judge a file of responses into a file of judgments."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from emdefense.errors import InputError
from emdefense.files import file_digest, write_json, write_jsonl
from emdefense.judging.budget import Purse
from emdefense.judging.protocol import Judgment
from emdefense.judging.registry import build_judge, parse_settings
from emdefense.judging.responses import ResponseFile
from emdefense.provenance import made_by, record_beside

CACHE = Path("judge_cache")
PACKAGES = {"openai": ("openai", "pydantic"), "oracle": ("pydantic",)}
MAX_ERROR_RATE = 0.0  # of judges whose settings have no bound of their own


@dataclass
class Outcome:
    """What became of the responses so far."""

    judged: int = 0
    errors: int = 0
    first_error: str = ""
    scored_by: set[str] = field(default_factory=set)

    def count(self, judgment: Judgment) -> None:
        """Take a judgment in."""
        self.judged += 1
        self.scored_by.add(judgment.scored_by)
        if judgment.error:
            self.errors += 1
            self.first_error = self.first_error or judgment.error


def judge_file(
    spec: Mapping[str, Any],
    questions: Path,
    responses: Path,
    judgments: Path,
    *,
    running: Mapping[str, Any] | None = None,
    cache: Path = CACHE,
    cache_only: bool = False,
    purse: Purse | None = None,
) -> None:
    """Write one judgment a response, in the order of the responses, and beside them a record of how they came to be.

    ``running`` are settings of the judge on which no judgment depends; ``purse`` says who pays. Raises
    :class:`InputError` where the judge failed on more than ``max_error_rate`` of the responses. What was paid for is in
    ``cache``, never asked again.
    """
    started = datetime.now(UTC)
    settings = parse_settings({**spec, **(running or {})})
    judge = build_judge(settings, cache, cache_only=cache_only, purse=purse)
    outcome = Outcome()

    def rows() -> Iterator[dict[str, Any]]:
        for judgment in judge.judge(ResponseFile(questions, responses)):
            outcome.count(judgment)
            yield judgment.row()
        allowed = getattr(settings, "max_error_rate", MAX_ERROR_RATE)
        if outcome.errors > allowed * outcome.judged:
            raise InputError(
                f"{responses}: judge '{settings.name}' failed on {outcome.errors} of {outcome.judged} responses "
                f"(first: {outcome.first_error}), more than judge.max_error_rate = {allowed:g} allows; its replies so "
                f"far are kept in {cache}, run again to ask for the rest"
            )

    write_jsonl(judgments, rows())
    if outcome.errors:
        print(
            f"{responses}: {outcome.errors} of {outcome.judged} responses stay without scores ({outcome.first_error})",
            file=sys.stderr,
        )
    record = {
        "spec": dict(spec),
        "questions": {"file": str(questions), "sha256": file_digest(questions)},
        "responses": {"file": str(responses), "sha256": file_digest(responses)},
        "judged": outcome.judged,
        "errors": outcome.errors,
        "scored_by": sorted(outcome.scored_by),
        **made_by(started, PACKAGES[settings.kind], __name__),
    }
    write_json(record_beside(judgments), record)
