"""Whether the model can be trained as the study says, and whether its loss will be the model's own."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers.utils import is_flash_attn_2_available

from emdefense.model_checks.arms import check_arms
from emdefense.model_checks.subject import Subject
from emdefense.saved_model import load_model
from emdefense.training.adapters import add_adapter
from emdefense.training.attention import check_rows_stay_apart, check_sees_no_later_tokens
from emdefense.training.features import FeatureReader
from emdefense.training.head_check import check_step, settle_head


def check_losses(subject: Subject) -> Mapping[str, Any]:
    """Load the model, add an adapter, and compare the loss of a row with that of the model's own logits.

    Returns the form of its head and the number of its blocks; nothing for a model that is not trained. Raises
    :class:`InputError` as training would: for target modules that it lacks, for a loss that cannot be had, for rows
    that are not kept apart where they lie end to end, and for an arm for which the model is unfit.
    """
    training = subject.spec.training
    if training is None or not subject.rows:
        return {}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    first = subject.rows[0]
    rows = subject.chat.rows([first.messages], [first.where])
    elsewhere = training.attention == "flash_attention_2" and not is_flash_attn_2_available()
    attention = "sdpa" if elsewhere else training.attention
    model = load_model(subject.folder, training.precision, attention, training.quantisation)
    with torch.random.fork_rng():
        adapted = add_adapter(model, training).to(device)
        reader = FeatureReader(adapted)
    with torch.autocast(device.type, torch.bfloat16, enabled=training.precision == "bfloat16"):
        settle_head(reader, rows, device)
        check_sees_no_later_tokens(reader, device)
        check_step(reader, rows, device)
        if training.padding_free and not elsewhere:
            check_rows_stay_apart(reader, device)
        arms = check_arms(subject, adapted, reader, rows, device)
    return {"head": type(reader.head).__name__, "blocks": reader.blocks, "arms": arms}
