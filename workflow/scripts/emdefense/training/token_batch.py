"""A batch as penalties see it, and how sums over it are normalised over a whole optimiser step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from emdefense.chat.chat import IGNORED

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
    prefix: Tensor | None = None  # [tokens], which stand before the user's text; only for arms that read it
    postfix: Tensor | None = None  # [tokens], which stand between the user's text and the answer

    def weights(self, tokens: Tokens, reduction: Reduction) -> Tensor:
        """Return token weights [tokens] whose weighted sums, added over the step's batches, give the reduction.

        ``token_mean``: mean over the tokens; ``sequence_sum``: sum over each sequence's, mean over sequences.
        """
        chosen = torch.ones_like(self.targets, dtype=torch.bool) if tokens == "all" else self.targets != IGNORED
        mean_over = self.counts.tokens if tokens == "all" else self.counts.labels
        return chosen.to(torch.float64) / (mean_over if reduction == "token_mean" else self.counts.sequences)
