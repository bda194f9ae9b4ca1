"""Losses on the output head's distribution without keeping its logits.

The head is frozen, so all that the backward pass needs is the gradient with respect to the hidden states. It is formed
in the forward pass, a chunk of tokens at a time. Beside that gradient, extra memory is two chunks × vocabulary for
cross-entropy and five with a KL divergence, whatever the number of tokens; and, except on CUDA, an fp32 copy of a
bfloat16 head. What a model does to the logits after that product (a scale, a cap) takes up to three chunks more, see
``output_head.py``.

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

from emdefense.chat.chat import IGNORED

CHUNK_ELEMENTS = 1 << 24  # logits held at a time: 64 MiB in fp32

Head = Callable[[Tensor], Tensor]


class PreparedHead(Protocol):
    """A head for hidden states of one type, in a form that many chunks of tokens can be put through."""

    dtype: torch.dtype  # of the logits: fp32, or float64 for float64 hidden states

    def logits(self, hidden: Tensor) -> Tensor:
        """Map hidden states [rows, d] to logits [rows, vocab], without gradient."""
        ...

    def evaluate(self, hidden: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Return the logits, and what maps a gradient of the logits to one of the hidden states, to be called once."""
        ...


class OutputHead(Protocol):
    """What leads from the backbone's last hidden states to logits; nothing in it is trained."""

    @property
    def vocabulary(self) -> int:
        """The number of logits."""
        ...

    def prepared(self, hidden_dtype: torch.dtype) -> PreparedHead:
        """Return the head for hidden states of this type; called under the autocast that the model runs in."""
        ...


@dataclass(frozen=True)
class ProductHead:
    """The product with ``weight`` [vocab, d], and a ``bias`` [vocab]: most models' whole head."""

    weight: Tensor
    bias: Tensor | None = None

    @property
    def vocabulary(self) -> int:
        """The number of logits."""
        return self.weight.shape[0]

    def prepared(self, hidden_dtype: torch.dtype) -> "_HeadProduct":
        """Return the product for hidden states of this type."""
        return _HeadProduct(self.weight.detach(), hidden_dtype, self.bias)


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
    head: OutputHead | Tensor,
    terms: Sequence[tuple[float, HeadTerm]],
    chunk_elements: int = CHUNK_ELEMENTS,
) -> tuple[Tensor, Tensor]:
    """Return Σ coefficient · Σ weight · loss, differentiable in ``hidden``, and each term's own value, [terms].

    ``hidden`` [tokens, d] is what the head takes; the ``head``, or the weight [vocab, d] of one that is a product and
    nothing else, gets no gradient. A chunk has as many tokens as ``chunk_elements`` logits allow, but at least one.
    """
    if isinstance(head, Tensor):
        head = ProductHead(head)
    total, values = _FusedHeadLoss.apply(hidden, head, tuple(terms), chunk_elements)  # type: ignore[no-untyped-call]
    return total, values


def token_losses(hidden: Tensor, head: OutputHead, targets: Tensor, chunk_elements: int = CHUNK_ELEMENTS) -> Tensor:
    """Return −log p(target) of each token [tokens], 0 where ``targets`` are ignored; without gradient, in chunks."""
    prepared = head.prepared(hidden.dtype)
    losses = torch.zeros(len(hidden), dtype=prepared.dtype, device=hidden.device)
    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        labelled = (targets != IGNORED).nonzero().squeeze(1)
        for rows in torch.split(labelled, max(1, chunk_elements // head.vocabulary)):
            log_probs = torch.log_softmax(prepared.logits(hidden[rows]), dim=-1)
            losses[rows] = -log_probs.gather(1, targets[rows].unsqueeze(1)).squeeze(1)
    return losses


class _FusedHeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: OutputHead, terms: tuple[tuple[float, HeadTerm], ...], chunk_elements: int
    ) -> tuple[Tensor, Tensor]:
        prepared = head.prepared(hidden.dtype)
        chunk_tokens = max(1, chunk_elements // head.vocabulary)
        with torch.autocast(hidden.device.type, enabled=False):
            values, gradient = _accumulate(hidden.detach(), prepared, terms, chunk_tokens)
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
    hidden: Tensor, head: PreparedHead, terms: tuple[tuple[float, HeadTerm], ...], chunk_tokens: int
) -> tuple[Tensor, Tensor]:
    """Return each term's value, [terms], and the gradient of their weighted sum, shaped and typed like ``hidden``."""
    values = torch.zeros(len(terms), dtype=head.dtype, device=hidden.device)
    gradient = torch.zeros_like(hidden)
    active = torch.stack([term.weights != 0 for _, term in terms]).any(0).nonzero().squeeze(1)
    for rows in torch.split(active, chunk_tokens):
        chunk_values, gradient[rows] = _evaluate(rows, hidden[rows], head, terms)
        values += chunk_values
    return values, gradient


def _evaluate(
    rows: Tensor, hidden: Tensor, head: PreparedHead, terms: tuple[tuple[float, HeadTerm], ...]
) -> tuple[Tensor, Tensor]:
    """Return each term's value over the tokens ``rows``, and the gradient of their weighted sum by their ``hidden``."""
    logits, pull_back = head.evaluate(hidden)
    log_probs = torch.log_softmax(logits, dim=-1)
    del logits
    values: list[Tensor] = []
    gradient: Tensor | None = None
    for coefficient, term in terms:
        losses, term_gradient = term.evaluate(rows, log_probs, head.logits)
        weights = term.weights[rows].to(log_probs.dtype)
        values.append(weights @ losses)
        term_gradient.mul_(coefficient * weights.unsqueeze(1))
        gradient = term_gradient if gradient is None else gradient.add_(term_gradient)
    assert gradient is not None
    del log_probs, term_gradient  # buffers less while the gradient is pulled back
    return torch.stack(values), pull_back(gradient).to(hidden.dtype)


class _HeadProduct:
    """Products with the head's weight, accumulated and returned in fp32, or in float64 for such hidden states."""

    def __init__(self, weight: Tensor, hidden_dtype: torch.dtype, bias: Tensor | None = None):
        self._mixed = _multiplies_mixed(weight) and hidden_dtype == weight.dtype
        self.dtype = torch.promote_types(hidden_dtype, torch.float32)
        self._weight = weight if self._mixed else weight.to(self.dtype)
        self._bias = None if bias is None else bias.detach().to(self.dtype)

    def logits(self, hidden: Tensor) -> Tensor:
        """Map hidden states [rows, d] to logits [rows, vocab]."""
        product = self._product(hidden, self._weight.t())
        return product if self._bias is None else product.add_(self._bias)

    def evaluate(self, hidden: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Return the logits, and what maps their gradient to one of the hidden states."""
        return self.logits(hidden), self.hidden_gradient

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
