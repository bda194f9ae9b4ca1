"""All measurements of a study as frames: of each cell, question and pair of scores, and of the benign tasks."""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import polars as pl

from emdefense.analysis.answers import match_of, read_answers
from emdefense.analysis.conditions import Condition
from emdefense.analysis.rates import (
    BENIGN_SCHEMA,
    CELL_SCHEMA,
    EXACT_MATCH_SCHEMA,
    JUDGMENT_SCHEMA,
    POOLED,
    QUESTIONS_SCHEMA,
    RATES_SCHEMA,
    RESPONSE_SCHEMA,
    SCORES_SCHEMA,
    count_answers,
    count_questions,
    count_scores,
    pooled_bounds,
    rate,
    rate_answers,
    read_rows,
)
from emdefense.analysis.refusals import is_empty, refuses
from emdefense.cells import Cell, Grid
from emdefense.config import Study
from emdefense.config.study import Scoring
from emdefense.files import written_whole
from emdefense.layout import Layout

FILE = "file"  # names the judgments that a row is from
AT_ONCE = 100  # files of judgments in memory


def aggregate(
    study: Study, rates: Path, exact_match: Path, questions: Path | None = None, scores: Path | None = None
) -> None:
    """Write the frames as Parquet, in the order of the study's grid; measurements without a file are left out."""
    counted = Counted.of(study)
    frames = {
        rates: counted.rates(study.scoring),
        exact_match: exact_match_frame(study),
        questions: counted.questions,
        scores: counted.scores,
    }
    for path, frame in frames.items():
        if path is not None:
            with written_whole(path) as temporary:
                frame.write_parquet(temporary)


@dataclass(frozen=True)
class Counted:
    """What the judgments of a study say: ``rows`` names each measurement, the other frames count its responses.

    Measurements that share their judgments share a ``file``.
    """

    rows: pl.DataFrame
    by_question: pl.DataFrame
    by_score: pl.DataFrame

    @classmethod
    def of(cls, study: Study) -> Self:
        """Read every file of judgments once."""
        layout = Layout(study)
        measurements = Grid(study).measurements if study.judge else []
        rows = [
            _identity(m.cell) | {"question_set": m.question_set, FILE: layout.judgments(m.source, m.question_set)}
            for m in measurements
        ]
        responses = {
            row[FILE]: layout.responses(m.source, m.question_set) for row, m in zip(rows, measurements, strict=True)
        }
        found = [file for file in responses if _exists(Path(file))]
        absent = [responses[file] for file in found if not Path(responses[file]).is_file()]
        if absent:
            print(
                f"{absent[0]}: not there, as {len(absent)} of {len(found)} files of responses; how many of theirs were "
                "cut at the length limit is not known, and none is counted",
                file=sys.stderr,
            )
        questions, scores = [], []
        for start in range(0, len(found), AT_ONCE):
            judgments = pl.concat(
                read_judged(file, responses[file], study.scoring) for file in found[start : start + AT_ONCE]
            )
            questions.append(count_questions(judgments, study.scoring, [FILE]))
            scores.append(count_scores(judgments, [FILE]))
        nothing = pl.DataFrame(schema={**JUDGMENT_SCHEMA, "finish_reason": pl.String(), FILE: pl.String()})
        return cls(
            pl.DataFrame(rows, schema={**CELL_SCHEMA, "question_set": pl.String(), FILE: pl.String()}).filter(
                pl.col(FILE).is_in(found)
            ),
            pl.concat([count_questions(nothing, study.scoring, [FILE]), *questions]),
            pl.concat([count_scores(nothing, [FILE]), *scores]),
        )

    @property
    def questions(self) -> pl.DataFrame:
        """A row for each measurement and question; columns as in ``QUESTIONS_SCHEMA``."""
        return self.rows.join(self.by_question, on=FILE, maintain_order="left_right").select(list(QUESTIONS_SCHEMA))

    @property
    def scores(self) -> pl.DataFrame:
        """A row for each measurement and pair of scores; columns as in ``SCORES_SCHEMA``."""
        return self.rows.join(self.by_score, on=FILE, maintain_order="left_right").select(list(SCORES_SCHEMA))

    def rates(self, scoring: Scoring) -> pl.DataFrame:
        """A row for each measurement; columns as in ``RATES_SCHEMA``."""
        resamples, groups = scoring.bootstrap_resamples, scoring.question_groups
        unasked = self.by_question.clear()
        of_file = {str(file): questions for (file,), questions in self.by_question.group_by(FILE, maintain_order=True)}
        rows = self.rows.rows(named=True)
        seeds: dict[tuple[Any, ...], list[pl.DataFrame]] = {}
        for row in rows:
            seeds.setdefault(_condition(row), []).append(of_file.get(row[FILE], unasked))
        measured = {file: rate(of_file.get(file, unasked), resamples, groups) for file in self.rows[FILE].unique()}
        pooled = {
            condition: pooled_bounds(questions, "scored", POOLED, resamples, groups)
            for condition, questions in seeds.items()
        }
        return pl.DataFrame([row | measured[row[FILE]] | pooled[_condition(row)] for row in rows], schema=RATES_SCHEMA)


