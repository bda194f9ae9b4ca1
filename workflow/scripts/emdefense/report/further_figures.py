"""The figures that the paper lacks: their names, their captions, and what they are drawn from."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from emdefense.analysis.rates import QUESTIONS_SCHEMA, SCORES_SCHEMA
from emdefense.analysis.resampling import ResampledRates
from emdefense.analysis.summary import read_frame, read_summary
from emdefense.config import Study
from emdefense.errors import InputError
from emdefense.report import question_heatmap, score_scatter, tradeoff


@dataclass(frozen=True)
class Measured:
    """The files that ``aggregate`` wrote."""

    rates: Path
    questions: Path
    scores: Path

    def by_question(self) -> pl.DataFrame:
        """Return the counts of each cell's questions, columns as in ``QUESTIONS_SCHEMA``."""
        return read_frame(self.questions, QUESTIONS_SCHEMA)


@dataclass(frozen=True)
class FurtherFigure:
    """A figure: its title, its caption, a text without its last stop, and what writes it as PDF, SVG and PNG."""

    title: str
    caption: Callable[[Study], str]
    write: Callable[[Study, Measured, Path], None]


def _tradeoff(study: Study, measured: Measured, folder: Path) -> None:
    rates = ResampledRates(measured.by_question(), study.scoring.bootstrap_resamples)
    summary = read_summary(measured.rates, questions=measured.questions)
    tradeoff.write_tradeoff(study, summary, rates, folder)


def _question_heatmap(study: Study, measured: Measured, folder: Path) -> None:
    question_heatmap.write_question_heatmap(study, measured.by_question(), folder)


def _score_scatter(study: Study, measured: Measured, folder: Path) -> None:
    scores = read_frame(measured.scores, SCORES_SCHEMA)
    score_scatter.write_score_scatter(study, scores, measured.by_question(), folder)


FURTHER = {
    tradeoff.NAME: FurtherFigure("EMA against the narrow task", tradeoff.caption, _tradeoff),
    question_heatmap.NAME: FurtherFigure("Question by question", question_heatmap.caption, _question_heatmap),
    score_scatter.NAME: FurtherFigure("Scores of responses", score_scatter.caption, _score_scatter),
}


def write_further_figure(name: str, study: Study, measured: Measured, folder: Path) -> None:
    """Write ``name`` as PDF, SVG and PNG; :class:`InputError` if there is no such figure, or a file is missing."""
    if name not in FURTHER:
        raise InputError(f"--name {name}: there is no such figure; write one of {', '.join(FURTHER)}")
    FURTHER[name].write(study, measured, folder)
