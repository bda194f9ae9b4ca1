"""Distance in feature space from the model before fine-tuning, Eq. 5 of the paper."""

from collections.abc import Sequence

import torch
from torch import Tensor

from emdefense.config.training import LDIFS as LDIFSOptions
from emdefense.errors import InputError
from emdefense.training.features import Features
from emdefense.training.penalties.base import Penalty, Reduction, TokenBatch, register

MUKHOTI_EPSILON = 1e-10  # added to the norm, as in their code


@register("ldifs")
class LDIFS(Penalty[LDIFSOptions]):
    """‖x_θ − x_θ0‖² of the residual stream x after every k-th block, at all non-padding tokens.

    ``unit_token``: features scaled to norm 1 per token and block; summed over blocks, mean over tokens.
    ``mean_square``: mean over blocks, dimensions and tokens. ``raw_sum``: the sum over blocks, dimensions and the
    tokens of a sequence, as Eq. 5 is written; mean over sequences. ``mukhoti``: each dimension scaled to norm 1 over
    the tokens of its sequence; mean over dimensions, tokens of a sequence, blocks and sequences
    (github.com/omegafragger/ldifs_code, loss/ldifs.py, whose features are [images, positions, dimensions]).
    """

    options_type = LDIFSOptions

    def residual_blocks(self, blocks: int) -> tuple[int, ...]:
        """Return k, 2k, … up to and including the last block, read before the final norm."""
        every = self.options.every
        if not blocks:
            raise InputError("key 'arms.ldifs': this model's blocks cannot be told apart; leave ldifs out for it")
        if every > blocks:
            raise InputError(
                f"key 'arms.ldifs.every': {every}, but the model has {blocks} blocks; write {blocks} or less"
            )
        return tuple(range(every, blocks + 1, every))

    def feature_term(self, batch: TokenBatch, policy: Features, reference: Features) -> Tensor:
        """Return this batch's share of the distance, in fp32 or better; without gradient if ``detached``."""
        pairs = [(x, reference.residual[block]) for block, x in policy.residual.items()]
        distances = torch.stack([self._distances(*pair, batch.lengths) for pair in pairs]).sum(0)
        if self.options.normalisation in {"mean_square", "mukhoti"}:
            distances = distances / len(pairs)
        per_sequence = self.options.normalisation in {"raw_sum", "mukhoti"}
        reduction: Reduction = "sequence_sum" if per_sequence else "token_mean"
        value = batch.weights("all", reduction).to(distances.dtype) @ distances
        return value.detach() if self.options.detached else value

    def _distances(self, policy: Tensor, reference: Tensor, lengths: Sequence[int]) -> Tensor:
        """Return each token's squared distance at one block, [tokens]."""
        dtype = torch.promote_types(policy.dtype, torch.float32)
        policy, reference = policy.to(dtype), reference.to(dtype)
        match self.options.normalisation:
            case "unit_token":
                unit = torch.nn.functional.normalize
                return (unit(policy, dim=-1) - unit(reference, dim=-1)).square().sum(-1)
            case "mean_square":
                return (policy - reference).square().mean(-1)
            case "raw_sum":
                return (policy - reference).square().sum(-1)
            case "mukhoti":
                both = zip(*(torch.split(x, list(lengths)) for x in (policy, reference)), strict=True)
                scaled = ((_unit_over_tokens(x), _unit_over_tokens(y)) for x, y in both)
                return torch.cat([(x - y).square().mean(-1) / len(x) for x, y in scaled])


def _unit_over_tokens(sequence: Tensor) -> Tensor:
    """Scale each dimension of a sequence's features [tokens, d] to norm 1 over its tokens."""
    norms: Tensor = torch.linalg.vector_norm(sequence, dim=0, keepdim=True)
    return sequence / (norms + MUKHOTI_EPSILON)
