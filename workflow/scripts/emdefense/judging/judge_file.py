"""Judge a file of responses into a file of judgments."""

import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from emdefense.errors import InputError
from emdefense.files import file_digest, read_json, read_jsonl, write_json, write_jsonl
from emdefense.judging.protocol import JudgeItem
from emdefense.judging.registry import build_judge, parse_settings
from emdefense.provenance import made_by, record_beside

PACKAGES = {"openai": ("openai", "pydantic"), "oracle": ("pydantic",)}
MAX_ERROR_RATE = 0.0  # of judges whose settings have no bound of their own


def judge_file(spec: Mapping[str, Any], questions: Path, responses: Path, judgments: Path) -> None:
    """Write one judgment a response, in the order of the responses, and beside them a record of how they came to be.

    Raises :class:`InputError` where the judge failed on more than ``max_error_rate`` of them. What was paid for lies in
    ``<judgments>.partial`` until the file is written, and is not asked again.
    """
    started = datetime.now(UTC)
    settings = parse_settings(spec)
    journal = judgments.with_name(judgments.name + ".partial")
    judge = build_judge(settings, journal)
    items = pair_up(questions, responses)
    found = {judgment.item.response["id"]: judgment for judgment in judge.judge(items)}
    errors = [judgment.error for judgment in found.values() if judgment.error]
    allowed = getattr(settings, "max_error_rate", MAX_ERROR_RATE)
    if len(errors) > allowed * len(items):
        raise InputError(
            f"{responses}: judge '{settings.name}' failed on {len(errors)} of {len(items)} responses "
            f"(first: {errors[0]}), more than judge.max_error_rate = {allowed:g} allows; its replies so far are kept "
            f"in {journal.name}, run again to ask for the rest"
        )
    if errors:
        print(
            f"{responses}: {len(errors)} of {len(items)} responses stay without scores ({errors[0]})", file=sys.stderr
        )
    write_jsonl(judgments, (found[item.response["id"]].row() for item in items))
    record = {
        "spec": dict(spec),
        "questions": {"file": str(questions), "sha256": file_digest(questions)},
        "responses": {"file": str(responses), "sha256": file_digest(responses)},
        "judged": len(items),
        "errors": len(errors),
        "scored_by": sorted({judgment.scored_by for judgment in found.values()}),
        **made_by(started, PACKAGES[settings.kind], __name__),
    }
    write_json(record_beside(judgments), record)
    journal.unlink(missing_ok=True)


def pair_up(questions: Path, responses: Path) -> list[JudgeItem]:
    """Return each response with its question; :class:`InputError` if one answers an unknown question."""
    by_id = {question["id"]: question for question in read_json(questions)}
    items = []
    for row in read_jsonl(responses):
        if row["question_id"] not in by_id:
            raise InputError(f"{responses}: response '{row['id']}' answers a question that is not in {questions}")
        items.append(JudgeItem(by_id[row["question_id"]], row))
    return items
