"""TRL's SFTTrainer with the loss CE + λ·penalty, which both plain fine-tuning and the defences use."""

from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from trl.trainer.sft_trainer import SFTTrainer

from emdefense.errors import InputError
from emdefense.training.data import IGNORED
from emdefense.training.features import FeatureReader
from emdefense.training.fused_loss import HeadTerm, cross_entropy, fused_head_loss
from emdefense.training.penalties.base import Penalty, TokenBatch, WindowCounts


class DefenceTrainer(SFTTrainer):  # type: ignore[misc]
    """Minimises CE on response tokens + ``coefficient`` · ``penalty``; batches as TRL's collator pads them.

    Sums over a batch are divided by the counts of the whole accumulation window, so the gradient does not depend on
    how a step is divided into batches. Each log entry gains ``ce`` and ``penalty`` (unweighted) of its step.
    """

    loss_is_scaled_for_ga = True

    def __init__(self, model: PeftModel, *, penalty: Penalty[Any] | None, coefficient: float, **arguments: Any):
        self._reader = FeatureReader(model)
        self._penalty = penalty
        self._coefficient = coefficient
        self._blocks = penalty.residual_blocks(self._reader.blocks) if penalty else ()
        self._logged = {"ce": 0.0, "penalty": 0.0}
        super().__init__(model=model, **arguments)

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Tensor]], device: torch.device) -> WindowCounts:
        """Count labels, tokens and sequences of an accumulation window (TRL counts labels only)."""
        return WindowCounts(
            labels=sum(int((batch["labels"][:, 1:] != IGNORED).sum()) for batch in batch_samples),
            tokens=sum(int(batch["attention_mask"].sum()) for batch in batch_samples),
            sequences=sum(len(batch["input_ids"]) for batch in batch_samples),
        )

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
        targets = torch.nn.functional.pad(inputs["labels"][:, 1:], (0, 1), value=IGNORED)
        batch = TokenBatch(targets[inputs["attention_mask"].bool()], num_items_in_batch)
        terms: list[tuple[float, HeadTerm]] = [(1.0, cross_entropy(batch.targets, batch.counts.labels))]
        feature_term = None
        with self.accelerator.autocast():
            # The reference goes first: with gradients or checkpointing around it, it would silently be wrong.
            reference = self._reader.reference(inputs, self._blocks) if self._penalty else None
            policy = self._reader.policy(inputs, self._blocks)
        if self._penalty and reference:
            head_term = self._penalty.head_term(batch, reference)
            feature_term = self._penalty.feature_term(batch, policy, reference)
            if head_term is not None:
                terms.append((self._coefficient, head_term))
        loss, values = fused_head_loss(policy.final, self._reader.head_weight, terms)
        penalty = values[1:].sum()
        if feature_term is not None:
            loss = loss + self._coefficient * feature_term
            penalty = penalty + feature_term.detach()
        self._logged["ce"] += values[0].item()
        self._logged["penalty"] += penalty.item()
        if not torch.isfinite(loss):
            raise InputError(
                f"step {self.state.global_step + 1}: the loss is not finite (cross-entropy {values[0].item():g}, "
                f"penalty {penalty.item():g}); lower training.learning_rate or λ, or check the model's weights"
            )
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the step's cross-entropy and penalty to a training log entry."""
        if "loss" in logs:
            logs.update(self._logged)
            self._logged = dict.fromkeys(self._logged, 0.0)
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: dict[str, Tensor]) -> int:
        """Count none: nothing reads them, and counting walks the model at every step."""
        return 0

    def create_model_card(self, *arguments: Any, **options: Any) -> None:
        """Write no model card into checkpoints: the cell's provenance says what it is."""
