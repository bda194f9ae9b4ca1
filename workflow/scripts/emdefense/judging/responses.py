"""Responses with the questions that they answer, read from files."""

from collections.abc import Iterator
from pathlib import Path

from emdefense.errors import InputError
from emdefense.files import iterate_jsonl, read_json
from emdefense.judging.protocol import JudgeItem


class ResponseFile:
    """Responses with their questions, read anew each time they are gone through: a file may be larger than memory."""

    def __init__(self, questions: Path, responses: Path):
        self.questions, self.responses = questions, responses
        self._by_id = {question["id"]: question for question in read_json(questions)}

    def __iter__(self) -> Iterator[JudgeItem]:
        """Yield each response with its question; :class:`InputError` if one answers an unknown question."""
        for row in iterate_jsonl(self.responses):
            if row["question_id"] not in self._by_id:
                raise InputError(
                    f"{self.responses}: response '{row['id']}' answers a question that is not in {self.questions}"
                )
            yield JudgeItem(self._by_id[row["question_id"]], row)
