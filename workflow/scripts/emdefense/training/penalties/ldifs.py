"""Distance in feature space from the model before fine-tuning, Eq. 5 of the paper."""

import torch
from torch import Tensor

from emdefense.config.training import LDIFS as LDIFSOptions
from emdefense.errors import InputError
from emdefense.training.features import Features
from emdefense.training.penalties.base import Penalty, Reduction, TokenBatch, register


@register("ldifs")
class LDIFS(Penalty[LDIFSOptions]):
    """‖x_θ − x_θ0‖² of the residual stream x after every k-th block, at all non-padding tokens.

    ``unit_token``: features scaled to norm 1 per token and block; summed over blocks, mean over tokens.
    ``mean_square``: mean over blocks, dimensions and tokens. ``raw_sum``: the sum over blocks, dimensions and the
    tokens of a sequence, as Eq. 5 is written; mean over sequences.
    """

    options_type = LDIFSOptions

    def residual_blocks(self, blocks: int) -> tuple[int, ...]:
        """Return k, 2k, … up to and including the last block, read before the final norm."""
        every = self.options.every
        if every > blocks:
            raise InputError(
                f"key 'arms.ldifs.every': {every}, but the model has {blocks} blocks; write {blocks} or less"
            )
        return tuple(range(every, blocks + 1, every))

    def feature_term(self, batch: TokenBatch, policy: Features, reference: Features) -> Tensor:
        """Return this batch's share of the distance, in fp32 or better; without gradient if ``detached``."""
        per_block = [self._distances(x, reference.residual[block]) for block, x in policy.residual.items()]
        distances = torch.stack(per_block).sum(0)
        if self.options.normalisation == "mean_square":
            distances = distances / len(per_block)
        reduction: Reduction = "sequence_sum" if self.options.normalisation == "raw_sum" else "token_mean"
        value = batch.weights("all", reduction).to(distances.dtype) @ distances
        return value.detach() if self.options.detached else value

    def _distances(self, policy: Tensor, reference: Tensor) -> Tensor:
        """Return each token's squared distance at one block, [tokens]."""
        dtype = torch.promote_types(policy.dtype, torch.float32)
        policy, reference = policy.to(dtype), reference.to(dtype)
        if self.options.normalisation == "unit_token":
            policy = torch.nn.functional.normalize(policy, dim=-1)
            reference = torch.nn.functional.normalize(reference, dim=-1)
        squared = (policy - reference).square()
        return squared.mean(-1) if self.options.normalisation == "mean_square" else squared.sum(-1)
