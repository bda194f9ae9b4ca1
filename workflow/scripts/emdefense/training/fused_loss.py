"""Losses on the output head's distribution without keeping its logits.

The head is frozen, so all that the backward pass needs is the gradient with respect to the hidden states. It is formed
in the forward pass, a chunk of tokens at a time: extra memory is a few chunks × vocabulary, whatever the number of
tokens. Head products are kept in fp32 (float64 for float64 hidden states): near θ0, a KL divergence computed from
bfloat16 logits has a gradient that is mostly rounding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from emdefense.training.data import IGNORED

CHUNK_ELEMENTS = 1 << 24  # logits held at a time: 64 MiB in fp32

Head = Callable[[Tensor], Tensor]


class HeadTerm(Protocol):
    """A per-token loss that depends on the policy through its next-token distribution."""

    @property
    def weights(self) -> Tensor:
        """Each token's weight in the sum, [tokens]; tokens of weight 0 in all terms are never computed."""
        ...

    def evaluate(self, rows: Tensor, log_probs: Tensor, head: Head) -> tuple[Tensor, Tensor]:
        """Return the loss of tokens ``rows``, [rows], and its gradient with respect to their logits, [rows, vocab].

        ``log_probs`` are the policy's log-probabilities of those tokens; ``head`` maps hidden states to logits.
        """
        ...


@dataclass(frozen=True)
class CrossEntropy:
    """−log p(target); ``targets`` [tokens] may be ignored (−100) where the weight is 0."""

    targets: Tensor
    weights: Tensor

    def evaluate(self, rows: Tensor, log_probs: Tensor, head: Head) -> tuple[Tensor, Tensor]:
        """Return −log p(target) and softmax − onehot(target)."""
        target = self.targets[rows].clamp(min=0).unsqueeze(1)
        gradient = log_probs.exp()
        gradient.scatter_add_(1, target, -torch.ones_like(target, dtype=gradient.dtype))
        return -log_probs.gather(1, target).squeeze(1), gradient


def cross_entropy(targets: Tensor, count: int) -> CrossEntropy:
    """Return the mean cross-entropy over ``count`` labels, of which ``targets`` [tokens] may hold only a part."""
    return CrossEntropy(targets, (targets != IGNORED).to(torch.float64) / count)


def fused_head_loss(
    hidden: Tensor,
    head_weight: Tensor,
    terms: Sequence[tuple[float, HeadTerm]],
    chunk_elements: int = CHUNK_ELEMENTS,
) -> tuple[Tensor, Tensor]:
    """Return Σ coefficient · Σ weight · loss, differentiable in ``hidden``, and each term's own value, [terms].

    ``hidden`` [tokens, d] is what the head multiplies; ``head_weight`` [vocab, d] gets no gradient.
    """
    total, values = _FusedHeadLoss.apply(hidden, head_weight, tuple(terms), chunk_elements)  # type: ignore[no-untyped-call]
    return total, values


class _FusedHeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, terms: tuple[tuple[float, HeadTerm], ...], chunk_elements: int
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(hidden.device.type, enabled=False):
            values, gradient = _accumulate(hidden.detach(), weight.detach(), terms, chunk_elements)
            total = values @ torch.tensor([c for c, _ in terms], dtype=values.dtype, device=values.device)
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(values)
        return total, values

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0].to(gradient.dtype), None, None, None


def _accumulate(
    hidden: Tensor, weight: Tensor, terms: tuple[tuple[float, HeadTerm], ...], chunk_elements: int
) -> tuple[Tensor, Tensor]:
    """Return each term's value, [terms], and the gradient of their weighted sum, shaped and typed like ``hidden``."""
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    product = _HeadProduct(weight, dtype)
    values = torch.zeros(len(terms), dtype=dtype, device=hidden.device)
    gradient = torch.zeros_like(hidden)
    active = torch.stack([term.weights != 0 for _, term in terms]).any(0).nonzero().squeeze(1)
    for rows in torch.split(active, max(1, chunk_elements // weight.shape[0])):
        log_probs = torch.log_softmax(product.logits(hidden[rows]), dim=-1)
        logits_gradient = torch.zeros_like(log_probs)
        for index, (coefficient, term) in enumerate(terms):
            loss, term_gradient = term.evaluate(rows, log_probs, product.logits)
            token_weights = term.weights[rows].to(dtype)
            values[index] += token_weights @ loss
            logits_gradient.addcmul_(term_gradient, token_weights.unsqueeze(1), value=coefficient)
        gradient[rows] = product.hidden_gradient(logits_gradient).to(hidden.dtype)
    return values, gradient


class _HeadProduct:
    """Products with the head's weight, accumulated and returned in fp32 or better."""

    def __init__(self, weight: Tensor, dtype: torch.dtype):
        self._dtype = dtype
        self._native = weight.is_cuda and weight.dtype in {torch.bfloat16, torch.float16}
        self._weight = weight if self._native else weight.to(dtype)

    def logits(self, hidden: Tensor) -> Tensor:
        """Map hidden states [rows, d] to logits [rows, vocab]."""
        return self._product(hidden, self._weight.t())

    def hidden_gradient(self, logits_gradient: Tensor) -> Tensor:
        """Map a gradient of logits [rows, vocab] to one of hidden states [rows, d]."""
        return self._product(logits_gradient, self._weight)

    def _product(self, left: Tensor, right: Tensor) -> Tensor:
        if self._native:
            return torch.mm(left.to(right.dtype), right, out_dtype=self._dtype)
        return left.to(self._dtype) @ right
