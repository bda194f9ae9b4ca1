"""What is written down of a model that was asked something, whether it sampled or weighed options."""

from pathlib import Path
from typing import Any

from emdefense.chat.chat import Chat
from emdefense.errors import InputError
from emdefense.files import file_digest
from emdefense.generation.reuse import adapter_digests
from emdefense.provenance import model_identity
from emdefense.section import Section


def check_folders(model: Path, adapter: Path | None) -> None:
    """Raise :class:`InputError` if the model, or the adapter that is named, is not there."""
    if not model.is_dir():
        raise InputError(f"{model}: there is no such model folder")
    if adapter is not None and not adapter.is_dir():
        raise InputError(f"{adapter}: there is no such adapter folder")


def read_by(
    settings: Section, threads: int, questions: Path, model: Path, adapter: Path | None, chat: Chat
) -> dict[str, Any]:
    """Return what an output was made from: settings, questions, model, chat template and adapter."""
    return {
        "spec": settings.model_dump(mode="json"),
        "threads": threads,
        "questions": {"file": str(questions), "sha256": file_digest(questions)},
        "model": model_identity(model),
        "chat_template": chat.identity(),
        "adapter": None if adapter is None else adapter_digests(adapter),
    }
