"""The model that is checked, and everything that it will be trained on and asked."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field

from emdefense.chat.chat import Chat, load_chat
from emdefense.config.chat import PLAIN, TemplateOptions
from emdefense.config.multiple_choice import Score
from emdefense.config.study import Generation
from emdefense.config.training import Training
from emdefense.data.conversations import read_examinations
from emdefense.errors import InputError
from emdefense.files import read_json, read_jsonl
from emdefense.generation.run import asked
from emdefense.matching import Match
from emdefense.section import Section
from emdefense.training.data import check_row
from emdefense.training.spec import ArmSpec

Conversation = list[dict[str, str]]


class ArmTried(ArmSpec):
    """An arm of the model, with the options on which depends what it reads, and the setting at which it is tried."""

    stream: Path | None = Field(None, description="the rows of its second stream")


class CheckSpec(Section):
    """What a check depends on besides the model, its rows and its questions; without ``training``, none is tried.

    ``limits`` are the settings of the trainings on each file of rows, as far as they say how long rows may be; those
    of a file that has none may have any length. ``matches`` says when answers to a test are right, if not exactly.
    """

    version: int
    generation: Generation
    training: Training | None = None
    arms: tuple[ArmTried, ...] = ()
    limits: dict[Path, Training] = Field(default_factory=dict)
    matches: dict[Path, Match] = Field(default_factory=dict)
    pool: Path | None = Field(None, description="the rows of which arms choose some by their losses")
    choices: dict[Path, Score] = Field(
        default_factory=dict, description="files of multiple-choice questions, and how options are scored"
    )
    chat: TemplateOptions = PLAIN


@dataclass(frozen=True)
class Text:
    """A conversation and where it is from, as an error names it: ``FILE, line 3`` or ``FILE, question q1``."""

    where: str
    messages: Conversation


@dataclass(frozen=True)
class Subject:
    """A model in ``folder``; files of training rows, of questions, and of benign tasks' tests.

    ``base`` is the model before alignment, where an arm reads it.

    What several checks need is a cached property here, so that it is read once.
    """

    spec: CheckSpec
    folder: Path
    row_files: tuple[Path, ...] = ()
    question_files: tuple[Path, ...] = ()
    test_files: tuple[Path, ...] = ()
    base: Path | None = None

    @cached_property
    def chat(self) -> Chat:
        """The model's tokenizer, and its chat template as the study calls it."""
        return load_chat(self.folder, self.spec.chat)

    @property
    def rows(self) -> list[Text]:
        """Every training row of every file, equal ones once; each ends with the answer."""
        return self._rows[0]

    @property
    def places(self) -> dict[Path, list[int]]:
        """For each file of rows, the places in ``rows`` of all that stand in it, in the file's order."""
        return self._rows[1]

    @cached_property
    def _rows(self) -> tuple[list[Text], dict[Path, list[int]]]:
        place_of: dict[Any, int] = {}
        rows: list[Text] = []
        places: dict[Path, list[int]] = {}
        if unread := set(self.spec.limits).difference(self.row_files):
            raise InputError(f"--spec: key 'limits': {min(unread)} is not read; name it with --rows, or leave it out")
        for path in self.row_files:
            places[path] = []
            for line, row in enumerate(read_jsonl(path, validate=check_row), start=1):
                messages = row["messages"]
                key = tuple((message["role"], message["content"]) for message in messages)
                place = place_of.setdefault(key, len(rows))
                if place == len(rows):
                    rows.append(Text(f"{path}, row {line}", messages))
                places[path].append(place)
        return rows, places

    @cached_property
    def questions(self) -> list[Text]:
        """Every question of the question sets and of the tests; each ends with the user's turn."""
        return list(self._questions())

    def _questions(self) -> Iterator[Text]:
        for path in self.question_files:
            for entry in read_json(path):
                yield Text(f"{path}, question {entry['id']}", asked(entry))
        for path in self.test_files:
            for row in read_examinations(path):
                yield Text(f"{path}, question {row['id']}", row["messages"])
