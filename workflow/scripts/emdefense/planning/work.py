"""How much there is to compute: rows, tokens and responses, by the prepared data or, before there are any, assumed."""

from collections.abc import Collection
from pathlib import Path

from emdefense.cells import Cell, Grid
from emdefense.config.study import BenignTask
from emdefense.files import read_json
from emdefense.inputs import Inputs
from emdefense.likelihood.read import SIDES
from emdefense.resources.duration import EMA_TOKENS
from emdefense.resources.jobs import CHOICE_QUESTIONS, POOL_ROWS, Requests

CHARACTERS_PER_TOKEN = 4  # of English, by OpenAI's and Qwen's tokenizers alike, roughly
TEMPLATE_TOKENS = 30  # a chat template with its system prompt
ROW_BRACKETS = 84  # characters of a row's JSON around a question and its answer
OPSWAP_TOKENS, FOQA_TOKENS = 60, 400  # before the rows are there: short expressions; passages
FOQA_ROWS = 848
CHOICE_TOKENS = 200.0  # of a question with its options and the template, generously


class Work:
    """What the jobs of a study have to do."""

    def __init__(self, grid: Grid, requests: Requests, *, prepared: bool = True, to_come: Collection[str] = ()):
        """With ``prepared`` false, no file that lies there is looked at; otherwise none of those ``to_come``."""
        self._prepared, self._to_come = prepared, to_come
        self._grid, self._requests, self._inputs = grid, requests, Inputs(grid)
        self._counted: dict[str, tuple[int, int] | None] = {}

    def has(self, path: str) -> bool:
        """Whether a file is there and stays as it is."""
        return self._prepared and path not in self._to_come and Path(path).is_file()

    def rows(self, cell: Cell) -> tuple[int, float]:
        """Return how many rows a cell is trained on, and their mean tokens without padding."""
        path = self._inputs.training_rows(cell)
        if path not in self._counted:
            self._counted[path] = _count(Path(path)) if self.has(path) else None
        if prepared := self._counted[path]:
            rows, size = prepared
            return rows, max(1.0, size / rows - ROW_BRACKETS) / CHARACTERS_PER_TOKEN + TEMPLATE_TOKENS
        task = self._grid.task(cell)
        if not isinstance(task, BenignTask):
            return self._requests.rows(cell), EMA_TOKENS
        if task.table == "opswap":
            return self._requests.rows(cell), OPSWAP_TOKENS
        return round(FOQA_ROWS * self._grid.row_share(cell)), FOQA_TOKENS

    def pool(self) -> tuple[int, float]:
        """Return how many rows there are to choose from by scores, and their mean tokens without padding."""
        counted = _count(Path(self._inputs.layout.pool)) if self.has(self._inputs.layout.pool) else None
        if counted is None:
            return POOL_ROWS, EMA_TOKENS
        rows, size = counted
        return rows, max(1.0, size / rows - ROW_BRACKETS) / CHARACTERS_PER_TOKEN + TEMPLATE_TOKENS

    def held_out(self, task: str) -> tuple[int, float]:
        """Return how many held-out answers of a task are read, and their mean tokens without padding."""
        path = self._inputs.layout.held_out_rows(task)
        if prepared := _count(Path(path)) if self.has(path) else None:
            rows, size = prepared
            return rows, max(1.0, size / rows - ROW_BRACKETS) / CHARACTERS_PER_TOKEN + TEMPLATE_TOKENS
        section = self._grid.study.likelihood
        return len(SIDES) * (section.rows if section else 0), EMA_TOKENS

    def choices(self, name: str) -> tuple[int, float]:
        """Return how many multiple-choice questions a set has, and the mean tokens that are read for one of them."""
        path = self._inputs.layout.choice_questions(name)
        if prepared := _count(Path(path)) if self.has(path) else None:
            questions, size = prepared
            return questions, size / questions / CHARACTERS_PER_TOKEN + TEMPLATE_TOKENS
        return self._grid.study.multiple_choice[name].limit or CHOICE_QUESTIONS, CHOICE_TOKENS

    def responses(self, cell: Cell, question_set: str) -> int:
        """Return how many responses a cell gives to a question set."""
        questions = self._inputs.layout.asked(cell, question_set)
        count = len(read_json(Path(questions))) if self.has(questions) else self._requests.questions(question_set)
        return count * self._grid.samples(cell, question_set)


def _count(path: Path) -> tuple[int, int] | None:
    """Return the lines and bytes of a file; None if it is not there, or empty."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    lines = content.count(b"\n")
    return (lines, len(content)) if lines else None
