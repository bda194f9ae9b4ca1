"""The same adapter asked the same questions in the same way is asked once."""

import json
import shutil
import sys
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from emdefense.files import file_digest, read_json, write_json, written_whole
from emdefense.provenance import record_beside


class ReuseStore:
    """A folder of notes, named by what an output depends on, that say where such an output lies."""

    def __init__(self, folder: Path | None):
        """``folder`` is made when needed; with None, nothing is ever reused."""
        self.folder = folder

    def copy_to(self, output: Path, key: str) -> bool:
        """Copy an earlier output of this key to ``output``; False if there is none, or it was changed since.

        Its record is copied too, and says where it is from.
        """
        if self.folder is None or not (self.folder / key).is_file():
            return False
        note = json.loads((self.folder / key).read_text(encoding="utf-8"))
        earlier = Path(note["path"])
        if not earlier.is_file() or file_digest(earlier) != note["sha256"] or not record_beside(earlier).is_file():
            return False
        if earlier.resolve() != output.resolve():
            record = {"copied_from": str(earlier), **read_json(record_beside(earlier))}
            write_json(record_beside(output), record)
            with written_whole(output) as temporary:
                shutil.copyfile(earlier, temporary)
        print(f"{output}: the same adapter was asked the same before; copied from {earlier}", file=sys.stderr)
        return True

    def remember(self, output: Path, key: str) -> None:
        """Note that ``output`` is what this key gives."""
        if self.folder is not None:
            write_json(self.folder / key, {"path": str(output), "sha256": file_digest(output)})


def reuse_key(spec: Mapping[str, Any], model: Path, adapter: Path | None, questions: Path) -> str:
    """Return a SHA-256 of all that an output depends on.

    Adapter and questions count by content; the model's files, which may be large, by name, size and time of change.
    """
    stats = [(path, path.stat()) for path in sorted(model.iterdir()) if path.is_file()]
    parts = {
        "spec": spec,
        "model": [str(model.resolve()), *((path.name, stat.st_size, stat.st_mtime_ns) for path, stat in stats)],
        "adapter": None if adapter is None else [(p.name, file_digest(p)) for p in sorted(adapter.iterdir())],
        "questions": file_digest(questions),
    }
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
