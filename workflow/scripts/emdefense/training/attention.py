"""Whether the attention that was asked for is there, and keeps apart rows that lie end to end."""

import torch
from transformers.utils import is_flash_attn_2_available

from emdefense.config.training import Training
from emdefense.errors import InputError
from emdefense.training.batches import Collator
from emdefense.training.features import FeatureReader
from emdefense.training.packages import NO_FLASH_ATTENTION


def check_attention_installed(training: Training) -> None:
    """Raise :class:`InputError` if the attention needs a package or a GPU that is not there."""
    if training.attention == "flash_attention_2" and not is_flash_attn_2_available():
        raise InputError(NO_FLASH_ATTENTION)


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
