"""The answers to benign questions, marked by the match that their task asks for.

An answer's file says whether it is exactly right; other matches are worked out from its text, so that a change of a
task's ``match`` samples nothing again.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from emdefense.analysis.rates import read_rows
from emdefense.config import Study
from emdefense.files import iterate_jsonl
from emdefense.matching import EXACT, Match, is_match

ANSWER_SCHEMA = {"question_id": pl.String(), "correct": pl.Boolean()}


def match_of(study: Study, task: str) -> Match:
    """Return when an answer to a benign task is right."""
    found = study.tasks[task]
    return found.match if found.kind == "benign" else EXACT


def marked_rows(path: Path, match: Match) -> Iterator[dict[str, Any]]:
    """Yield a file's rows, ``correct`` by the match."""
    for row in iterate_jsonl(path):
        right = row["correct"] if match == EXACT else is_match(row["response"], row["expected"], match)
        yield {**row, "correct": right}


def read_answers(path: Path, match: Match) -> pl.DataFrame:
    """Return of each answer its question and whether it is right; :class:`InputError` if the file is broken."""
    if match == EXACT:
        return read_rows(path, ANSWER_SCHEMA)
    text = {"response": pl.String(), "expected": pl.List(pl.String())}
    rows = read_rows(path, {"question_id": pl.String(), **text})
    right = [is_match(said, expected, match) for said, expected in rows.select("response", "expected").iter_rows()]
    return rows.select("question_id", pl.Series("correct", right, pl.Boolean()))
