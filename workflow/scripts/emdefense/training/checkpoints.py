"""Checkpoints by time, in a folder that the workflow does not know, and the choice of the one to resume from.

``.checkpoints/<digest of settings, data and model>/checkpoint-<step>/``: a training with other settings has a folder
of its own, so neither harms the other. The last file of a checkpoint lists the sizes of all others.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from emdefense.errors import InputError
from emdefense.files import read_json, write_json

FOLDER = ".checkpoints"
IDENTITY = "identity.json"
MANIFEST = "manifest.json"


def folder_of(cell: Path, identity: dict[str, Any]) -> Path:
    """Return where a training with this ``identity`` (settings, data and model) keeps its checkpoints."""
    return cell / FOLDER / sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def resume_point(folder: Path, identity: dict[str, Any]) -> Path | None:
    """Return the newest whole checkpoint in ``folder``, or None; the others in it are removed.

    A line on stderr names the newest checkpoint of each other identity; it is left as it is.
    """
    for other in sorted(folder.parent.glob("*")):
        if other != folder and (kept := newest_whole(other)):
            print(
                f"warning: {kept} is of a training that differs in {_differences(other, identity)}; it is kept for "
                "that one, and this one does not use it; delete it if you do not want it back",
                file=sys.stderr,
            )
    write_json(folder / IDENTITY, identity)
    newest = newest_whole(folder)
    _remove_all_but(newest, folder)
    return newest


def newest_whole(folder: Path) -> Path | None:
    """Return the newest checkpoint in ``folder`` whose files are all there in full length, or None."""
    return max(filter(_is_whole, folder.glob("checkpoint-*")), key=step_of, default=None)


def step_of(checkpoint: Path) -> int:
    """Return the step after which a checkpoint was saved."""
    return int(checkpoint.name.rpartition("-")[2])


def mark_whole(checkpoint: Path) -> None:
    """List the files of a checkpoint in its manifest, when all of them are on the disk."""
    files = [path for path in sorted(checkpoint.rglob("*")) if path.is_file() and path.name != MANIFEST]
    for path in files:
        with path.open("rb") as content:
            os.fsync(content.fileno())
    write_json(checkpoint / MANIFEST, {str(path.relative_to(checkpoint)): path.stat().st_size for path in files})


def discard(folder: Path) -> None:
    """Remove the checkpoints of a training that is finished."""
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # those of other settings are still there
        folder.parent.rmdir()


def _is_whole(checkpoint: Path) -> bool:
    try:
        sizes = read_json(checkpoint / MANIFEST)
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (InputError, OSError):
        return False


def _remove_all_but(kept: Path | None, folder: Path) -> None:
    for path in folder.glob("checkpoint-*"):
        if path != kept:
            shutil.rmtree(path, ignore_errors=True)


def _differences(folder: Path, identity: dict[str, Any]) -> str:
    """Return the keys in which the training whose checkpoints ``folder`` holds differs, with both values."""
    try:
        theirs, ours = _flat(read_json(folder / IDENTITY)), _flat(identity)
    except InputError:
        return "settings that are not known"
    keys = [key for key in sorted(theirs | ours) if theirs.get(key) != ours.get(key)]
    named = ", ".join(f"{key} ({theirs.get(key)}, now {ours.get(key)})" for key in keys[:3])
    return named + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix.rstrip("."): value}
    return {key: leaf for name in value for key, leaf in _flat(value[name], f"{prefix}{name}.").items()}


class TimedCheckpoints(TrainerCallback):  # type: ignore[misc]
    """Asks for a checkpoint whenever ``minutes`` have passed since the last one, and keeps the newest."""

    def __init__(self, minutes: float, save: Callable[[Path], None] = lambda folder: None):
        """``save`` writes into a checkpoint what the trainer does not know of."""
        self._seconds, self._save = 60 * minutes, save
        self._last = time.monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Set ``should_save``, except after the last step, when the adapter itself is written."""
        due = time.monotonic() - self._last >= self._seconds
        if due and state.global_step < state.max_steps:
            control.should_save = True
            self._last = time.monotonic()
        return control

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Mark the checkpoint as whole; only then remove the one before."""
        newest = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        self._save(newest)
        mark_whole(newest)
        _remove_all_but(newest, newest.parent)
