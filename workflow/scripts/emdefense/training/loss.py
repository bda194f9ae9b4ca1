"""The loss of a batch, CE + λ·penalty, of plain fine-tuning and of the defences alike."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from emdefense.training.batches import around_text, next_tokens, sequence_lengths
from emdefense.training.divergence import Divergence
from emdefense.training.features import FeatureReader, Features
from emdefense.training.fused_loss import HeadTerm, cross_entropy, fused_head_loss
from emdefense.training.penalty import Penalty
from emdefense.training.reference import LiveReference, Reference
from emdefense.training.telemetry import Parts
from emdefense.training.token_batch import TokenBatch, WindowCounts

Weighted = tuple[float, Penalty]


@dataclass(frozen=True)
class BatchLoss:
    """A batch's share of the step's loss; all scalars."""

    total: Tensor  # differentiable
    ce: Tensor
    penalty: Tensor  # not multiplied by λ; of several, their sum
    parts: Parts | None  # if the loss was to be dissected


@dataclass(frozen=True)
class _Terms:
    """What the penalties add for a batch: terms of the head, and scalars that are computed otherwise."""

    head: list[tuple[float, HeadTerm]]
    scalars: list[tuple[float, Tensor]]

    @property
    def total(self) -> Tensor | None:
        """The sum of λ times each scalar; None if there is none."""
        return sum(coefficient * value for coefficient, value in self.scalars) if self.scalars else None  # type: ignore[return-value]


class DefenceLoss:
    """CE on response tokens + ``coefficient`` · ``penalty``, and the same of any ``more``."""

    def __init__(
        self,
        reader: FeatureReader,
        penalty: Penalty | None = None,
        coefficient: float = 0.0,
        reference: Reference | None = None,
        more: Sequence[Weighted] = (),
    ):
        self._reader = reader
        self._penalties: list[Weighted] = [*([(coefficient, penalty)] if penalty else []), *more]
        self._reference = reference or LiveReference(reader)
        blocks = [block for _, one in self._penalties for block in one.residual_blocks(reader.blocks)]
        self._blocks = tuple(dict.fromkeys(blocks))
        self._modules = tuple(dict.fromkeys(name for _, one in self._penalties for name in one.captured()))

    def __call__(self, inputs: dict[str, Tensor], counts: WindowCounts, dissect: bool = False) -> BatchLoss:
        """Return the batch's share of the loss of a step whose accumulation window has ``counts``.

        Dissecting it changes none of its bits.
        """
        batch = _token_batch(inputs, counts)
        policy, reference = self._features(inputs, needed=bool(self._penalties) or dissect)
        ce_term: tuple[float, HeadTerm] = (1.0, cross_entropy(batch.targets, counts.labels))
        terms = self._terms(batch, policy, reference) if reference else _Terms([], [])
        total, values = fused_head_loss(policy.final, self._reader.head, [ce_term, *terms.head])
        penalty = values[1:].sum()
        if terms.total is not None:
            total = total + terms.total
            penalty = penalty + sum(value.detach() for _, value in terms.scalars)
        parts = self._parts(batch, policy, reference, ce_term, terms) if dissect and reference else None
        return BatchLoss(total, values[0], penalty, parts)

    def penalty(self, inputs: dict[str, Tensor], counts: WindowCounts) -> Tensor:
        """Return the batch's share of the penalties alone, times their λ: differentiable, a scalar."""
        batch = _token_batch(inputs, counts)
        policy, reference = self._features(inputs, needed=True)
        assert reference is not None
        terms = self._terms(batch, policy, reference)
        found = [term for term in [terms.total] if term is not None]
        if terms.head:
            found.append(fused_head_loss(policy.final, self._reader.head, terms.head)[0])
        return torch.stack(found).sum()

    def _features(self, inputs: dict[str, Tensor], needed: bool) -> tuple[Features, Features | None]:
        # The reference goes first: with gradients or checkpointing around it, it would silently be wrong.
        reference = self._reference.features(inputs, self._blocks, self._modules) if needed else None
        return self._reader.policy(inputs, self._blocks, self._modules), reference

    def _terms(self, batch: TokenBatch, policy: Features, reference: Features) -> _Terms:
        head: list[tuple[float, HeadTerm]] = []
        scalars: list[tuple[float, Tensor]] = []
        for coefficient, penalty in self._penalties:
            head_term = penalty.head_term(batch, reference)
            feature_term = penalty.feature_term(batch, policy, reference)
            if head_term is not None and penalty.moves_states:
                states = penalty.head_states(policy.final, reference.final)
                value, _ = fused_head_loss(states, self._reader.head, [(1.0, head_term)])
                scalars.append((coefficient, value))
            elif head_term is not None:
                head.append((coefficient, head_term))
            if feature_term is not None:
                scalars.append((coefficient, feature_term))
        return _Terms(head, scalars)

    def _parts(
        self, batch: TokenBatch, policy: Features, reference: Features, ce_term: tuple[float, HeadTerm], terms: _Terms
    ) -> Parts:
        head = self._reader.head
        ce, _ = fused_head_loss(policy.final, head, [ce_term])
        divergence = Divergence(reference.final, batch.weights("all", "token_mean"), reverse=False)
        penalty, values = fused_head_loss(policy.final, head, [*terms.head, (0.0, divergence)])
        if terms.total is not None:
            penalty = penalty + terms.total
        return Parts(ce, penalty if self._penalties else None, values[-1])


def _token_batch(inputs: dict[str, Tensor], counts: WindowCounts) -> TokenBatch:
    return TokenBatch(next_tokens(inputs), sequence_lengths(inputs), counts, *around_text(inputs))
