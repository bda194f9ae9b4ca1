"""Where everything of a study lies: the one place where paths are made."""

from emdefense.cells import Cell
from emdefense.config.path_checks import resolve, resolved_source
from emdefense.config.sources import SourceSection
from emdefense.config.study import Study
from emdefense.names import ELICITATION, GENERAL, QUESTIONS_FOLDER, SHARED_TASK
from emdefense.question_sets import FurtherSets


class Layout:
    """Where everything of a study lies, relative to the working directory."""

    def __init__(self, study: Study):
        self.study, self._further = study, FurtherSets(study)
        self.results = f"results/{study.study}"

    def file(self, path: str) -> str:
        """Return a path of the config with its placeholders filled in."""
        return resolve(self.study, path)

    def source(self, name: str) -> SourceSection:
        """Return a source with the placeholders in its local path filled in."""
        return resolved_source(self.study, name)

    def source_files(self, name: str) -> list[str]:
        """The files that a source becomes, or its folder."""
        return [f"{self.study.sources_folder}/{file}" for file in self.study.sources[name].files(name)]

    def checked(self, model: str) -> str:
        """What was found out about a model before anything was trained."""
        return f"{self.results}/models/{model}.json"

    def data(self, task: str) -> str:
        """The prepared data of a task."""
        return f"{self.results}/data/{task}"

    def cell(self, cell: Cell) -> str:
        """A cell's folder."""
        return f"{self.results}/cells/{cell.folder}"

    def adapter(self, cell: Cell) -> str:
        """A cell's adapter folder, as PEFT saves it."""
        return f"{self.cell(cell)}/adapter"

    def preparation(self, cell: Cell) -> str:
        """What an arm has prepared for a (model, task, seed), the same for every setting."""
        folder = self.study.every_arm[cell.arm].arm.preparation
        return f"{self.results}/cells/{cell.model}/{cell.task}/{cell.arm}/{folder}/seed{cell.seed}"

    @property
    def pool(self) -> str:
        """The rows among which arms choose by scores; the safe rows, where no pool is named."""
        return self.file(self.study.safe_pool or self.study.safe_data or "")

    def losses(self, cell: Cell) -> str:
        """A cell's losses on the rows of that pool."""
        return f"{self.cell(cell)}/pool_losses.jsonl"

    def responses(self, cell: Cell, question_set: str) -> str:
        """A cell's responses to a question set."""
        return f"{self.cell(cell)}/{question_set}/responses.jsonl"

    def judgments(self, cell: Cell, question_set: str, judge: str | None = None) -> str:
        """A judge's judgments of those responses; of the judge whose rates fill the tables unless another is named."""
        name = judge or next(iter(self.study.judges))
        return f"{self.cell(cell)}/{question_set}/judgments/{name}.jsonl"

    def judge_files(self, judge: str | None = None) -> list[str]:
        """Files that a judge, or any of them, reads besides questions and responses."""
        judges = self.study.judges.values() if judge is None else [self.study.judges[judge]]
        worlds = [getattr(section, "world", None) for section in judges]
        return list(dict.fromkeys(self.file(world) for world in worlds if world is not None))

    def answers(self, cell: Cell) -> str:
        """A benign cell's answers, each marked as correct or not."""
        return f"{self.cell(cell)}/answers.jsonl"

    def choices(self, cell: Cell, name: str) -> str:
        """What a cell made of a set of multiple-choice questions."""
        return f"{self.cell(cell)}/choices/{name}.jsonl"

    def choice_questions(self, name: str) -> str:
        """A set of multiple-choice questions, as models are asked them."""
        return f"{self.results}/data/{QUESTIONS_FOLDER}/choices/{name}.jsonl"

    def held_out_rows(self, task: str) -> str:
        """A task's held-out answers whose likelihood is measured."""
        return f"{self.data(task)}/held_out.jsonl"

    def held_out(self, cell: Cell) -> str:
        """How likely these are to a cell's model."""
        return f"{self.cell(cell)}/held_out.jsonl"

    def questions(self, task: str) -> str:
        """A task's questions as the pipeline uses them, or a further set's; ``shared`` has the general ones."""
        return f"{self.results}/data/{QUESTIONS_FOLDER}/{GENERAL if task == SHARED_TASK else task}.json"

    def asked(self, cell: Cell, question_set: str) -> str:
        """The questions of a set, as a cell is asked them."""
        if question_set in self.study.question_sets:
            return self.questions(self._further.stem(cell, question_set))
        named = {GENERAL: SHARED_TASK, ELICITATION: ELICITATION}
        return self.questions(named.get(question_set, cell.task))
