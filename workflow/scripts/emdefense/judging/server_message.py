"""What an endpoint says of an error: one short line, without the key or what was asked."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from emdefense.judging.filter_message import refuses_content, refuses_length

LONGEST = 200  # characters that are shown
READ = 600  # characters that are looked at
ECHO = 16  # characters in a row that can be no accident
KEY_PART = 8
_KEYS = re.compile(r"\b(?:Bearer|Basic)\s+\S+|\bsk-[\w*.-]{6,}", re.IGNORECASE)
_NO_TEXT = re.compile(r"<(script|style)\b.*?</\1\s*>|<[^>]*>", re.IGNORECASE | re.DOTALL)
# What is shut out is the client then, whatever is asked; a filter's message only warns that this may happen.
_SHUT_OUT = re.compile(
    r"\b(account|organi[sz]ation|subscription|project|key)( is| was| has been)?( \w+ly)? "
    r"(suspended|disabled|deactivated|banned|blocked|terminated)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class ServerMessage:
    """``text`` is one line, empty where nothing was said; ``codes`` are the error's names for itself, in lower case.

    ``by_api``: whether it has the form of the API's errors, which what stands before it (a proxy) seldom has.
    """

    text: str = ""
    codes: frozenset[str] = frozenset()
    by_api: bool = False

    @property
    def is_filter(self) -> bool:
        """Whether the content of the request was refused, as such."""
        return not self.shuts_out and refuses_content(self.text, self.codes)

    @property
    def is_too_long(self) -> bool:
        """Whether the request was refused for its length."""
        return not self.is_filter and refuses_length(self.text, self.codes)

    @property
    def shuts_out(self) -> bool:
        """Whether it says that the account may not ask anything."""
        return bool(_SHUT_OUT.search(self.text))

    def names(self, *words: str) -> bool:
        """Whether any of these words is in it."""
        said = f"{self.text} {' '.join(self.codes)}".lower()
        return any(word in said for word in words)


NOTHING = ServerMessage()


def read_message(content: Any, asked: str = "", key: str = "") -> ServerMessage:
    """Return what ``content`` says, the body of an error as bytes or as parsed JSON.

    Left out are runs of characters of ``asked`` or ``key``, control characters, and what is longer than ``LONGEST``.
    """
    if isinstance(content, bytes):
        try:
            content = json.loads(content)
        except (ValueError, RecursionError):
            content = _NO_TEXT.sub(" ", content[: 100 * READ].decode("utf-8", "replace"))
    if isinstance(content, list) and content:
        content = content[0]
    error = content.get("error", content) if isinstance(content, dict) else content
    text = " ".join(dict.fromkeys(_texts(error)))
    by_api = isinstance(content, dict) and isinstance(content.get("error"), dict)
    return ServerMessage(one_line(text, asked, key), frozenset(_codes(error)), by_api)


def one_line(text: str, asked: str = "", key: str = "") -> str:
    """Return ``text`` in one line without control characters, ``key`` and longer parts of ``asked``, cut if long."""
    text = _plain(text[: 10 * READ])[:READ]
    if key:
        text = _without(text, key, min(KEY_PART, len(key)), "[key]")
    text = _KEYS.sub("[key]", text)
    for form in (_plain(asked), _plain(json.dumps(asked)[1:-1])):
        text = _without(text, form, ECHO, "[…]")
    return text if len(text) <= LONGEST else text[: LONGEST - 1].rstrip() + "…"


def _plain(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _without(text: str, secret: str, run: int, instead: str) -> str:
    """Return ``text`` with each run of at least so many characters that ``secret`` has too replaced."""
    kept, start = "", 0
    while start < len(text):
        end = start + run
        if end > len(text) or text[start:end] not in secret:
            kept += text[start]
            start += 1
            continue
        while end < len(text) and text[start : end + 1] in secret:
            end += 1
        kept, start = kept + instead, end
    return kept


def _texts(error: Any) -> Iterator[str]:
    """Yield the sentences of an error: its message, that of what the endpoint itself asked, or FastAPI's details."""
    if isinstance(error, str):
        yield error
    if not isinstance(error, dict):
        return
    for name in ("message", "msg", "error_msg", "error_message", "detail", "title"):
        value = error.get(name)
        if isinstance(value, str) and value:
            yield value
        elif isinstance(value, dict):
            yield from _texts(value)
        elif isinstance(value, list):
            for entry in value[:3]:
                yield from _texts(entry)
    metadata = error.get("metadata")
    if isinstance(metadata, dict):
        yield from (value for name in ("raw", "reason") if isinstance(value := metadata.get(name), str))
        if isinstance(metadata.get("reasons"), list):
            yield from (reason for reason in metadata["reasons"][:3] if isinstance(reason, str))


def _codes(error: Any, depth: int = 0) -> Iterator[str]:
    if not isinstance(error, dict) or depth > 3:
        return
    for name in ("code", "type", "param", "status"):
        if isinstance(value := error.get(name), str | int):
            yield str(value)[:100].lower()
    if any("content_filter" in name and _refuses(value) for name, value in error.items()):
        yield "content_filter"  # Azure's verdicts by category, sometimes without a code
    if isinstance(error.get("metadata"), dict) and "flagged_input" in error["metadata"]:  # OpenRouter's
        yield "flagged_input"
    for name in ("innererror", "inner_error", "innerError", "error"):
        yield from _codes(error.get(name), depth + 1)


def _refuses(verdicts: Any) -> bool:
    """Whether Azure's verdicts refuse something, as far as they say; those of a filter that failed are an error."""
    if not isinstance(verdicts, dict) or not verdicts:
        return True
    found = [verdict for verdict in verdicts.values() if isinstance(verdict, dict)]
    told = [
        value for verdict in (verdicts, *found) for name, value in verdict.items() if name in {"filtered", "detected"}
    ]
    return any(told) if told else "error" not in verdicts
