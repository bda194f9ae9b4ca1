"""Replies that were paid for: append-only JSONL shards in one folder, which many processes write and read at once.

Every process appends to a shard of its own, so nothing is ever written over, and reads those of all others: what was
there when it started, and later what has been added since. A line that is torn, damaged or of something else is one
reply less, and no more: it is named once, and what it held is asked again.
"""

import errno
import json
import os
import secrets
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from emdefense.errors import InputError
from emdefense.judging.foreign import name_once, regular_files
from emdefense.judging.protocol import Reply
from emdefense.judging.reply import json_value, kept_reply
from emdefense.machine_limits import writing

PREFIX = b'{"key": "'
KEY = slice(len(PREFIX), len(PREFIX) + 64)
OPEN_SHARDS = 64  # read at once, at most


def owner_name() -> str:
    """Return a name for this process that no other has, here or on another host."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


class Cache:
    """Replies by request key. In memory is only where those lie that were asked for with :meth:`want`."""

    def __init__(self, folder: Path, *, read_only: bool = False):
        """Open a cache; the folder is made unless it is only read (:class:`InputError` if it cannot be)."""
        self.folder, self.read_only, self.owner = folder, read_only, owner_name()
        self._wanted: set[bytes] = set()
        self._found: dict[bytes, tuple[str, int]] = {}
        self._read_to: dict[str, tuple[int, int]] = {}  # bytes and lines of each shard that were looked through
        self._shards: dict[str, Any] = {}
        self._own = f"{self.owner}.jsonl"
        self._out: int | None = None
        self._size = 0
        if not read_only:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"judge_cache: {folder} cannot be made ({error.strerror})") from None

    def __enter__(self) -> "Cache":
        return self

    def __exit__(self, *error: object) -> None:
        self._close_shards()
        if self._out is not None:
            os.fsync(self._out)
            os.close(self._out)

    def __contains__(self, key: bytes) -> bool:
        return key in self._found

    def want(self, keys: Iterable[bytes]) -> None:
        """Look for these keys from now on, in all shards from their beginning."""
        self._wanted.update(keys)
        self._read_to.clear()
        self.refresh()

    def refresh(self) -> None:
        """Take in what other processes have added."""
        if not self.folder.is_dir():
            return
        for path, (size, _) in regular_files(self.folder, ".jsonl"):
            if path.name != self._own and size > self._read_to.get(path.name, (0, 0))[0]:
                self._read(path)

    def _read(self, path: Path) -> None:
        offset, done = self._read_to.get(path.name, (0, 0))
        wrong = []
        try:
            with path.open("rb") as shard:
                shard.seek(offset)
                for number, line in enumerate(shard, done + 1):
                    if not line.endswith(b"\n"):
                        if not (self.folder / f"{path.stem}.claim").exists():  # else it is being written
                            wrong.append(number)
                        break
                    key = _key(line)
                    if key is None or (key in self._wanted and key not in self._found):
                        if key is not None and _reply(line) is not None:
                            self._found[key] = (path.name, offset)
                        elif line.strip():
                            wrong.append(number)
                    offset, done = offset + len(line), number
        except OSError as error:
            name_once(path, f"not to be read ({error.strerror})")
            return
        if wrong:
            name_once(path, "no reply of a judge", wrong)
        self._read_to[path.name] = (offset, done)

    def add(self, key: bytes, reply: Reply) -> None:
        """Append a reply; from here on it survives the death of this process."""
        line = b'{"key": "%s", "reply": %s}\n' % (
            key.hex().encode(),
            json.dumps(reply, ensure_ascii=False).encode("utf-8", "backslashreplace"),
        )
        path = self.folder / self._own
        with writing(path):
            if self._out is None:
                self._out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_EXCL, 0o644)
            if os.write(self._out, line) != len(line):  # what follows the torn line would be lost with it
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        self._found[key] = (self._own, self._size)
        self._size += len(line)

    def sync(self) -> None:
        """Have what was added on disk, where other hosts see it."""
        if self._out is not None:
            os.fsync(self._out)

    def read(self, key: bytes) -> Reply | None:
        """Return a reply that is there, or None."""
        if key not in self._found:
            return None
        name, offset = self._found[key]
        if name not in self._shards:
            if len(self._shards) >= OPEN_SHARDS:
                self._close_shards()
            self._shards[name] = (self.folder / name).open("rb")
        self._shards[name].seek(offset)
        return _reply(self._shards[name].readline())

    def _close_shards(self) -> None:
        for shard in self._shards.values():
            shard.close()
        self._shards.clear()


def read_line(line: bytes) -> tuple[bytes, Reply] | None:
    """Return key and reply of a line of a shard; None where it is torn or something else."""
    key = _key(line)
    reply = None if key is None or not line.endswith(b"\n") else _reply(line)
    return None if key is None or reply is None else (key, reply)


def _key(line: bytes) -> bytes | None:
    try:
        return bytes.fromhex(line[KEY].decode("ascii")) if line.startswith(PREFIX) else None
    except ValueError:
        return None


def _reply(line: bytes) -> Reply | None:
    """Return the reply in a line of a shard; None where the line is broken."""
    try:
        row = json_value(line)
    except ValueError:
        return None
    return kept_reply(row.get("reply")) if isinstance(row, dict) else None
