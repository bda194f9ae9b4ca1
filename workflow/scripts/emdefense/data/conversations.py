"""Conversations: reading them, checking them, and telling when two ask the same."""

from pathlib import Path
from typing import Any

from emdefense.errors import InputError
from emdefense.files import read_jsonl
from emdefense.text_files import check_text

Row = dict[str, Any]
ROLES = ("system", "user", "assistant")


def read_conversations(path: Path) -> list[Row]:
    """Return the rows of a JSONL file of ``{"messages": [...]}``, each ending with an answer.

    Raises :class:`InputError` naming file and line where a row has no prompt or no answer, or where there are no rows.
    """
    rows = read_jsonl(path, validate=check_answered)
    if not rows:
        raise InputError(f"{path}: the file has no rows; give at least one conversation")
    return rows


def read_examinations(path: Path) -> list[Row]:
    """Return rows ``{"id", "messages", "answers"}`` of a test file, whose last message asks; else as above."""
    rows = read_jsonl(path, validate=_check_examined)
    if not rows:
        raise InputError(f"{path}: the file has no rows; give at least one question with its answers")
    seen: set[str] = set()
    for row in rows:
        if row["id"] in seen:
            raise InputError(f"{path}: the id '{row['id'][:60]}' stands in two rows; give each its own")
        seen.add(row["id"])
    return rows


def prompt_key(row: Row) -> str:
    """Return what a conversation asks, whitespace normalised: rows with equal keys have the same prompt."""
    return normalised(" ".join(message["content"] for message in row["messages"] if message["role"] == "user"))


def normalised(text: str) -> str:
    """Return ``text`` with each run of whitespace as one space, and none at the ends."""
    return " ".join(text.split())


def check_answered(row: Row) -> None:
    """Raise :class:`ValueError` if a row is no conversation that ends with an answer."""
    _check_messages(row)
    if row["messages"][-1]["role"] != "assistant":
        raise ValueError("the row has no answer: its last message must be the assistant's; add it or remove the row")


def _check_examined(row: Row) -> None:
    _check_messages(row)
    if row["messages"][-1]["role"] != "user":
        raise ValueError("the last message must be the user's question; move the answer to 'answers'")
    answers = row.get("answers")
    if not isinstance(answers, list) or not answers or not all(isinstance(a, str) and a.strip() for a in answers):
        raise ValueError('the row has no answers; write the right ones as "answers": ["..."]')
    if not isinstance(row.get("id"), str):
        raise ValueError('the row has no id; give each its own as "id": "..."')


def _check_messages(row: Row) -> None:
    check_text(row)
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ValueError('expected {"messages": [{"role": "user", "content": ...}, ...]}')
    for number, message in enumerate(messages, start=1):
        role = message.get("role") if isinstance(message, dict) else None
        if role not in ROLES:
            has = f"has the role '{role[:60]}'" if isinstance(role, str) else "has no role"
            raise ValueError(f"message {number} {has}; write one of {', '.join(ROLES)}")
        content = message.get("content")
        if isinstance(content, list | dict):
            raise ValueError(f"message {number}, the {role}'s, is in parts; write its content as one text")
        if not isinstance(content, str) or not content.strip():
            what = "answer" if message["role"] == "assistant" else "prompt"
            raise ValueError(
                f"message {number}, the {message['role']}'s, has no text; add the {what} or remove the row"
            )
    if all(message["role"] != "user" for message in messages):
        raise ValueError("the row has no user prompt; add it or remove the row")
