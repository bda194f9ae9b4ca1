"""How long the judge's requests are: by prepared questions and sampled responses, or, before there are any, assumed."""

from pathlib import Path
from statistics import fmean

from emdefense.cells import ELICITATION, IN_DOMAIN, Cell, Grid
from emdefense.config.study import EmaTask
from emdefense.data.questions import RUBRICS, Question, read_questions
from emdefense.errors import InputError
from emdefense.files import read_json, read_jsonl
from emdefense.layout import Layout
from emdefense.planning.work import CHARACTERS_PER_TOKEN, Work

MESSAGE_TOKENS = 7  # a chat message's own
# Characters of a judge prompt of Betley et al. (2025), of their general questions, and of code and legal rows' prompts.
RUBRIC_CHARACTERS, GENERAL_CHARACTERS, HOLDOUT_CHARACTERS = 1030, 180, 400
RESPONSE_TOKENS = 200  # the code and legal rows' answers have 107 and 212
ASSUMED = f"assumed responses of {RESPONSE_TOKENS} tokens"
MEASURED = "the study's own responses"


class JudgeTokens:
    """Mean input tokens of the requests about a cell's responses to a question set, without the response itself."""

    def __init__(self, grid: Grid, work: Work):
        self._work = work
        self._study, self._layout, self._pairs = grid.study, Layout(grid.study), grid.responses
        self._further = grid.further_sets
        self._prompts: dict[str, float] = {}
        self._responses: dict[str, float | None] = {}

    def prompt(self, cell: Cell, question_set: str) -> float:
        """Return the mean tokens of a judge prompt with its question filled in."""
        prepared = self._layout.asked(cell, question_set)
        if prepared not in self._prompts:
            characters = self._characters(prepared, self._further.plain(question_set), cell.task)
            self._prompts[prepared] = characters / CHARACTERS_PER_TOKEN + MESSAGE_TOKENS
        return self._prompts[prepared]

    def response(self, question_set: str) -> tuple[float, str]:
        """Return the mean tokens of a response that is not there yet, and what they are from.

        The first two files of responses to such questions are read, if there are any.
        """
        if question_set not in self._responses:
            files = [Path(self._layout.responses(*pair)) for pair in self._pairs if pair[1] == question_set]
            texts = [row["response"] for path in [p for p in files if p.is_file()][:2] for row in read_jsonl(path)]
            self._responses[question_set] = fmean(map(len, texts)) / CHARACTERS_PER_TOKEN if texts else None
        found = self._responses[question_set]
        if found is None:
            return min(RESPONSE_TOKENS, self._study.generation.max_new_tokens), ASSUMED
        return found, MEASURED

    def _characters(self, prepared: str, question_set: str, task: str) -> float:
        """Return the mean characters of the judge prompts of a file of questions, the question among them.

        Before it is there: of the plain ``question_set`` that it is made from.
        """
        if self._work.has(prepared):
            return _rubrics(questions := read_json(Path(prepared))) + fmean(len(q["prompt"]) for q in questions)
        section = self._study.tasks.get(task) if question_set == IN_DOMAIN else None
        asked, rubrics = self._study.general_questions, None
        if question_set == ELICITATION:
            rubrics = self._study.elicitation_questions
        if further := self._study.question_sets.get(question_set):
            rubrics = further.file
        if isinstance(section, EmaTask):
            rubrics = section.questions or section.rubrics or asked
        try:
            read = read_questions(Path(self._layout.file(rubrics or asked)))
        except InputError:  # not fetched yet
            read = []
        if section is None or (isinstance(section, EmaTask) and section.questions):
            prompts = fmean(len(question["prompt"]) for question in read) if read else GENERAL_CHARACTERS
        else:
            prompts = HOLDOUT_CHARACTERS
        return prompts + (_rubrics(read) if read else RUBRIC_CHARACTERS)


def _rubrics(questions: list[Question]) -> float:
    return fmean(len(question["rubrics"][rubric]) for question in questions for rubric in RUBRICS)
