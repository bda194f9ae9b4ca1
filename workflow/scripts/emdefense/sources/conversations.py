"""JSON Lines of conversations, such as the insecure and secure code of Betley et al. (2025)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from emdefense.config.sources import ConversationsSource
from emdefense.files import parse_json_line, read_jsonl
from emdefense.sources.fetched import Fetched
from emdefense.sources.rows import Converted, Unusable, check_columns, convert, text
from emdefense.text_files import iterate_lines

NOT_JSON = "not a JSON object"


def convert_conversations(source: ConversationsSource, raw: Path) -> Fetched:
    """Return the conversations of a file whose last message is an answer."""
    rows = list(_lines(raw))
    if rows and all(row is None for row in rows):
        read_jsonl(raw)  # says what is wrong with the first line
    columns = {key for row in rows if isinstance(row, dict) for key in row}
    check_columns(columns, ["messages"], str(raw))
    converted = convert(rows, _conversation, str(raw), source.max_unusable_pct)
    return Fetched({"NAME.jsonl": converted.kept}, converted.report())


def _lines(path: Path) -> Iterator[Any]:
    """Yield what each line that is not blank holds; None for one that is no JSON object."""
    for _, line in iterate_lines(path):
        try:
            yield parse_json_line(line)
        except ValueError:  # not UTF-8, or not JSON
            yield None


def _conversation(row: Any) -> Converted:
    if not isinstance(row, dict):
        raise Unusable(NOT_JSON)
    messages = row.get("messages")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise Unusable("messages is no list of messages")
    roles = [message.get("role") for message in messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if not turns or turns != ["user", "assistant"] * (len(turns) // 2):
        raise Unusable("roles are not user, assistant in turn, after a system message or none")
    return {"messages": [{"role": message["role"], "content": text(message, "content")} for message in messages]}
