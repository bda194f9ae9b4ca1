"""A Hugging Face cache as a download leaves it, made of a local folder."""

import shutil
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cache_model(cache: Path, repository: str, folder: Path, commit: str = COMMIT, branch: str = "main") -> Path:
    """Put a model's files into a cache, links to blobs as the hub's client makes them; return its snapshot."""
    storage = cache / f"models--{repository.replace('/', '--')}"
    snapshot, blobs = storage / "snapshots" / commit, storage / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir(exist_ok=True)
    for path in folder.iterdir():
        blob = blobs / f"{commit}-{path.name}"
        shutil.copyfile(path, blob)
        (snapshot / path.name).symlink_to(f"../../blobs/{blob.name}")
    (storage / "refs").mkdir(exist_ok=True)
    (storage / "refs" / branch).write_text(commit)
    return snapshot
