"""TRL's SFTTrainer with the loss CE + λ·penalty, which both plain fine-tuning and the defences use."""

import math
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import DataLoaderShard
from peft import PeftModel
from torch import Tensor
from torch.utils.data import DataLoader
from trl.trainer.sft_trainer import SFTTrainer

from emdefense.chat.chat import IGNORED
from emdefense.errors import InputError
from emdefense.training.batches import token_mask
from emdefense.training.loss import DefenceLoss
from emdefense.training.parallel import Processes, ShareOfBatches
from emdefense.training.penalties.base import WindowCounts
from emdefense.training.telemetry import Telemetry


class DefenceTrainer(SFTTrainer):  # type: ignore[misc]
    """Minimises a :class:`DefenceLoss` over batches of :class:`~emdefense.training.batches.Collator`.

    Sums over a batch are divided by the counts of the whole accumulation window, so the gradient does not depend on
    how a step is divided into batches. Each log entry gains what :class:`~emdefense.training.telemetry.Telemetry`
    records, in full every ``diagnostics_every`` steps. One of several ``processes`` works on its share of each step's
    batches, and takes the steps that one process would.
    """

    loss_is_scaled_for_ga = True

    def __init__(
        self, model: PeftModel, *, loss: DefenceLoss, processes: Processes, diagnostics_every: int = 0, **arguments: Any
    ):
        self._loss = loss
        self._processes = processes
        self._trained = [p for p in model.parameters() if p.requires_grad]
        self._telemetry = Telemetry(self._trained, diagnostics_every, processes)
        super().__init__(model=model, **arguments)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the batches of this process, in the order in which one process has them."""
        loader: DataLoader[Any] = super().get_train_dataloader()
        if self._processes.count == 1:
            return loader
        window = self.args.gradient_accumulation_steps * self._processes.count
        share = ShareOfBatches(loader.batch_sampler, window, self._processes)  # type: ignore[arg-type]
        options = {"collate_fn": loader.collate_fn, "pin_memory": loader.pin_memory}
        loader = DataLoaderShard(loader.dataset, self.args.device, batch_sampler=share, **options)
        return loader

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Tensor]], device: torch.device) -> WindowCounts:
        """Count labels, tokens and sequences of an accumulation window (TRL counts labels only)."""
        own = (
            sum(int((batch["labels"][:, 1:] != IGNORED).sum()) for batch in batch_samples),
            sum(int(token_mask(batch).sum()) for batch in batch_samples),
            sum(len(batch["row"]) for batch in batch_samples),
        )
        counts = WindowCounts(*map(int, self._processes.total(own)))
        self._telemetry.begin(self.state.global_step + 1, self.state.max_steps, counts.tokens)
        return counts

    def compute_loss(
        self,
        model: PeftModel,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: WindowCounts | None = None,
    ) -> Tensor:
        """Return the batch's share of the step's loss, a scalar; :class:`InputError` if it is not finite."""
        if num_items_in_batch is None or return_outputs:
            raise ValueError("the loss exists for training only, where the window's counts are known")
        if len(inputs["row"]) == 0:
            return torch.zeros((), device=self.args.device, requires_grad=True)
        with self.accelerator.autocast():
            loss = self._loss(inputs, num_items_in_batch, self._telemetry.dissects)
        ce, penalty = loss.ce.item(), loss.penalty.item()
        if not torch.isfinite(loss.total):
            raise InputError(
                f"step {self.state.global_step + 1}: the loss is not finite (cross-entropy {ce:g}, "
                f"penalty {penalty:g}); lower training.learning_rate or λ, or check the model's weights"
            )
        self._telemetry.add(ce, penalty, loss.parts)
        return loss.total

    def training_step(self, *arguments: Any, **options: Any) -> Tensor:
        """Add a batch's gradient to the step's; with the last one, add up the processes'."""
        loss: Tensor = super().training_step(*arguments, **options)
        if self.accelerator.sync_gradients:
            self._processes.add_up_gradients(self._trained)
        return loss

    def _get_grad_norm(self, model: PeftModel, grad_norm: Tensor | None = None) -> float:
        """Return the gradient's norm before clipping; :class:`InputError` if it is not finite, before it is used."""
        norm = float(super()._get_grad_norm(model, grad_norm))
        if not math.isfinite(norm):
            raise InputError(
                f"step {self.state.global_step + 1}: the gradient is not finite though the loss is; lower "
                "training.learning_rate or λ"
            )
        return norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add what was recorded of the step to a training log entry."""
        if "loss" in logs:
            (logs["loss"],) = self._processes.total([logs["loss"]])
            logs.update(self._telemetry.entry(logs["grad_norm"]))
        super().log(logs, start_time)

    def _save_checkpoint(self, model: PeftModel, trial: Any) -> None:
        """Save model, optimiser and state once, and every process's random state."""
        if self._processes.first:
            super()._save_checkpoint(model, trial)
        else:
            self._save_rng_state(str(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"))

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(self._own(output_dir))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(self._own(checkpoint) if checkpoint else None)

    def _own(self, checkpoint: str) -> str:
        """Return the folder for what every process saves for itself."""
        return checkpoint if self._processes.first else str(Path(checkpoint) / f"process-{self._processes.rank}")

    def floating_point_ops(self, inputs: dict[str, Tensor]) -> int:
        """Count none: nothing reads them, and counting walks the model at every step."""
        return 0

    def create_model_card(self, *arguments: Any, **options: Any) -> None:
        """Write no model card into checkpoints: the cell's provenance says what it is."""
