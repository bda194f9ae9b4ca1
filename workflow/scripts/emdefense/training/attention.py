"""Whether the attention that was asked for is there, sees no later tokens, and keeps rows apart that lie end to end."""

import torch
from transformers.utils import is_flash_attn_2_available

from emdefense.config.training import Training
from emdefense.errors import InputError
from emdefense.training.batches import Collator
from emdefense.training.features import FeatureReader
from emdefense.training.packages import NO_FLASH_ATTENTION

# How far features may be apart that should be equal, relative: mixtures of experts sum in another order.
ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-3}
ROUNDING_IN_16_BITS = 0.03
SEEN = 8  # tokens before those that are changed


def check_attention_installed(training: Training) -> None:
    """Raise :class:`InputError` if the attention needs a package or a GPU that is not there."""
    if training.attention == "flash_attention_2" and not is_flash_attn_2_available():
        raise InputError(NO_FLASH_ATTENTION)


def check_sees_no_later_tokens(reader: FeatureReader, device: torch.device) -> None:
    """Raise :class:`InputError` if a token's features depend on those after it, as an encoder's do.

    The loss of such a model is that of answers which it reads while it predicts them.
    """
    known = reader.head.vocabulary
    before = list(range(SEEN))
    rows = [
        torch.tensor([[token % known for token in before + later]], device=device) for later in (before, [8, 9, 10])
    ]
    one, other = (
        reader.reference({"input_ids": row[:, :11], "attention_mask": torch.ones_like(row[:, :11])})
        .final[:SEEN]
        .float()
        for row in rows
    )
    if (one - other).norm() > ROUNDING.get(reader.base.dtype, ROUNDING_IN_16_BITS) * one.norm():
        raise InputError(
            f"{reader.base.name_or_path}: what this model of type '{reader.base.config.model_type}' computes for a "
            "token depends on the tokens after it, so it would be trained on answers that it sees; name a causal "
            "decoder"
        )


def check_rows_stay_apart(reader: FeatureReader, device: torch.device) -> None:
    """Raise :class:`InputError` if in a padding-free batch a row's features depend on the row before it.

    Models whose masks transformers does not make from position ids, and layers that are no attention, do so. A weight
    of zero leaves no trace in a sum, so the comparison is exact.
    """
    after_one, after_other = (
        reader.reference({key: value.to(device) for key, value in _two_rows(start).items()}).final[-4:]
        for start in (0, 4)
    )
    if not torch.equal(after_one, after_other):
        raise InputError(
            "key 'training.padding_free': this model does not keep apart rows that lie end to end; write false"
        )


def _two_rows(start: int) -> dict[str, torch.Tensor]:
    """Return a padding-free batch of two rows of four tokens, the first beginning with token ``start``."""
    rows = (list(range(start, start + 4)), list(range(4)))
    return Collator(0, padding_free=True)([{"input_ids": ids, "labels": ids, "row": n} for n, ids in enumerate(rows)])
