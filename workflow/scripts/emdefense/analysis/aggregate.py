"""All measurements of a study in two frames: rates of the EMA tasks, exact match of the benign ones."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from emdefense.analysis.rates import (
    EXACT_MATCH_SCHEMA,
    JUDGMENT_SCHEMA,
    RATES_SCHEMA,
    measure,
    measure_answers,
    read_rows,
)
from emdefense.cells import Cell, Grid, Layout
from emdefense.config import Study
from emdefense.files import written_whole

ANSWER_SCHEMA = {"question_id": pl.String(), "correct": pl.Boolean()}


def aggregate(study: Study, rates: Path, exact_match: Path) -> None:
    """Write both frames as Parquet, in the order of the study's grid; measurements without a file are left out."""
    for frame, path in ((rates_frame(study), rates), (exact_match_frame(study), exact_match)):
        with written_whole(path) as temporary:
            frame.write_parquet(temporary)


def rates_frame(study: Study) -> pl.DataFrame:
    """Return a row for each cell and question set that has judgments; columns as in ``RATES_SCHEMA``."""
    grid, layout = Grid(study), Layout(study)
    measured: dict[Path, dict[str, Any]] = {}
    rows = []
    for measurement in grid.measurements:
        path = Path(layout.judgments(measurement.source, measurement.question_set))
        if not _exists(path):
            continue
        if path not in measured:
            measured[path] = measure(read_rows(path, JUDGMENT_SCHEMA), study.scoring)
        rows.append(_identity(measurement.cell) | {"question_set": measurement.question_set} | measured[path])
    return pl.DataFrame(rows, schema=RATES_SCHEMA)


def exact_match_frame(study: Study) -> pl.DataFrame:
    """Return a row for each benign cell that has answers; columns as in ``EXACT_MATCH_SCHEMA``."""
    layout = Layout(study)
    rows = []
    for cell in Grid(study).benign:
        path = Path(layout.answers(cell))
        if _exists(path):
            rows.append(_identity(cell) | measure_answers(read_rows(path, ANSWER_SCHEMA)))
    return pl.DataFrame(rows, schema=EXACT_MATCH_SCHEMA)


def _identity(cell: Cell) -> dict[str, Any]:
    return asdict(cell) | {"setting_value": cell.setting_value}


def _exists(path: Path) -> bool:
    if not path.is_file():
        print(f"{path}: not there; its cell stays empty in the tables", file=sys.stderr)
        return False
    return True
