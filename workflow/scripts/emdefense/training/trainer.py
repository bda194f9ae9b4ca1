"""TRL's SFTTrainer with the loss CE + λ·penalty, which both plain fine-tuning and the defences use."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from trl.trainer.sft_trainer import SFTTrainer

from emdefense.arms.arguments import Step
from emdefense.chat.chat import IGNORED
from emdefense.errors import InputError
from emdefense.training.acting import Acting, sources_of
from emdefense.training.acting_arm import ActingArm
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

    def __init__(
        self,
        model: PeftModel,
        *,
        loss: DefenceLoss,
        diagnostics_every: int = 0,
        acting: Acting | None = None,
        of_stream: DefenceLoss | None = None,
        sources: Sequence[str] = (),
        **arguments: Any,
    ):
        """``of_stream`` is the penalty on a second stream, ``sources`` what marks each row by its number."""
        self._loss, self._acting, self._of_stream, self._sources = loss, acting or Acting(), of_stream, sources
        self._trained = [p for p in model.parameters() if p.requires_grad]
        self._step_sources: Mapping[str, int] = {}
        self.telemetry = Telemetry(self._trained, diagnostics_every)
        super().__init__(model=model, **arguments)

    def train(self, *arguments: Any, **options: Any) -> Any:
        """Train, the model's modules walked once and not at each step."""
        with _walked_once(self.model, self._trained):
            return super().train(*arguments, **options)

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Tensor]], device: torch.device) -> WindowCounts:
        """Count labels, tokens and sequences of an accumulation window (TRL counts labels only)."""
        counts = _counts(batch_samples)
        self.telemetry.begin(self.state.global_step + 1, self.state.max_steps, counts.tokens)
        if self._sources:
            self._step_sources = sources_of(batch_samples, self._sources)
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
            loss = self._loss(inputs, num_items_in_batch, self.telemetry.dissects)
        ce, penalty = loss.ce.item(), loss.penalty.item()
        if not torch.isfinite(loss.total):
            raise InputError(
                f"step {self.state.global_step + 1}: the loss is not finite (cross-entropy {ce:g}, "
                f"penalty {penalty:g}); lower training.learning_rate or λ, or check the model's weights"
            )
        self.telemetry.add(ce, penalty, loss.parts)
        return loss.total

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Return the arms' order of the rows, if one has one; else TRL's."""
        training, seed = self.args, self.args.seed
        per_step = training.per_device_train_batch_size * training.gradient_accumulation_steps

        def epoch() -> list[int]:
            number = int((self.state.epoch or 0.0) + 1e-6)
            sources = [self._sources[row] for row in self.train_dataset["row"]]
            return self._acting.order(sources, per_step, seed + number)

        if not self._acting.orders_rows:
            return super()._get_train_sampler(train_dataset)
        return _Ordered(epoch, len(self.train_dataset))

    def _load_from_checkpoint(self, *arguments: Any, **options: Any) -> None:
        """Load a checkpoint, after which PEFT has one adapter active."""
        super()._load_from_checkpoint(*arguments, **options)
        self._acting.activate(self.model)

    def _clip_grad_norm(self, model: PeftModel) -> Any:
        """Let arms change the step's gradient before it is clipped."""
        if self._acting.changes_gradient:
            self._change_gradient()
        return self.accelerator.clip_grad_norm_(self._trained, self.args.max_grad_norm)

    def _change_gradient(self) -> None:
        task = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._trained]
        stream, coefficient = None, 0.0
        if (arm := self._acting.of_stream) is not None:
            stream, coefficient = self._stream_gradient(), arm.coefficient
            if self.telemetry.dissects:
                self.telemetry.put_norms(task, torch._foreach_mul(stream, coefficient))
            if not arm.overrides("gradient"):
                task = list(torch._foreach_add(task, torch._foreach_mul(stream, coefficient)))

        def step(arm: ActingArm, gradients: Sequence[Tensor]) -> Step:
            return Step(
                self.state.global_step + 1,
                self.state.max_steps,
                self._trained,
                gradients,
                stream,
                self._step_sources,
                arm.state,
                lambda name, value: self.telemetry.note(f"{arm.name}.{name}", value),
            )

        for parameter, gradient in zip(self._trained, self._acting.gradients(step, task), strict=True):
            parameter.grad = gradient.to(parameter.dtype)

    def _stream_gradient(self) -> list[Tensor]:
        """Return the gradient of the penalty on the second stream's rows of this step, not multiplied by λ."""
        assert self._of_stream is not None
        rows = self._acting.stream_rows(self.state.global_step + 1)
        size = self.args.per_device_train_batch_size
        batches = [self.data_collator(rows[start : start + size]) for start in range(0, len(rows), size)]
        counts = _counts(batches)
        total: list[Tensor] = [torch.zeros_like(p) for p in self._trained]
        device = self.args.device
        # Whatever is drawn here leaves what the task's batches draw as it is.
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            for batch in batches:
                inputs = {key: value.to(device) for key, value in batch.items()}
                with self.accelerator.autocast():
                    share = self._of_stream.penalty(inputs, counts)
                self.telemetry.add(0.0, share.item(), None)
                torch._foreach_add_(total, torch.autograd.grad(share, self._trained, materialize_grads=True))
        return total

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
            logs.update(self.telemetry.entry(logs["grad_norm"]))
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: dict[str, Tensor]) -> int:
        """Count none: nothing reads them, and counting walks the model at every step."""
        return 0

    def create_model_card(self, *arguments: Any, **options: Any) -> None:
        """Write no model card into checkpoints: the cell's provenance says what it is."""


@contextmanager
def _walked_once(model: PeftModel, trained: Sequence[Tensor]) -> Iterator[None]:
    """Spare ``model.train()`` and ``model.zero_grad()``, called at each step, their walk through all modules.

    An adapter puts a dozen modules around each matrix: of a small model's step the walks are a tenth.
    """
    walk = model.train

    def train(mode: bool = True) -> PeftModel:
        return model if mode and model.training else walk(mode)

    def zero_grad() -> None:
        for parameter in trained:
            parameter.grad = None

    model.train()
    model.train, model.zero_grad = train, zero_grad
    try:
        yield
    finally:
        del model.train, model.zero_grad


def _counts(batches: Sequence[dict[str, Tensor]]) -> WindowCounts:
    """Return the counts of all batches together."""
    return WindowCounts(
        labels=sum(int((batch["labels"][:, 1:] != IGNORED).sum()) for batch in batches),
        tokens=sum(int(token_mask(batch).sum()) for batch in batches),
        sequences=sum(len(batch["row"]) for batch in batches),
    )


class _Ordered(torch.utils.data.Sampler[int]):
    """Gives the rows' places in the order of an epoch, asked for when it starts."""

    def __init__(self, epoch: Callable[[], list[int]], rows: int):
        self._epoch, self._rows = epoch, rows

    def __len__(self) -> int:
        return self._rows

    def __iter__(self) -> Iterator[int]:
        return iter(self._epoch())
