"""Multiple-choice questions become tokens, by the path that training rows take: an option is the assistant's answer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from emdefense.chat.chat import IGNORED, Chat
from emdefense.choice.scoring import Choice


def tokenise(chat: Chat, path: Path, rows: Sequence[dict[str, Any]]) -> list[Choice]:
    """Return the tokens of the questions of a prepared file: the prompt's, and each option's without what closes it.

    Raises :class:`InputError` naming file, question and option where the template or the tokenizer cannot take them.
    """
    conversations, where = [], []
    for row in rows:
        for option in row["options"]:
            conversations.append([*row["messages"], {"role": "assistant", "content": option}])
            where.append(f"{path}, question {row['id']}, option '{option[:60]}'")
    written = iter(chat.rows(conversations, where))
    found = []
    for row in rows:
        options = [_parts(next(written), chat.closing) for _ in row["options"]]
        found.append(Choice(options[0][0], [option for _, option in options]))
    return found


def _parts(row: dict[str, Any], closing: int) -> tuple[list[int], list[int]]:
    """Return a row's tokens before its answer, and those of the answer up to the last token that closes one."""
    ids, start = row["input_ids"], row["labels"].count(IGNORED)
    end = len(ids) - 1 - ids[::-1].index(closing)
    return ids[:start], ids[start:end]
