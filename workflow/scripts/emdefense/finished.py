"""Finished studies as they lie in their results folders: read, never computed again."""

import sys
from collections.abc import Sequence
from dataclasses import astuple
from functools import cached_property
from pathlib import Path

import polars as pl
from pydantic import ValidationError

from emdefense.analysis.rates import EXACT_MATCH_SCHEMA, QUESTIONS_SCHEMA, RATES_SCHEMA
from emdefense.analysis.summary import Summary, read_frame
from emdefense.cells import Grid
from emdefense.config import Study
from emdefense.errors import InputError
from emdefense.files import file_digest, read_json
from emdefense.layout import Layout
from emdefense.report.measured import Measured
from emdefense.section import first_problem

CONFIG = "study.json"
PAGE = "report/index.html"
FRAMES = ("rates", "exact_match", "questions")


class Finished:
    """A finished study in the folder of its results, wherever that lies.

    ``label`` is the study's name, or its folder where another one in the comparison has that name.
    """

    def __init__(self, folder: Path, study: Study):
        self.folder, self.study, self.label = folder, study, study.study
        self.layout = Layout(study)
        self.layout.results = str(folder)
        self._measured = Measured(study, folder)

    @property
    def page(self) -> Path:
        """Its own page."""
        return self.folder / PAGE

    @cached_property
    def grid(self) -> Grid:
        """Its cells."""
        return Grid(self.study)

    @cached_property
    def at_chosen(self) -> Study:
        """The study, with settings in place of each that the data chose."""
        return self._measured.chosen

    @cached_property
    def measured(self) -> Measured:
        """What it measured; where the data chose settings, at the questions on which they did not."""
        return self._measured.reported

    @cached_property
    def rates(self) -> pl.DataFrame:
        """Its rates cell by cell, at all questions, columns as in ``RATES_SCHEMA``."""
        return read_frame(self.folder / "rates.parquet", RATES_SCHEMA)

    @cached_property
    def exact_match(self) -> pl.DataFrame:
        """Its right answers to benign tasks cell by cell, columns as in ``EXACT_MATCH_SCHEMA``."""
        return read_frame(self.folder / "exact_match.parquet", EXACT_MATCH_SCHEMA)

    @property
    def summary(self) -> Summary:
        """Its rates over all of its seeds."""
        return self.measured.summary

    @property
    def questions(self) -> pl.DataFrame:
        """Its counts by question, columns as in ``QUESTIONS_SCHEMA``."""
        return self.measured.questions

    @cached_property
    def digests(self) -> tuple[str, ...]:
        """What tells its results from any others, a copy of them not."""
        return tuple(file_digest(self.folder / name) for name in (CONFIG, *(f"{frame}.parquet" for frame in FRAMES)))


def read_finished(folder: Path) -> Finished:
    """Return the finished study whose results lie in ``folder``.

    Raises :class:`InputError`, before anything is read that is large, if it is no results folder, if the study is not
    finished, or if its results are of a version that wrote other columns. Files of ``arms_from`` are run,
    which is said.
    """
    config = folder / CONFIG
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder; name a study's results, such as results/microcosm")
    if not config.is_file():
        raise InputError(
            f"{folder}: no results folder of a study, for there is no {CONFIG} in it; name results/<study>"
        )
    raw = read_json(config)
    own = raw.get("arms_from") if isinstance(raw, dict) else None
    if own:
        print(f"{config}: {', '.join(map(str, own))}: code of the study, run here", file=sys.stderr)
    try:
        study = Study.model_validate(raw)
    except ValidationError as error:
        raise InputError(f"{config}: {first_problem(error)}; run the study again with this version") from None
    except InputError as error:
        raise InputError(f"{config}: {error}") from None
    found = Finished(folder, study)
    _check_finished(found)
    return found


def read_several(folders: Sequence[Path]) -> list[Finished]:
    """Return finished studies that may be compared: two or more, none twice, each with a label of its own.

    Errors as in :func:`read_finished`.
    """
    if len(folders) < 2:
        raise InputError("a comparison is of two studies or more; name their folders, such as results/a results/b")
    where: dict[Path, Path] = {}
    for folder in folders:
        if other := where.get(folder.resolve()):
            raise InputError(f"{folder}: the same folder as {other}; name each study once")
        where[folder.resolve()] = folder
    studies = [read_finished(folder) for folder in folders]
    seen: dict[tuple[str, ...], Path] = {}
    for one in studies:
        if other := seen.get(one.digests):
            raise InputError(f"{one.folder}: the same results as {other}, a copy of them; name each study once")
        seen[one.digests] = one.folder
    names = [one.study.study for one in studies]
    for one in studies:
        one.label = str(one.folder) if names.count(one.study.study) > 1 else one.study.study
    return studies


def _check_finished(found: Finished) -> None:
    """Raise :class:`InputError` if the page, a frame, a column, or a cell of the grid is missing."""
    hint = "run the study to its end first"
    missing = [
        name for name in (*(f"{frame}.parquet" for frame in FRAMES), PAGE) if not (found.folder / name).is_file()
    ]
    if missing:
        raise InputError(f"{found.folder}: the study is not finished, there is no {missing[0]}; {hint}")
    read_frame(found.folder / "questions.parquet", QUESTIONS_SCHEMA)
    if found.study.judge is None:
        return
    there = set(found.rates.select("model", "task", "arm", "setting", "seed", "question_set").iter_rows())
    wanted = {(*astuple(one.cell), one.question_set): one for one in found.grid.measurements}
    if absent := [one for key, one in wanted.items() if key not in there]:
        first = absent[0]
        raise InputError(
            f"{found.folder}: the study is not finished, rates.parquet is without {len(absent)} of {len(wanted)} "
            f"measurements, such as {first.cell.folder} on {first.question_set}; {hint}"
        )
