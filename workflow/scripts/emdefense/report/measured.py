"""What artefacts are made from: what a study has measured, each part read when it is first asked for."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from emdefense.analysis.conditions import automatic
from emdefense.analysis.likelihood import LIKELIHOOD_SCHEMA
from emdefense.analysis.multiple_choice import CHOICE_SCHEMA
from emdefense.analysis.rates import EXACT_MATCH_SCHEMA, QUESTIONS_SCHEMA, SCORES_SCHEMA
from emdefense.analysis.resampling import ResampledRates
from emdefense.analysis.summary import Summary, read_frame, read_summary
from emdefense.cells import Cell, Grid
from emdefense.config import Study
from emdefense.files import read_json
from emdefense.layout import Layout
from emdefense.report.artefact import questions_of
from emdefense.report.tables.reference import Reference, paper_reference

if TYPE_CHECKING:
    from emdefense.analysis.automatic_choice import Choice
    from emdefense.analysis.verdicts import Verdicts


class Measured:
    """A study's measurements in its results folder; parts that are ``held`` stand in for the files.

    Each raises :class:`InputError` if its files are missing or broken.
    """

    asked: pl.DataFrame | None = None  # the only questions that count, if not all do; as in ``QUESTIONS_SCHEMA``

    def __init__(self, study: Study, results: Path | None = None, **held: Any):
        self._study = study
        self._results = Path(Layout(study).results) if results is None else results
        vars(self).update(held)

    def _frame(self, name: str) -> Path:
        return self._results / f"{name}.parquet"

    @cached_property
    def summary(self) -> Summary:
        """The rates over all seeds."""
        return read_summary(*(self._frame(name) for name in ("rates", "exact_match", "questions")))

    @cached_property
    def reference(self) -> Reference | None:
        """What stands beside them: the paper."""
        return paper_reference()

    @cached_property
    def questions(self) -> pl.DataFrame:
        """The counts of each cell's questions, columns as in ``QUESTIONS_SCHEMA``."""
        return read_frame(self._frame("questions"), QUESTIONS_SCHEMA)

    @cached_property
    def resampled(self) -> ResampledRates | None:
        """The rates in resamples of the questions; None for rates of which no questions are known."""
        scoring = self._study.scoring
        return ResampledRates(self.questions, scoring.bootstrap_resamples, scoring.question_groups)

    @cached_property
    def choice(self) -> "Choice":
        """The study with settings in place of each ``auto``, and the questions that they were not chosen on."""
        from emdefense.analysis.automatic_choice import choose

        return choose(self._study, self.questions)

    @cached_property
    def held_out(self) -> "Measured":
        """What was measured at those questions, as far as it is told by question."""
        exact_match = read_frame(self._frame("exact_match"), EXACT_MATCH_SCHEMA)
        asked = self.choice.questions
        held = {"questions": asked, "summary": self.choice.summary(exact_match), "asked": asked}
        return Measured(self.choice.study, self._results, **held)

    @property
    def chosen(self) -> Study:
        """The study, with settings in place of each that the data chose."""
        return self.choice.study if automatic(self._study) else self._study

    @property
    def reported(self) -> "Measured":
        """What counts at these settings: where the data chose them, at the questions on which they did not."""
        return self.held_out if automatic(self._study) else self

    @cached_property
    def verdicts(self) -> "Verdicts":
        """The verdicts on what is reported at the chosen settings."""
        from emdefense.analysis.verdicts import Verdicts

        return Verdicts.of(self.chosen, self.reported.summary)

    @cached_property
    def scores(self) -> pl.DataFrame:
        """How many responses have each pair of scores, columns as in ``SCORES_SCHEMA``."""
        return read_frame(self._frame("scores"), SCORES_SCHEMA)

    @cached_property
    def benign_questions(self) -> pl.DataFrame:
        """The answers to each benign question of each cell, columns as in ``BENIGN_SCHEMA``."""
        from emdefense.analysis.aggregate import benign_questions

        return benign_questions(self._study)

    @cached_property
    def multiple_choice(self) -> pl.DataFrame:
        """What each cell has right in multiple choice, columns as in ``CHOICE_SCHEMA``."""
        return read_frame(self._frame("multiple_choice"), CHOICE_SCHEMA)

    @cached_property
    def likelihood(self) -> pl.DataFrame:
        """How likely held-out answers are to each cell's model, columns as in ``LIKELIHOOD_SCHEMA``."""
        return read_frame(self._frame("likelihood"), LIKELIHOOD_SCHEMA)

    @cached_property
    def prompts(self) -> dict[str, dict[str, str]]:
        """The texts of the questions that are there, by their ids: the general ones', and each task's in domain."""
        layout = Layout(self._study)
        files = {name: Path(layout.questions(name)) for name in questions_of(self._study)}
        return {
            name: {question["id"]: question["prompt"] for question in read_json(path)}
            for name, path in files.items()
            if path.is_file()
        }

    @cached_property
    def pairs(self) -> pl.DataFrame | None:
        """Each response with the judgments of two judges; None for a study with one."""
        from emdefense.analysis.judge_pairs import study_pairs

        return study_pairs(self._study) if self._study.second_judges else None

    @cached_property
    def halves(self) -> pl.DataFrame | None:
        """Each response with both halves of what its judge said; None where there are pairs, or one answer each."""
        from emdefense.analysis.judge_halves import study_halves

        return None if self._study.second_judges else study_halves(self._study)

    @cached_property
    def judged(self) -> pl.DataFrame:
        """The judgments of the main model's arms at chosen settings, columns as in ``JUDGED_SCHEMA``."""
        from emdefense.analysis.thresholds import OF_QUESTION, judged_responses

        found = judged_responses(self._study)
        return found if self.asked is None else found.join(self.asked, on=OF_QUESTION, how="semi")

    @cached_property
    def training_logs(self) -> dict[Cell, Path]:
        """The logs of the trainings that are done, in the order of the config."""
        layout = Layout(self._study)
        found = {cell: Path(layout.cell(cell)) / "train_log.jsonl" for cell in Grid(self._study).trained}
        return {cell: path for cell, path in found.items() if path.is_file()}

    @cached_property
    def preparations(self) -> dict[Cell, Path]:
        """The folders of what arms have prepared, as far as they are there, by cells without a setting."""
        layout = Layout(self._study)
        found = {cell: Path(layout.preparation(cell)) for cell in Grid(self._study).prepared}
        return {cell: path for cell, path in found.items() if path.is_dir()}
