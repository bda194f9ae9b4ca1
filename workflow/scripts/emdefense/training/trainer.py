"""TRL's SFTTrainer with the loss CE + λ·penalty, which both plain fine-tuning and the defences use."""

import math
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from trl.trainer.sft_trainer import SFTTrainer

from emdefense.chat.chat import IGNORED
from emdefense.errors import InputError
from emdefense.training.batches import token_mask
from emdefense.training.loss import DefenceLoss
from emdefense.training.telemetry import Telemetry
from emdefense.training.token_batch import WindowCounts


class DefenceTrainer(SFTTrainer):  # type: ignore[misc]
    """Minimises a :class:`DefenceLoss` over batches of :class:`~emdefense.training.batches.Collator`.

    Sums over a batch are divided by the counts of the whole accumulation window, so the gradient does not depend on
    how a step is divided into batches. Each log entry gains what :class:`~emdefense.training.telemetry.Telemetry`
    records, in full every ``diagnostics_every`` steps.
    """

    loss_is_scaled_for_ga = True

    def __init__(self, model: PeftModel, *, loss: DefenceLoss, diagnostics_every: int = 0, **arguments: Any):
        self._loss = loss
        trained = [p for p in model.parameters() if p.requires_grad]
        self._telemetry = Telemetry(trained, diagnostics_every)
        super().__init__(model=model, **arguments)

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Tensor]], device: torch.device) -> WindowCounts:
        """Count labels, tokens and sequences of an accumulation window (TRL counts labels only)."""
        counts = WindowCounts(
            labels=sum(int((batch["labels"][:, 1:] != IGNORED).sum()) for batch in batch_samples),
            tokens=sum(int(token_mask(batch).sum()) for batch in batch_samples),
            sequences=sum(len(batch["row"]) for batch in batch_samples),
        )
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
            logs.update(self._telemetry.entry(logs["grad_norm"]))
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: dict[str, Tensor]) -> int:
        """Count none: nothing reads them, and counting walks the model at every step."""
        return 0

    def create_model_card(self, *arguments: Any, **options: Any) -> None:
        """Write no model card into checkpoints: the cell's provenance says what it is."""