def read_judged(file: str, responses: str, scoring: Scoring) -> pl.DataFrame:
    """Return the judgments of a file, each with how its response ended, and whether it refuses or is empty."""
    judgments = read_rows(Path(file), JUDGMENT_SCHEMA).with_columns(pl.lit(file).alias(FILE))
    there = Path(responses).is_file()
    said = read_rows(Path(responses), RESPONSE_SCHEMA).unique("id") if there else pl.DataFrame(schema=RESPONSE_SCHEMA)
    text = pl.col("response")
    return judgments.join(said, on="id", how="left", maintain_order="left").select(
        *JUDGMENT_SCHEMA,
        "finish_reason",
        refuses(text, scoring.refusal_phrases).alias("refused_by_rule"),
        is_empty(text).alias("empty"),
        FILE,
    )


def exact_match_frame(study: Study) -> pl.DataFrame:
    """Return a row for each benign cell that has answers; columns as in ``EXACT_MATCH_SCHEMA``."""
    layout, resamples = Layout(study), study.scoring.bootstrap_resamples
    rows: list[dict[str, Any]] = []
    seeds: dict[tuple[Any, ...], list[pl.DataFrame]] = {}
    for cell in Grid(study).benign:
        path = Path(layout.answers(cell))
        if _exists(path):
            questions = count_answers(read_answers(path, match_of(study, cell.task)))
            rows.append(_identity(cell) | rate_answers(questions, resamples))
            seeds.setdefault(_condition(rows[-1]), []).append(questions)
    pooled = {
        condition: pooled_bounds(questions, "answers", {"pooled": "correct"}, resamples)
        for condition, questions in seeds.items()
    }
    return pl.DataFrame([row | pooled[_condition(row)] for row in rows], schema=EXACT_MATCH_SCHEMA)


def benign_questions(study: Study, layout: Layout | None = None) -> pl.DataFrame:
    """Return a row for each question of each benign cell that has answers; columns as in ``BENIGN_SCHEMA``."""
    layout = layout or Layout(study)
    found = [pl.DataFrame(schema=BENIGN_SCHEMA)]
    for cell in Grid(study).benign:
        path = Path(layout.answers(cell))
        if path.is_file():
            of_cell = [pl.lit(value, BENIGN_SCHEMA[name]).alias(name) for name, value in _identity(cell).items()]
            answers = read_answers(path, match_of(study, cell.task))
            counted = count_answers(answers).with_columns(of_cell)
            found.append(counted.select(list(BENIGN_SCHEMA)))
    return pl.concat(found)


def _condition(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return what the seeds of a condition have in common."""
    return tuple(row.get(name) for name in (*Condition._fields, "question_set"))


def _identity(cell: Cell) -> dict[str, Any]:
    return asdict(cell) | {"setting_value": cell.setting_value}


def _exists(path: Path) -> bool:
    if not path.is_file():
        print(f"{path}: not there; its cell stays empty in the tables", file=sys.stderr)
        return False
    return True
