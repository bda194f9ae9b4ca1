"""Models in one GGUF file, which become folders as other models are."""

from functools import partial
from importlib.util import find_spec
from pathlib import Path

from emdefense.config.sources import GgufSource, PackageSource
from emdefense.errors import InputError
from emdefense.sources.fetched import Fetched

MAGIC = b"GGUF"


def check_gguf_package() -> None:
    """Raise :class:`InputError` if what reads GGUF files is not installed here."""
    if find_spec("gguf") is None:
        raise InputError("key 'sources': GGUF files need the package gguf; install it (pip install gguf==0.19.0)")


def convert_gguf(source: GgufSource | PackageSource, raw: Path) -> Fetched:
    """Return a folder with the model of a GGUF file, its weights dequantised, once the file is known to be one."""
    if raw.is_dir():
        raise InputError(f"{raw}: a folder; name the GGUF file in it")
    with raw.open("rb") as content:
        if content.read(len(MAGIC)) != MAGIC:
            raise InputError(f"{raw}: no GGUF file; fetch it again, or name another file")
    return Fetched({"NAME": partial(_save, raw)})


def _save(raw: Path, folder: Path) -> None:
    from emdefense.sources.gguf_model import save_model  # here, as it imports torch

    save_model(raw, folder)
