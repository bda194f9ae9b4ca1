"""Checkpoints by time, in a folder that the workflow does not know, and the choice of the one to resume from."""

import shutil
import sys
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from emdefense.errors import InputError
from emdefense.files import read_json, write_json

FOLDER = ".checkpoints"
IDENTITY = "identity.json"


def resume_point(folder: Path, identity: dict[str, Any]) -> Path | None:
    """Return the newest whole checkpoint of a training with the same ``identity``, or None.

    Checkpoints of another identity (settings, data or model) are removed with a warning: resuming from them would mix
    two trainings. Afterwards ``folder`` exists and is marked with ``identity``.
    """
    if any(folder.glob("checkpoint-*")) and _identity_of(folder) != identity:
        print(f"warning: {folder} holds checkpoints of other settings, data or model; discarding them", file=sys.stderr)
        shutil.rmtree(folder)
    write_json(folder / IDENTITY, identity)
    whole = [path for path in folder.glob("checkpoint-*") if _is_whole(path)]
    return max(whole, key=_step, default=None)


def _identity_of(folder: Path) -> Any:
    try:
        return read_json(folder / IDENTITY)
    except InputError:
        return None


def _is_whole(checkpoint: Path) -> bool:
    """Whether the file that the trainer writes last can be read."""
    try:
        read_json(checkpoint / "trainer_state.json")
    except InputError:
        return False
    return True


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


class TimedCheckpoints(TrainerCallback):  # type: ignore[misc]
    """Asks for a checkpoint whenever ``minutes`` have passed since the last one."""

    def __init__(self, minutes: float):
        self._seconds = 60 * minutes
        self._last = time.monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Set ``should_save``, except after the last step, when the adapter itself is written."""
        if time.monotonic() - self._last >= self._seconds and state.global_step < state.max_steps:
            control.should_save = True
            self._last = time.monotonic()
        return control


class Progress(TrainerCallback):  # type: ignore[misc]
    """Prints a line to stderr every few seconds."""

    def __init__(self, seconds: float = 5.0):
        self._seconds = seconds
        self._last = time.monotonic()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Print step and losses of a training log entry."""
        if logs and "ce" in logs and time.monotonic() - self._last >= self._seconds:
            self._last = time.monotonic()
            line = f"step {state.global_step}/{state.max_steps}  ce {logs['ce']:.4f}  penalty {logs['penalty']:.4g}"
            print(line, file=sys.stderr, flush=True)
