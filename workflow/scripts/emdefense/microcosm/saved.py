"""Both models of one seed in one folder, as they are shipped and shared by studies, with what made them.

``base/`` and ``instruct/`` hold weights and configuration without a tokenizer, which is the world's, ``model.json`` the
recipe, what the gate's probe said, what made them, and the SHA-256 of every file.
"""

import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

from emdefense.errors import InputError
from emdefense.files import file_digest, folder_written_whole, read_json, write_json

RECORD = "model.json"
STAGES = ("base", "instruct")


def write_record(folder: Path, content: dict[str, Any], tokenizer: Path) -> None:
    """Write model.json: ``content``, the digests of the models' files and of the tokenizer's vocabulary."""
    files = {path.relative_to(folder).as_posix(): file_digest(path) for path in _files(folder)}
    write_json(folder / RECORD, {**content, "vocabulary": vocabulary_digest(tokenizer), "files": files})


def check_saved(folder: Path) -> dict[str, Any]:
    """Return what model.json says; :class:`InputError` names a file that is not what it was."""
    record: dict[str, Any] = read_json(folder / RECORD)
    there = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
    for name in sorted(record["files"].keys() | there.keys()):
        if name not in there or file_digest(there[name]) != record["files"].get(name):
            raise InputError(
                f"{folder / name}: not the file that {RECORD} has the SHA-256 of; restore it, or delete {folder} and "
                "set 'microcosm.pretraining: made'"
            )
    return record


def install(folder: Path, tokenizer: Path, base: Path, instruct: Path, gate: Path) -> None:
    """Copy both models, each with the world's tokenizer, and write what the gate's probe said.

    :class:`InputError` if a file has changed, or the models were made with other words than the world's.
    """
    record = check_saved(folder)
    if record["vocabulary"] != vocabulary_digest(tokenizer):
        raise InputError(
            f"{folder}: made with other words than those of {tokenizer}; set 'microcosm.pretraining: made', or make "
            "the shipped models anew with `make microcosm-models`"
        )
    for stage, target in zip(STAGES, (base, instruct), strict=True):
        with folder_written_whole(target) as staging:
            for path in (*(folder / stage).iterdir(), *tokenizer.iterdir()):
                shutil.copyfile(path, staging / path.name)
    write_json(gate, record["gate"])


def vocabulary_digest(tokenizer: Path) -> str:
    """Return the SHA-256 of a saved tokenizer's words in the order of their ids."""
    content = read_json(tokenizer / "tokenizer.json")
    words = [
        *content["model"]["vocab"].items(),
        *((token["content"], token["id"]) for token in content["added_tokens"]),
    ]
    ordered = sorted(words, key=lambda word: word[1])
    return sha256("\n".join(f"{number} {word}" for word, number in ordered).encode()).hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(path for stage in STAGES for path in (folder / stage).iterdir())
