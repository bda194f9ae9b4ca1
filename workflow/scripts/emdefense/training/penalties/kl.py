"""KL divergence from the model before fine-tuning, Eq. 4 of the paper."""

from dataclasses import dataclass

import torch
from torch import Tensor

from emdefense.config.training import KL as KLOptions
from emdefense.training.features import Features
from emdefense.training.fused_loss import Head, HeadTerm
from emdefense.training.penalties.base import Penalty, TokenBatch, register


@dataclass(frozen=True)
class Divergence:
    """KL(p‖q), or KL(q‖p) if ``reverse``, of the policy p and the reference q at each token, in nats."""

    reference: Tensor  # [tokens, d], the reference's final hidden states
    weights: Tensor
    reverse: bool

    def evaluate(self, rows: Tensor, log_probs: Tensor, head: Head) -> tuple[Tensor, Tensor]:
        """Return the divergence and its gradient: p·(log p − log q − KL), or p − q if reversed."""
        reference = torch.log_softmax(head(self.reference[rows]), dim=-1)
        policy = log_probs.exp()
        if self.reverse:
            reference_probs = reference.exp()
            divergence = reference.sub_(log_probs).mul_(reference_probs).sum(-1)
            return divergence, policy.sub_(reference_probs)
        log_ratio = torch.sub(log_probs, reference, out=reference)
        divergence = (policy * log_ratio).sum(-1)
        return divergence, log_ratio.sub_(divergence.unsqueeze(1)).mul_(policy)


@register("kl")
class KL(Penalty[KLOptions]):
    """KL(p_θ‖p_θ0) over all non-padding tokens of the batch, mean per token by default."""

    options_type = KLOptions

    def head_term(self, batch: TokenBatch, reference: Features) -> HeadTerm:
        """Return the divergence with the weights that the options ask for."""
        weights = batch.weights(self.options.tokens, self.options.reduction)
        return Divergence(reference.final, weights, self.options.direction == "reference_to_policy")
