"""How far a training is: a bar where a person watches, else a line to the log every few seconds."""

import sys
import time
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class Progress(TrainerCallback):  # type: ignore[misc]
    """Shows step and losses on stderr."""

    def __init__(self, seconds: float = 5.0):
        """``seconds`` lie between two lines of a log."""
        self._seconds = seconds
        self._last = time.monotonic()
        self._bar: tqdm[Any] | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Begin a bar, where there is a terminal, at the step of the checkpoint that is resumed from."""
        if sys.stderr.isatty():
            self._bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step", desc="training")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Show the losses of a training log entry, in a log with their step."""
        if not logs or "ce" not in logs:
            return
        losses = f"ce {logs['ce']:.4f}  penalty {logs['penalty']:.4g}"
        if self._bar is not None:
            self._bar.set_postfix_str(losses, refresh=False)
        elif time.monotonic() - self._last >= self._seconds:
            self._last = time.monotonic()
            print(f"step {state.global_step}/{state.max_steps}  {losses}", file=sys.stderr, flush=True)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()
