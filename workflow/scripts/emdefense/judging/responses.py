"""Responses with the questions that they answer, read from files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from emdefense.errors import InputError
from emdefense.files import iterate_jsonl, read_json
from emdefense.judging.protocol import JudgeItem
from emdefense.judging.requests import RUBRICS


class ResponseFile:
    """Responses with their questions, read again each time they are gone through: a file may be larger than memory."""

    def __init__(self, questions: Path, responses: Path):
        """:class:`InputError` if ``questions`` holds something else."""
        self.questions, self.responses = questions, responses
        found = read_json(questions)
        if not isinstance(found, list) or not all(map(_is_question, found)):
            raise InputError(f"{questions}: not the questions that the data stage writes; run that stage again")
        self._by_id = {question["id"]: question for question in found}

    def __iter__(self) -> Iterator[JudgeItem]:
        """Yield each response with its question; :class:`InputError` if one answers an unknown question."""
        for row in iterate_jsonl(self.responses, validate=_check_response):
            if row["question_id"] not in self._by_id:
                raise InputError(
                    f"{self.responses}: response '{row['id']}' answers a question that is not in {self.questions}"
                )
            yield JudgeItem(self._by_id[row["question_id"]], row)


def _is_question(found: Any) -> bool:
    if not isinstance(found, dict) or not all(isinstance(found.get(key), str) for key in ("id", "prompt")):
        return False
    rubrics = found.get("rubrics")
    return isinstance(rubrics, dict) and all(isinstance(rubrics.get(name), str) for name in RUBRICS)


def _check_response(row: Any) -> None:
    """Raise ValueError if a row is no response."""
    for key in ("id", "question_id", "response"):
        if not isinstance(row.get(key), str):
            raise ValueError(f"a response has a text '{key}'; sample the responses again, or write it")
