"""Multiple-choice questions as the hub has them: MMLU (arXiv 2009.03300) and TruthfulQA (arXiv 2109.07958)."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from emdefense.config.sources import MmluSource, TruthfulQaSource
from emdefense.data.conversations import normalised
from emdefense.sources.fetched import Fetched
from emdefense.sources.hub import dataset_rows
from emdefense.sources.rows import Converted, Unusable, check_columns, convert, text

NUMBER = "number"  # of a row in its split, from 1: the published rows have no ids


def convert_mmlu(source: MmluSource, raw: Path) -> Fetched:
    """Return a split's questions with their four choices, in their order; ``answer`` is the index of the right one."""
    return _converted(source, raw, source.selection, ("question", "subject", "choices", "answer"), _mmlu)


def convert_truthfulqa(source: TruthfulQaSource, raw: Path) -> Fetched:
    """Return the questions with the choices of MC1, of which one is right.

    There the right one always stands first, so they are shuffled, by the question alone: otherwise a model that says A
    would have all right.
    """
    return _converted(source, raw, "validation", ("question", "mc1_targets"), _truthfulqa)


def _converted(
    source: MmluSource | TruthfulQaSource,
    raw: Path,
    split: str,
    columns: Iterable[str],
    convert_one: Callable[[dict[str, Any], str], Converted],
) -> Fetched:
    where = f"{raw}, {source.config}, {split}"
    rows = dataset_rows(raw, source.config, split)
    check_columns(rows.column_names, columns, where)
    converted = convert(_numbered(rows), lambda row: convert_one(row, split), where, source.max_unusable_pct)
    return Fetched({"NAME.jsonl": converted.kept}, converted.report())


def _numbered(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    return ({**row, NUMBER: number} for number, row in enumerate(rows, start=1))


def _mmlu(row: dict[str, Any], split: str) -> Converted:
    choices, answer = _choices(row["choices"]), row["answer"]
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(choices):
        raise Unusable("answer is not the index of a choice")
    found = {"id": f"{split}_{row[NUMBER]}", "question": text(row, "question"), "choices": choices, "answer": answer}
    return {**found, "subject": text(row, "subject")}


def _truthfulqa(row: dict[str, Any], split: str) -> Converted:
    targets = row["mc1_targets"]
    labels = targets.get("labels") if isinstance(targets, dict) else None
    choices = _choices(targets.get("choices") if isinstance(targets, dict) else None)
    if not isinstance(labels, list) or len(labels) != len(choices) or sorted(labels) != [0] * (len(choices) - 1) + [1]:
        raise Unusable("mc1_targets does not have one right choice")
    question, right = text(row, "question"), choices[labels.index(1)]
    Random(question).shuffle(choices)
    return {"id": f"{split}_{row[NUMBER]}", "question": question, "choices": choices, "answer": choices.index(right)}


def _choices(found: Any) -> list[str]:
    if not isinstance(found, list) or not all(isinstance(one, str) and one.strip() for one in found):
        raise Unusable("choices are no list of texts")
    if len(found) < 2:
        raise Unusable("there are fewer than two choices")
    if len(set(map(normalised, found))) < len(found):
        raise Unusable("two choices are the same")
    return list(found)
