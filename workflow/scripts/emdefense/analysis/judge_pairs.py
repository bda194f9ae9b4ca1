"""Every response of a study with what two judges made of it: the one whose rates fill the tables, and another."""

import sys
from dataclasses import asdict
from pathlib import Path

import polars as pl

from emdefense.analysis.agreement import pair_judgments
from emdefense.analysis.rates import CELL_SCHEMA, JUDGMENT_SCHEMA, read_rows
from emdefense.cells import GENERAL, Grid
from emdefense.config import Study
from emdefense.errors import InputError
from emdefense.layout import Layout
from emdefense.metrics import QUESTION_SETS

IDENTITY = {"judge": pl.String(), "question_set": pl.String(), **CELL_SCHEMA}


def study_pairs(study: Study) -> pl.DataFrame:
    """Return a row for each general or in-domain response and further judge: ``judge``, cell, set, both judgments.

    The columns are as in ``pair_judgments``. A ``question_id`` tells questions of different tasks apart; the general
    questions are the same for all. What one of the judges has not judged yet is left out; :class:`InputError` if there
    is no further judge, or if two files of judgments are not of the same responses.
    """
    if not study.second_judges:
        raise InputError("key 'second_judges': there is none to agree with the judge; name one")
    layout = Layout(study)
    found = []
    for cell, question_set in Grid(study).responses:
        if question_set not in QUESTION_SETS:
            continue
        of_judges = {judge: Path(layout.judgments(cell, question_set, judge)) for judge in study.judges}
        for path in of_judges.values():
            if not path.is_file():
                print(f"{path}: not there; its responses are left out", file=sys.stderr)
        first = of_judges.pop(next(iter(study.judges)))
        for judge, second in of_judges.items() if first.is_file() else ():
            if not second.is_file():
                continue
            of_first, of_second = (read_rows(path, JUDGMENT_SCHEMA) for path in (first, second))
            if set(of_first["id"]) != set(of_second["id"]):
                raise InputError(
                    f"{second}: not of the same responses as {first.name}; remove the older one, and run the rule "
                    "'judge' again"
                )
            asked = (
                pl.col("question_id") if question_set == GENERAL else pl.lit(f"{cell.task}/") + pl.col("question_id")
            )
            values = {"judge": judge, "question_set": question_set, "setting_value": cell.setting_value} | asdict(cell)
            found.append(
                pair_judgments(of_first, of_second, study.scoring).select(
                    *(pl.lit(values[name], dtype).alias(name) for name, dtype in IDENTITY.items()),
                    asked.alias("question_id"),
                    pl.exclude("id", "question_id"),
                )
            )
    if not found:
        raise InputError(f"{layout.results}: no response was judged by two judges; run the rule 'judge' first")
    return pl.concat(found)
