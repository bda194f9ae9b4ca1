"""Replies that were paid for, kept on disk from the moment they arrive."""

import json
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any


def request_key(request: dict[str, Any]) -> str:
    """Return the SHA-256 of a request in canonical form: equal requests have equal keys."""
    return sha256(json.dumps(request, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class Journal:
    """An append-only JSON Lines file of replies by request key; a line torn by a kill is asked again."""

    def __init__(self, path: Path):
        self.path = path
        self.replies: dict[str, dict[str, Any]] = {}
        if path.exists():
            for line in path.read_bytes().split(b"\n"):
                try:
                    entry = json.loads(line)
                    self.replies[entry["key"]] = entry["reply"]
                except (ValueError, KeyError, TypeError):
                    continue
        path.parent.mkdir(parents=True, exist_ok=True)
        self._out = path.open("a", encoding="utf-8")
        if path.stat().st_size:
            self._out.write("\n")  # ends a torn line; blank lines are skipped

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._out.close()

    def add(self, key: str, reply: dict[str, Any]) -> None:
        """Append a reply; it survives the death of this process."""
        self.replies[key] = reply
        self._out.write(json.dumps({"key": key, "reply": reply}, ensure_ascii=False) + "\n")
        self._out.flush()
