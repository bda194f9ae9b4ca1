"""The loss of a batch, CE + λ·penalty, of plain fine-tuning and of the defences alike."""

from dataclasses import dataclass

from torch import Tensor

from emdefense.training.batches import next_tokens, sequence_lengths
from emdefense.training.divergence import Divergence
from emdefense.training.features import FeatureReader, Features
from emdefense.training.fused_loss import HeadTerm, cross_entropy, fused_head_loss
from emdefense.training.penalty import Penalty
from emdefense.training.reference import LiveReference, Reference
from emdefense.training.telemetry import Parts
from emdefense.training.token_batch import TokenBatch, WindowCounts


@dataclass(frozen=True)
class BatchLoss:
    """A batch's share of the step's loss; all scalars."""

    total: Tensor  # differentiable
    ce: Tensor
    penalty: Tensor  # not multiplied by λ
    parts: Parts | None  # if the loss was to be dissected


class DefenceLoss:
    """CE on response tokens + ``coefficient`` · ``penalty``."""

    def __init__(
        self,
        reader: FeatureReader,
        penalty: Penalty | None = None,
        coefficient: float = 0.0,
        reference: Reference | None = None,
    ):
        self._reader = reader
        self._penalty = penalty
        self._coefficient = coefficient
        self._reference = reference or LiveReference(reader)
        self._blocks = penalty.residual_blocks(reader.blocks) if penalty else ()

    def __call__(self, inputs: dict[str, Tensor], counts: WindowCounts, dissect: bool = False) -> BatchLoss:
        """Return the batch's share of the loss of a step whose accumulation window has ``counts``.

        Dissecting it changes none of its bits.
        """
        batch = TokenBatch(next_tokens(inputs), sequence_lengths(inputs), counts)
        # The reference goes first: with gradients or checkpointing around it, it would silently be wrong.
        reference = self._reference.features(inputs, self._blocks) if self._penalty or dissect else None
        policy = self._reader.policy(inputs, self._blocks)
        ce_term: tuple[float, HeadTerm] = (1.0, cross_entropy(batch.targets, counts.labels))
        head_terms: list[tuple[float, HeadTerm]] = []
        feature_term = None
        if self._penalty and reference:
            head_term = self._penalty.head_term(batch, reference)
            feature_term = self._penalty.feature_term(batch, policy, reference)
            if head_term is not None:
                head_terms.append((self._coefficient, head_term))
        total, values = fused_head_loss(policy.final, self._reader.head, [ce_term, *head_terms])
        penalty = values[1:].sum()
        if feature_term is not None:
            total = total + self._coefficient * feature_term
            penalty = penalty + feature_term.detach()
        parts = None
        if dissect and reference:
            parts = self._parts(batch, policy, reference, ce_term, head_terms, feature_term)
        return BatchLoss(total, values[0], penalty, parts)

    def _parts(
        self,
        batch: TokenBatch,
        policy: Features,
        reference: Features,
        ce_term: tuple[float, HeadTerm],
        head_terms: list[tuple[float, HeadTerm]],
        feature_term: Tensor | None,
    ) -> Parts:
        head = self._reader.head
        ce, _ = fused_head_loss(policy.final, head, [ce_term])
        divergence = Divergence(reference.final, batch.weights("all", "token_mean"), reverse=False)
        penalty, values = fused_head_loss(policy.final, head, [*head_terms, (0.0, divergence)])
        if feature_term is not None:
            penalty = penalty + self._coefficient * feature_term
        return Parts(ce, penalty if self._penalty else None, values[-1])
