"""Losses on the output head's distribution without keeping its logits.

The head is frozen, so all that the backward pass needs is the gradient with respect to the hidden states. It is formed
in the forward pass, a chunk of tokens at a time. Beside that gradient, extra memory is two chunks × vocabulary for
cross-entropy and five with a KL divergence, whatever the number of tokens; and, except on CUDA, an fp32 copy of a
bfloat16 head.

Head products are kept in fp32 (float64 for float64 hidden states): near θ0, a KL divergence computed from bfloat16
logits has a gradient that is mostly rounding. From bfloat16 hidden states and head and at a KL of 1e-5 to 1e-1, the
gradient is within 0.1 % of float64's before it is itself rounded to bfloat16, which adds 0.2 %. On CUDA the logits'
gradient is rounded to bfloat16 for its product with the head. Simulated, that adds 0.2 %, or up to 0.6 % where the
head's rows share a component three times as long as what is left of them. See ``benchmarks/head_loss.py``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

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

        ``log_probs`` are the policy's log-probabilities of those tokens, not to be changed; ``head`` maps hidden states
        to logits. The gradient is the caller's to change.
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

    ``hidden`` [tokens, d] is what the head multiplies; ``head_weight`` [vocab, d] gets no gradient. A chunk has as many
    tokens as ``chunk_elements`` logits allow, but at least one.
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
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0].to(gradient.dtype), None, None, None


def _accumulate(
    hidden: Tensor, weight: Tensor, terms: tuple[tuple[float, HeadTerm], ...], chunk_elements: int
) -> tuple[Tensor, Tensor]:
    """Return each term's value, [terms], and the gradient of their weighted sum, shaped and typed like ``hidden``."""
    product = _HeadProduct(weight, hidden.dtype)
    values = torch.zeros(len(terms), dtype=product.dtype, device=hidden.device)
    gradient = torch.zeros_like(hidden)
    active = torch.stack([term.weights != 0 for _, term in terms]).any(0).nonzero().squeeze(1)
    for rows in torch.split(active, max(1, chunk_elements // weight.shape[0])):
        chunk_values, logits_gradient = _evaluate(rows, product.logits(hidden[rows]), product, terms)
        values += chunk_values
        gradient[rows] = product.hidden_gradient(logits_gradient).to(hidden.dtype)
        del logits_gradient  # a buffer less while the next chunk is evaluated
    return values, gradient


def _evaluate(
    rows: Tensor, logits: Tensor, product: "_HeadProduct", terms: tuple[tuple[float, HeadTerm], ...]
) -> tuple[Tensor, Tensor]:
    """Return each term's value over the tokens ``rows``, and the gradient of their weighted sum by ``logits``."""
    log_probs = torch.log_softmax(logits, dim=-1)
    del logits
    values: list[Tensor] = []
    gradient: Tensor | None = None
    for coefficient, term in terms:
        losses, term_gradient = term.evaluate(rows, log_probs, product.logits)
        weights = term.weights[rows].to(log_probs.dtype)
        values.append(weights @ losses)
        term_gradient.mul_(coefficient * weights.unsqueeze(1))
        gradient = term_gradient if gradient is None else gradient.add_(term_gradient)
    assert gradient is not None
    return torch.stack(values), gradient


class _HeadProduct:
    """Products with the head's weight, accumulated and returned in fp32, or in float64 for such hidden states."""

    def __init__(self, weight: Tensor, hidden_dtype: torch.dtype):
        self._mixed = _multiplies_mixed(weight) and hidden_dtype == weight.dtype
        self.dtype = torch.promote_types(hidden_dtype, torch.float32)
        self._weight = weight if self._mixed else weight.to(self.dtype)

    def logits(self, hidden: Tensor) -> Tensor:
        """Map hidden states [rows, d] to logits [rows, vocab]."""
        return self._product(hidden, self._weight.t())

    def hidden_gradient(self, logits_gradient: Tensor) -> Tensor:
        """Map a gradient of logits [rows, vocab] to one of hidden states [rows, d]."""
        return self._product(logits_gradient, self._weight)

    def _product(self, left: Tensor, right: Tensor) -> Tensor:
        left = left.to(right.dtype)
        return _mixed_product(left, right) if self._mixed else left @ right


def _multiplies_mixed(weight: Tensor) -> bool:
    """Whether the head is multiplied in bfloat16 with an fp32 result. Never in float16: there, gradients underflow."""
    return weight.is_cuda and weight.dtype == torch.bfloat16


def _mixed_product(left: Tensor, right: Tensor) -> Tensor:
    return torch.mm(left, right, out_dtype=torch.float32)
