"""What a penalty is, and the registry through which the trainer finds it by name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
from pydantic import ValidationError
from torch import Tensor

from emdefense.chat.chat import IGNORED
from emdefense.config.base import Section, first_problem
from emdefense.errors import InputError
from emdefense.training.features import Features
from emdefense.training.fused_loss import HeadTerm

Tokens = Literal["all", "response"]
Reduction = Literal["token_mean", "sequence_sum"]


@dataclass(frozen=True)
class WindowCounts:
    """Totals over all batches of one optimiser step, by which sums over a batch are normalised."""

    labels: int
    tokens: int
    sequences: int


@dataclass(frozen=True)
class TokenBatch:
    """A batch as penalties see it: its non-padding tokens in a row, as in :class:`Features`."""

    targets: Tensor  # [tokens], the token to predict at each position; −100 where it is not part of the response
    lengths: Sequence[int]  # the tokens of each sequence, in their order
    counts: WindowCounts

    def weights(self, tokens: Tokens, reduction: Reduction) -> Tensor:
        """Return token weights [tokens] whose weighted sums, added over the step's batches, give the reduction.

        ``token_mean``: mean over the tokens; ``sequence_sum``: sum over each sequence's, mean over sequences.
        """
        chosen = torch.ones_like(self.targets, dtype=torch.bool) if tokens == "all" else self.targets != IGNORED
        mean_over = self.counts.tokens if tokens == "all" else self.counts.labels
        return chosen.to(torch.float64) / (mean_over if reduction == "token_mean" else self.counts.sequences)


Options = TypeVar("Options", bound=Section)


class Penalty(Generic[Options]):
    """A term added to the cross-entropy, λ·P(θ, θ0).

    A subclass overrides ``head_term`` if P depends on next-token distributions, ``feature_term`` if it depends on
    hidden states (both may be given; they are added), and ``residual_blocks`` if it reads the residual stream. Each
    returns its batch's share of the step's value, normalised by ``batch.counts``; the trainer multiplies by λ.
    """

    options_type: ClassVar[type[Section]]

    def __init__(self, options: Options):
        self.options = options

    def residual_blocks(self, blocks: int) -> tuple[int, ...]:
        """Return the blocks (1-based, of ``blocks``) after which the residual stream is needed."""
        return ()

    def head_term(self, batch: TokenBatch, reference: Features) -> HeadTerm | None:
        """Return what is to be computed on the output head's distribution."""
        return None

    def feature_term(self, batch: TokenBatch, policy: Features, reference: Features) -> Tensor | None:
        """Return a scalar computed from hidden states."""
        return None


_REGISTRY: dict[str, type[Penalty[Any]]] = {}

PenaltyType = TypeVar("PenaltyType", bound=type[Penalty[Any]])


def register(name: str) -> Callable[[PenaltyType], PenaltyType]:
    """Make a penalty available under the name of its arm."""

    def add(penalty: PenaltyType) -> PenaltyType:
        _REGISTRY[name] = penalty
        return penalty

    return add


def build_penalty(name: str, options: dict[str, Any]) -> Penalty[Any]:
    """Return the penalty registered as ``name``; :class:`InputError` for an unknown name or option."""
    if name not in _REGISTRY:
        raise InputError(f"unknown penalty '{name}'; write one of {', '.join(sorted(_REGISTRY))}")
    penalty = _REGISTRY[name]
    try:
        return penalty(penalty.options_type.model_validate(options))
    except ValidationError as error:
        raise InputError(first_problem(error, "arms", name)) from None
