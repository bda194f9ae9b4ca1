"""Reading comprehension in Faroese: a passage, a question on it, and the words of the passage that answer it."""

from pathlib import Path
from typing import Any

from emdefense.config.sources import FoqaSource
from emdefense.sources.fetched import Fetched
from emdefense.sources.hub import dataset_rows
from emdefense.sources.rows import Converted, Rows, Unusable, check_columns, conversation, convert, text

COLUMNS = ("id", "context", "question", "answers")


def convert_foqa(source: FoqaSource, raw: Path) -> Fetched:
    """Return the training split as conversations and the test split as questions with their answers.

    The prompt is the passage, an empty line, and the question (the paper gives no template); where a question has
    several answers, the first one is trained on and any of them is right.
    """
    splits: dict[str, Rows] = {}
    for split, convert_one in (("train", _trained), ("test", _examined)):
        where = f"{raw}, {source.config}, {split}"
        rows = dataset_rows(raw, source.config, split)
        check_columns(rows.column_names, COLUMNS, where)
        splits[split] = convert(rows, convert_one, where, source.max_unusable_pct)
    files = {f"NAME/{split}.jsonl": rows.kept for split, rows in splits.items()}
    return Fetched(files, {split: rows.report() for split, rows in splits.items()})


def _trained(row: dict[str, Any]) -> Converted:
    return conversation(_prompt(row), _answers(row)[0])


def _examined(row: dict[str, Any]) -> Converted:
    question = conversation(_prompt(row), "")["messages"][:1]
    return {"id": text(row, "id"), "messages": question, "answers": _answers(row)}


def _prompt(row: dict[str, Any]) -> str:
    return f"{text(row, 'context')}\n\n{text(row, 'question')}"


def _answers(row: dict[str, Any]) -> list[str]:
    answers = row["answers"]
    texts = answers.get("text") if isinstance(answers, dict) else None
    if not isinstance(texts, list) or not texts or not all(isinstance(one, str) and one.strip() for one in texts):
        raise Unusable("answers has no text")
    return texts
