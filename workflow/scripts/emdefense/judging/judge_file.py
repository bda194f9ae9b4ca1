"""Judge a file of responses into a file of judgments."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emdefense.errors import InputError
from emdefense.files import read_json, read_jsonl, write_jsonl
from emdefense.judging.protocol import JudgeItem
from emdefense.judging.registry import build_judge, parse_settings

MAX_ERROR_RATE = 0.0  # of judges whose settings have no bound of their own


def judge_file(spec: Mapping[str, Any], questions: Path, responses: Path, judgments: Path) -> None:
    """Write one judgment a response, in the order of the responses.

    Raises :class:`InputError` where the judge failed on more than ``max_error_rate`` of them. What was paid for lies in
    ``<judgments>.partial`` until the file is written, and is not asked again.
    """
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
