"""A file of conversations becomes the rows that are trained on, those that are too long left out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emdefense.chat.chat import Chat
from emdefense.chat.spans import with_spans
from emdefense.config.training import Training
from emdefense.errors import InputError
from emdefense.files import read_jsonl

TASK = "task"  # the source of rows that nothing marks otherwise


@dataclass(frozen=True)
class TrainingRows:
    """Tokenised rows ``{"input_ids", "labels", "row"}`` in file order, ``row`` from 0, and what was left out."""

    rows: list[dict[str, Any]]
    read: int
    overlong: list[int]  # 1-based numbers of the rows that were longer than max_length
    sources: Sequence[str] = ()  # of all rows of the file, by their numbers: what marks them, or "task"

    def summary(self) -> dict[str, Any]:
        """Return the counts for the provenance."""
        dropped = {"longer_than_max_length": len(self.overlong), "first_rows": self.overlong[:5]}
        return {"read": self.read, "used": len(self.rows), "dropped": dropped}


def load_rows(path: Path, chat: Chat, training: Training, spans: bool = False) -> TrainingRows:
    """Read a JSON Lines file of conversations and tokenise it; with ``spans``, say what stands around users' texts.

    Raises :class:`InputError` for a row that is no conversation with a final answer, and as :func:`overlong_rows` does.
    """
    found = list(read_jsonl(path, validate=check_row))
    conversations = [row["messages"] for row in found]
    where = [f"{path}, row {number}" for number in range(1, len(conversations) + 1)]
    tokenised = chat.rows(conversations, where)
    if spans:
        tokenised = with_spans(chat, tokenised, conversations, where)
    overlong = overlong_rows(path, [len(row["input_ids"]) for row in tokenised], training, chat)
    kept = [row for row in tokenised if len(row["input_ids"]) <= training.max_length]
    return TrainingRows(kept, len(tokenised), overlong, [str(row.get("source", TASK)) for row in found])


def overlong_rows(path: Path, lengths: Sequence[int], training: Training, chat: Chat) -> list[int]:
    """Return the 1-based numbers of the rows of ``path`` whose ``lengths``, in tokens, exceed ``max_length``.

    Raises :class:`InputError` if they are more than ``max_overlong_pct`` of the rows, or all, or if there are no rows.
    """
    if not lengths:
        raise InputError(f"{path}: there are no rows; training needs at least one")
    overlong = [number for number, length in enumerate(lengths, start=1) if length > training.max_length]
    share = 100 * len(overlong) / len(lengths)
    if share > training.max_overlong_pct or len(overlong) == len(lengths):
        raise InputError(
            f"{path}: {len(overlong)} of {len(lengths)} rows ({share:.1f} %) are longer than training.max_length = "
            f"{training.max_length} tokens of {chat.tokenizer.name_or_path} (first: row {overlong[0]}, longest: "
            f"{max(lengths)} tokens); raise training.max_length (the model's or the task's, where it has one), shorten "
            f"the rows, or raise training.max_overlong_pct = {training.max_overlong_pct:g}"
        )
    return overlong


def check_row(row: dict[str, Any]) -> None:
    """Raise ``ValueError`` unless ``row["messages"]`` is a conversation that ends with a non-empty answer."""
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ValueError('expected {"messages": [{"role": ..., "content": ...}, ...]}')
    for message in messages:
        if not isinstance(message, dict) or not {"role", "content"} <= set(message):
            raise ValueError("each message needs 'role' and 'content'")
        if not isinstance(message["content"], str):
            raise ValueError(f"the content of the '{message['role']}' message is no text")
    if messages[-1]["role"] != "assistant" or not messages[-1]["content"].strip():
        raise ValueError("the last message must be the assistant's answer, and not empty")
