"""The Kullback-Leibler divergence of two models' next-token distributions, and its gradient."""

from dataclasses import dataclass

import torch
from torch import Tensor

from emdefense.training.fused_loss import Head


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
