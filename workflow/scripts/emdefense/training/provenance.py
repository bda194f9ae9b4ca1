"""What made an adapter: code, packages, data, model and machine."""

import os
import platform
from collections.abc import Sequence
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import emdefense
from emdefense.errors import InputError
from emdefense.files import file_digest

EDGE = 1 << 20  # bytes hashed at each end of a weight file


def code_digest() -> str:
    """Return the SHA-256 of every Python file of this package, names included."""
    folder = Path(emdefense.__file__).parent
    digest = sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder).as_posix()}\0".encode())
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()


def package_versions(names: Sequence[str]) -> dict[str, str]:
    """Return the installed version of each package."""
    return {name: version(name) for name in names}


def model_identity(folder: Path) -> dict[str, str]:
    """Return a model's folder, the SHA-256 of its config, and a digest that changes with its weights.

    Of each weight file, the size and the first and last MiB are hashed: all of a small model, and of a large one enough
    to tell it from any other, without reading it twice. Raises :class:`InputError` if there is no config.
    """
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: there is no config.json; name a folder with a saved model")
    digest = sha256()
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as content:
            digest.update(content.read(EDGE))
            content.seek(max(EDGE, size - EDGE))
            digest.update(content.read(EDGE))
    return {
        "folder": str(folder),
        "config_sha256": file_digest(folder / "config.json"),
        "weights_digest": digest.hexdigest(),
    }


def machine() -> dict[str, Any]:
    """Return the machine's architecture, processor and number of cores."""
    processor = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        models = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        processor = models[0] if models else processor
    return {"architecture": platform.machine(), "processor": processor, "cores": os.cpu_count()}
