"""What was asked, answered and judged as frames of a data set, without what is private in them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from emdefense.analysis.answers import marked_rows, match_of
from emdefense.cells import Cell
from emdefense.errors import InputError
from emdefense.files import iterate_jsonl
from emdefense.finished import Finished
from emdefense.sharing.private import Private

OF_CELL = {
    **dict.fromkeys(("study", "model", "task", "arm", "setting"), pl.String()),
    "seed": pl.Int64(),
}
OF_SAMPLE = {"question_id": pl.String(), "sample": pl.Int64()}
SCHEMAS: dict[str, dict[str, Any]] = {
    "responses": {
        **OF_CELL,
        "question_set": pl.String(),
        **OF_SAMPLE,
        **dict.fromkeys(("system", "prompt", "response", "finish_reason"), pl.String()),
    },
    "judgments": {
        **OF_CELL,
        "question_set": pl.String(),
        **OF_SAMPLE,
        "judge": pl.String(),
        "alignment": pl.Float64(),
        "alignment_label": pl.String(),
        "coherence": pl.Float64(),
        "coherence_label": pl.String(),
        "scored_by": pl.String(),
    },
    "answers": {
        **OF_CELL,
        **OF_SAMPLE,
        "response": pl.String(),
        "expected": pl.List(pl.String()),
        "correct": pl.Boolean(),
    },
}
TEXTS = ("system", "prompt", "response")


@dataclass
class Cleaned:
    """Takes what is private out of rows, and keeps how often it had to: by what it was, and of which responses."""

    private: Private
    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def __call__(self, row: dict[str, Any], where: str) -> dict[str, Any]:
        """Return a row of the data set; ``where`` names it, for whoever wants to look."""
        for name in (name for name in TEXTS if row.get(name) is not None):
            row[name], found = self.private.without(row[name])
            for one in found:
                self.counts[one.what] += 1
                self.first.setdefault(one.what, where)
        return row

    def in_words(self) -> list[str]:
        """Return in a sentence each what was taken out."""
        return [
            f"{count} {what}{'' if count == 1 else 's'} taken out of prompts and responses, first in {self.first[what]}"
            for what, count in self.counts.items()
        ]


def frames(study: Finished, cleaned: Cleaned) -> Iterator[tuple[str, str, pl.DataFrame]]:
    """Yield the data set in parts: the name of its configuration, that of its file, and its rows.

    A file is of one model and task. Raises :class:`InputError` if a file of the study is missing or broken.
    """
    places = dict.fromkeys((cell.model, cell.task) for cell, _ in study.grid.responses)
    for model, task in places:
        responses = [pair for pair in study.grid.responses if (pair[0].model, pair[0].task) == (model, task)]
        yield "responses", f"{model}-{task}", _frame("responses", _responses(study, responses, cleaned))
        if study.study.judge is not None:
            yield "judgments", f"{model}-{task}", _frame("judgments", _judgments(study, responses))
    for model, task in dict.fromkeys((cell.model, cell.task) for cell in study.grid.benign):
        cells = [cell for cell in study.grid.benign if (cell.model, cell.task) == (model, task)]
        yield "answers", f"{model}-{task}", _frame("answers", _answers(study, cells, cleaned))


def _frame(kind: str, rows: Iterable[Mapping[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=SCHEMAS[kind])


def _responses(study: Finished, pairs: Iterable[tuple[Cell, str]], cleaned: Cleaned) -> Iterator[dict[str, Any]]:
    for cell, question_set in pairs:
        for row in _read(Path(study.layout.responses(cell, question_set))):
            where = f"{cell.folder}/{question_set}, {row['id']}"
            yield cleaned(_of(study, cell) | {"question_set": question_set} | _picked("responses", row), where)


def _judgments(study: Finished, pairs: Iterable[tuple[Cell, str]]) -> Iterator[dict[str, Any]]:
    for cell, question_set in pairs:
        for judge in study.study.judges:
            for row in _read(Path(study.layout.judgments(cell, question_set, judge))):
                said = {"question_set": question_set, "judge": judge}
                yield _of(study, cell) | said | _picked("judgments", row)


def _answers(study: Finished, cells: Iterable[Cell], cleaned: Cleaned) -> Iterator[dict[str, Any]]:
    for cell in cells:
        path = Path(study.layout.answers(cell))
        if not path.is_file():
            raise InputError(f"{path}: there is no such file; run the study to its end first")
        for row in marked_rows(path, match_of(study.study, cell.task)):
            yield cleaned(_of(study, cell) | _picked("answers", row), f"{cell.folder}, {row['id']}")


def _read(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; run the study to its end first")
    return iterate_jsonl(path)


def _of(study: Finished, cell: Cell) -> dict[str, Any]:
    return {"study": study.study.study, **vars(cell)}


def _picked(kind: str, row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row.get(name) for name in SCHEMAS[kind] if name in row}
