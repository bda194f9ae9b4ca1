"""Who asks what: so that two processes that judge the same responses at once do not pay for one request twice.

Before it asks, a process writes the keys of its next requests into a claim file of its own in the cache's folder, under
a lock that is held for milliseconds. Nobody asks what another one has claimed. A claim ends when its file goes, when
its process is dead (on this host), or when it has been silent for ``SILENCE`` seconds.

The lock, the claims and the shards lie in one folder on purpose: making the lock file there has a network file system's
client look at the folder anew. Ages are differences between two files' times, hence of one clock, the file server's.
"""

import json
import os
import socket
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import SoftFileLease

from emdefense.files import write_text
from emdefense.judging.cache import Cache

SILENCE = 90.0  # seconds after which a claim is void
BEAT = 15.0  # seconds between two signs of life
LOCK_LEASE = 20.0  # seconds after which the lock of a host that vanished may be taken


@dataclass(frozen=True)
class Claim:
    """What another process is asking: ``keys``, of the ``judge`` of that name; ``reserved`` USD of ``ledger``."""

    keys: frozenset[bytes]
    judge: str
    ledger: str
    reserved: float


class Claims:
    """This process's claim, and those of the others that are alive."""

    def __init__(self, cache: Cache, judge: str, ledger: str = ""):
        """``judge`` says who shares an endpoint's limits, ``ledger`` who shares a budget."""
        self.cache, self.judge, self.ledger = cache, judge, ledger
        self.held: set[bytes] = set()
        self._path = cache.folder / f"{cache.owner}.claim"

    @contextmanager
    def locked(self) -> Iterator[list[Claim]]:
        """Hold the cache's lock, with all that others have added and claimed known."""
        lock = SoftFileLease(self.cache.folder / ".lock", lease_duration=LOCK_LEASE, poll_interval=0.02)
        with lock:
            self.beat()
            self.cache.refresh()
            yield self.others()

    def write(self, held: Collection[bytes], reserved: float = 0.0) -> None:
        """Claim these keys and no others; to be called under the lock."""
        self.cache.sync()  # nobody may miss both a claim and its reply
        self.held = set(held)
        content = {
            "judge": self.judge,
            "ledger": self.ledger,
            "reserved": reserved,
            "keys": sorted(key.hex() for key in self.held),
        }
        write_text(self._path, json.dumps(content) + "\n")

    def others(self) -> list[Claim]:
        """Return the claims of the other processes that are alive."""
        found = []
        for path in sorted(self.cache.folder.glob("*.claim")):
            try:
                if path == self._path:
                    continue
                if not self._is_alive(path):
                    path.unlink()
                    continue
                content = json.loads(path.read_text(encoding="utf-8"))
                found.append(Claim(frozenset(map(bytes.fromhex, content.pop("keys"))), **content))
            except FileNotFoundError:
                continue
        return found

    def beat(self) -> None:
        """Give a sign of life."""
        if not self._path.exists():
            write_text(self._path, json.dumps({"judge": self.judge, "ledger": self.ledger, "reserved": 0, "keys": []}))
        os.utime(self._path)

    def close(self) -> None:
        """Give up what is claimed."""
        self.cache.sync()
        self._path.unlink(missing_ok=True)

    def _is_alive(self, path: Path) -> bool:
        if self._path.exists() and self._path.stat().st_mtime - path.stat().st_mtime > SILENCE:
            return False
        host, pid, _ = path.stem.rsplit("-", 2)
        if host != socket.gethostname():
            return True
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True
