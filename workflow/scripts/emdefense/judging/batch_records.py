"""What is known of batches that were or are about to be submitted: a file each, which outlives the job that wrote it.

The file is there, with the keys in it, before anything is sent: so nobody else asks the same, and whoever finds it
after a kill looks the batch up under ``name``, which the endpoint keeps in the batch's metadata.
"""

import json
import secrets
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from emdefense.files import write_text
from emdefense.judging.cache import Cache
from emdefense.judging.foreign import name_once, read_bytes, regular_files
from emdefense.judging.ledger import Spending, write_entry

FOLDER = "batches"  # in the cache's


@dataclass
class Record:
    """A batch of requests by the ``keys`` of which it consists; ``fields`` are what they share.

    ``input_file`` and ``batch`` are the endpoint's ids, once known. ``most_usd`` stands in the ``ledger`` of ``cell``
    until the batch has ended, and then what it cost.
    """

    owner: str
    judge: str
    ledger: str
    cell: str
    keys: list[str]
    fields: dict[str, Any]
    most_usd: float
    name: str = field(default_factory=lambda: secrets.token_hex(16))
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    input_file: str | None = None
    batch: str | None = None

    def enter(self, spent: Spending) -> None:
        """Have the ledger say what the batch costs, whatever it said before."""
        write_entry(Path(self.ledger) / f"batch-{self.name}.jsonl", self.judge, self.cell, spent)


class Records:
    """The records in a cache's folder; what changes them does so under the cache's lock, or is their owner."""

    def __init__(self, cache: Cache):
        self.cache, self.folder = cache, cache.folder / FOLDER

    def path(self, record: Record) -> Path:
        """Return where a record lies."""
        return self.folder / f"{record.name}.json"

    def write(self, record: Record) -> None:
        """Write a record, whole or not at all."""
        write_text(self.path(record), json.dumps(asdict(record)) + "\n")

    def remove(self, record: Record) -> None:
        """Forget a batch of which all has been taken in, or that never was."""
        self.path(record).unlink(missing_ok=True)

    def all(self) -> list[Record]:
        """Return all records there are; what is none is named, and left out."""
        found = []
        for path, _ in regular_files(self.folder, ".json"):
            if not (content := read_bytes(path)):
                continue  # removed meanwhile
            try:
                found.append(_checked(Record(**json.loads(content)), path))
            except (ValueError, TypeError, RecursionError):
                name_once(path, "no record of a batch; what it may have asked for will be asked anew")
        return found

    def hold(self, keys: Iterable[bytes]) -> bool:
        """Whether any of these requests is in a batch that has not been taken in to the end."""
        wanted = set(keys) if (records := self.all()) else set()
        return any(not wanted.isdisjoint(map(bytes.fromhex, record.keys)) for record in records)

    def is_mine(self, record: Record) -> bool:
        """Whether this process looks after a batch."""
        return record.owner == self.cache.owner

    def is_orphan(self, record: Record) -> bool:
        """Whether nobody does; to be asked where claims of the dead have just been removed."""
        return not (self.cache.folder / f"{record.owner}.claim").exists()


def _checked(record: Record, path: Path) -> Record:
    """Return a record that is one; ValueError or TypeError if it is not."""
    texts = (record.owner, record.judge, record.ledger, record.cell, record.name)
    ids = [text for text in (record.input_file, record.batch) if text is not None]
    if not all(isinstance(text, str) for text in (*texts, *ids)) or path.stem != record.name:
        raise ValueError("not a record")
    if not isinstance(record.fields, dict) or not 0 <= record.most_usd < float("inf") or not record.keys:
        raise ValueError("not a record")
    for key in record.keys:
        bytes.fromhex(key)
    return record
