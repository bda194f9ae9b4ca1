"""Which tokens of a conversation a chat template writes before the user's text, and between it and the answer."""

from collections.abc import Mapping, Sequence
from typing import Any

from emdefense.chat.chat import IGNORED, Chat
from emdefense.chat.template import Conversation
from emdefense.errors import InputError

PROBES = ("a", "Q")  # texts that neither start nor end alike
SPANS = "spans"  # the key of a row, and of a batch


def with_spans(
    chat: Chat, rows: Sequence[Mapping[str, Any]], conversations: Sequence[Conversation], where: Sequence[str]
) -> list[dict[str, Any]]:
    """Return tokenised rows with ``spans``: where the prefix ends, the postfix starts, and the answer starts.

    The prefix is all tokens before the first user's text, the postfix those between the last user's text and the
    answer. A token that holds a part of the text is in neither. ``where`` names rows in errors. Raises
    :class:`InputError` for a conversation without a user's text.
    """
    finder = _Finder(chat)
    return [
        {**row, SPANS: finder.spans(messages, row, name)}
        for row, messages, name in zip(rows, conversations, where, strict=True)
    ]


class _Finder:
    """Puts other texts in place of the user's: what tokens stay the same at both ends belongs to the template."""

    def __init__(self, chat: Chat):
        self._chat = chat
        self._probed: dict[Any, list[list[int]]] = {}  # rows without a system prompt all have the same

    def spans(self, messages: Conversation, row: Mapping[str, Any], where: str) -> list[int]:
        asked = messages[:-1]
        users = [place for place, message in enumerate(asked) if message["role"] == "user"]
        if not users:
            raise InputError(f"{where}: there is no user's text in it, so nothing stands before or after one")
        start = next(place for place, label in enumerate(row["labels"]) if label != IGNORED)
        prompt = row["input_ids"][:start]
        first, last = (self._prompts(asked, place, where) for place in (users[0], users[-1]))
        prefix = _common([prompt, *first])
        postfix = _common([ids[::-1] for ids in (prompt, *last)])
        return [prefix, start - postfix, start]

    def _prompts(self, asked: Conversation, place: int, where: str) -> list[list[int]]:
        key = tuple(
            (message["role"], None if number == place else message["content"]) for number, message in enumerate(asked)
        )
        if key not in self._probed:
            probes = [
                [{**message, "content": text} if number == place else message for number, message in enumerate(asked)]
                for text in PROBES
            ]
            self._probed[key] = self._chat.prompts(probes, [where] * len(probes))
        return self._probed[key]


def _common(sequences: Sequence[Sequence[int]]) -> int:
    """Return how many tokens all sequences start with."""
    count = 0
    for tokens in zip(*sequences, strict=False):
        if len(set(tokens)) > 1:
            break
        count += 1
    return count
