"""The same adapter asked the same questions in the same way is asked once."""

import json
import shutil
import sys
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from emdefense.files import file_digest, read_json, write_json, written_whole
from emdefense.model_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, model_files
from emdefense.provenance import record_beside
from emdefense.text_files import check_regular


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
    What else lies in their folders does not count.
    """
    stats = [(path, path.stat()) for path in model_files(model) if path.is_file()]
    parts = {
        "spec": spec,
        "model": [str(model.resolve()), *((path.name, stat.st_size, stat.st_mtime_ns) for path, stat in stats)],
        "adapter": None if adapter is None else list(adapter_digests(adapter).items()),
        "questions": file_digest(questions),
    }
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def adapter_digests(adapter: Path) -> dict[str, str]:
    """Return the SHA-256 of each of an adapter's files, by name; :class:`InputError` if one cannot be read."""
    digests = {}
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        check_regular(adapter / name)
        digests[name] = file_digest(adapter / name)
    return digests
