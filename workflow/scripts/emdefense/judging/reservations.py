"""Who asks what: so that two processes that judge the same responses at once do not pay for one request twice.

Before it asks, a process writes the keys of its next requests into a claim file of its own in the cache's folder, under
a lock that is held for milliseconds. Nobody asks what another one has claimed. A claim ends when its file goes, when
its process is dead (on this host), or when it has been silent for ``SILENCE`` seconds.

The lock, the claims and the shards lie in one folder on purpose: making the lock file there has a network file system's
client look at the folder again. Ages are differences between two files' times, hence of one clock, the file server's.
What is no claim is named once and left out.
"""

import json
import os
import socket
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import LeaseSettingsMismatch, SoftFileLease, Timeout

from emdefense.errors import InputError
from emdefense.files import write_text
from emdefense.judging.cache import Cache
from emdefense.judging.foreign import name_once, regular_files

SILENCE = 90.0  # seconds after which a claim is void
BEAT = 15.0  # seconds between two signs of life
LOCK_LEASE = 20.0  # seconds after which the lock of a host that vanished may be taken
LOCK_TIMEOUT = 60.0  # seconds to wait for a lock that is held for milliseconds


@dataclass(frozen=True)
class Reservation:
    """What the process ``owner`` is asking: ``keys``, of the ``judge`` of that name; ``reserved`` USD of ``ledger``."""

    owner: str
    keys: frozenset[bytes]
    judge: str
    ledger: str
    reserved: float


class Reservations:
    """This process's claim, and those of the others that are alive."""

    def __init__(self, cache: Cache, judge: str, ledger: str = ""):
        """``judge`` says who shares an endpoint's limits, ``ledger`` who shares a budget."""
        self.cache, self.judge, self.ledger = cache, judge, ledger
        self.held: set[bytes] = set()
        self._said: set[str] = set()
        self._path = cache.folder / f"{cache.owner}.claim"

    @contextmanager
    def locked(self) -> Iterator[list[Reservation]]:
        """Hold the cache's lock, with all that others have added and claimed known.

        :class:`InputError` says who holds it if it cannot be had in ``LOCK_TIMEOUT`` seconds.
        """
        with self._lock():
            if not self._path.exists():
                self.write(())
            self.beat()
            others = self.others()
            self.cache.refresh()  # after: who ends meanwhile gives up a claim whose replies are there
            yield others

    @contextmanager
    def _lock(self) -> Iterator[None]:
        path = self.cache.folder / ".lock"
        lock = SoftFileLease(path, lease_duration=LOCK_LEASE, poll_interval=0.02, timeout=LOCK_TIMEOUT)
        try:
            lock.acquire()
        except (Timeout, LeaseSettingsMismatch):
            holder = lock.owner
            if holder is None and (said := _old_holder(path)) is None:
                # No live process leaves its lock without a name for so long.
                name_once(path, "a lock without an owner")
                path.unlink(missing_ok=True)
                lock.acquire()
            else:
                who = f"process {holder.pid} on {holder.hostname}" if holder else said
                raise InputError(
                    f"{path}: held by {who} for {LOCK_TIMEOUT:g} s; end it, or delete the file if it has ended"
                ) from None
        except OSError as error:
            raise InputError(f"{path}: the lock cannot be made there ({error.strerror}); mend that") from None
        try:
            yield
        finally:
            lock.release()

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

    def others(self) -> list[Reservation]:
        """Return the claims of the other processes that are alive."""
        found = []
        for path, _ in regular_files(self.cache.folder, ".claim"):
            try:
                if path == self._path:
                    continue
                if not self._is_alive(path):
                    path.unlink()
                    continue
                found.append(_read_claim(path))
            except FileNotFoundError:
                continue
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError):
                name_once(path, "no claim of a judging process")
        return found

    def say_who(self, judge: str, others: Iterable[Reservation], wanted: Collection[bytes]) -> None:
        """Say on stderr, once of each, which of ``others`` asks what is ``wanted`` here."""
        for other in others:
            count = sum(key in other.keys for key in wanted)
            if count and other.owner not in self._said:
                self._said.add(other.owner)
                host, pid, _ = other.owner.rsplit("-", 2)
                who = f"process {pid} on {host}, which asks {count} of the same requests"
                print(f"judge '{judge}': waiting for {who}", file=sys.stderr, flush=True)

    def beat(self) -> None:
        """Give a sign of life; without the lock, so that no claim is written here."""
        with suppress(FileNotFoundError):
            os.utime(self._path)

    def close(self) -> None:
        """Give up what is claimed."""
        self.cache.sync()
        self._path.unlink(missing_ok=True)

    def _is_alive(self, path: Path) -> bool:
        if self._path.exists() and abs(self._path.stat().st_mtime - path.stat().st_mtime) > SILENCE:
            return False
        host, pid, _ = path.stem.rsplit("-", 2)
        if host != socket.gethostname():
            return True
        try:
            os.kill(int(pid), 0)
        except (ProcessLookupError, OverflowError):
            return False
        except PermissionError:
            pass
        return True


def _read_claim(path: Path) -> Reservation:
    """Return the claim in a file; one of several errors if there is none."""
    content = json.loads(path.read_text(encoding="utf-8"))
    keys = frozenset(map(bytes.fromhex, content["keys"]))
    judge, ledger, reserved = content["judge"], content["ledger"], float(content["reserved"])
    if not (isinstance(judge, str) and isinstance(ledger, str) and 0 <= reserved < float("inf")):
        raise ValueError("not a claim")
    return Reservation(path.stem, keys, judge, ledger, reserved)


def _old_holder(path: Path) -> str | None:
    """Return who holds a lock of the form that earlier releases wrote, process and host in a line each."""
    try:
        pid, host = path.read_text(encoding="utf-8").splitlines()[:2]
    except (OSError, ValueError):
        return None
    return f"process {pid} on {host}" if pid.isdigit() else None
