"""Rows laid end to end give the losses and gradients of padded ones, and do not see each other."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from emdefense.chat.chat import IGNORED, Chat
from emdefense.config.training import Training
from emdefense.errors import InputError
from emdefense.training.adapters import add_adapter
from emdefense.training.attention import check_attention_installed, check_rows_stay_apart
from emdefense.training.batches import Collator, next_tokens
from emdefense.training.features import FeatureReader
from emdefense.training.loss import DefenceLoss
from emdefense.training.penalty import build_penalty
from emdefense.training.token_batch import WindowCounts
from same_training import assert_same_change
from tiny_model import make_model, make_rows, make_tokenizer
from trainings import KL, column, spec, trained, weights

ROWS = Chat(make_tokenizer()).rows([row["messages"] for row in make_rows(5, longest=30)])
ONE_TOKEN = {"input_ids": [7], "labels": [7], "row": 5}
PENALTIES: list[tuple[str, dict[str, Any]]] = [
    ("none", {}),
    ("kl", {}),
    ("kl", {"tokens": "response", "reduction": "sequence_sum"}),
    ("kl", {"direction": "reference_to_policy"}),
    ("ldifs", {"every": 1}),
    ("ldifs", {"every": 2, "normalisation": "mean_square"}),
    ("ldifs", {"every": 1, "normalisation": "raw_sum"}),
    ("ldifs", {"every": 1, "detached": True}),
]


def reader_of(attention: str = "sdpa", dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Any, FeatureReader]:
    """A model in ``dtype`` whose adapter is not zero, and its reader."""
    model = make_model(seed, attn_implementation=attention).to(dtype)
    adapted = add_adapter(model, Training(target_modules=("q_proj", "v_proj", "down_proj")))
    torch.manual_seed(1)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn(parameter.shape, dtype=dtype if dtype == torch.float64 else torch.float32) / 30
    return adapted, FeatureReader(adapted)


def batch(rows: list[dict[str, Any]], padding_free: bool) -> dict[str, Tensor]:
    return Collator(0, padding_free)(rows)


def loss_and_gradients(
    model: Any, reader: FeatureReader, rows: list[dict[str, Any]], penalty: Any, padding_free: bool
) -> list[Tensor]:
    """The sums over a window of two batches: total, cross-entropy, penalty, and each gradient."""
    tokens = sum(len(row["input_ids"]) for row in rows)
    counts = WindowCounts(sum(t != IGNORED for row in rows for t in row["labels"][1:]), tokens, len(rows))
    model.zero_grad()
    defence = DefenceLoss(reader, penalty, 3.0)
    values = []
    for part in (rows[:2], rows[2:]):
        loss = defence(batch(part, padding_free), counts)
        loss.total.backward()
        values.append(torch.stack([loss.total.detach(), loss.ce, loss.penalty]))
    return [sum(values), *(p.grad.clone() for p in model.parameters() if p.requires_grad)]  # type: ignore[list-item]


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize(("name", "options"), PENALTIES, ids=lambda value: str(value))
def test_losses_and_gradients_are_those_of_padded_batches(
    name: str, options: dict[str, Any], checkpointing: bool
) -> None:
    model, reader = reader_of()
    if checkpointing:
        model.train()
        model.activation_checkpointing_enable({"use_reentrant": False})
    penalty = build_penalty(name, options) if name != "none" else None
    rows = [*ROWS, ONE_TOKEN]
    padded, packed = (loss_and_gradients(model, reader, rows, penalty, free) for free in (False, True))
    assert padded[0][2] > 1e-4 or penalty is None
    torch.testing.assert_close(packed, padded, rtol=1e-9, atol=1e-12)


def test_under_bfloat16_autocast_they_agree_to_its_rounding() -> None:
    model, reader = reader_of(dtype=torch.bfloat16)
    results = []
    for free in (False, True):
        with torch.autocast("cpu", torch.bfloat16):
            results.append(loss_and_gradients(model, reader, ROWS, build_penalty("kl", {}), free))
    torch.testing.assert_close(results[1][0], results[0][0], rtol=5e-3, atol=0)
    flat = [torch.cat([gradient.flatten() for gradient in result[1:]]) for result in results]
    assert (flat[1] - flat[0]).norm() < 0.02 * flat[0].norm()


def assert_rounded(found: Tensor, expected: Tensor) -> None:
    """Assert that features agree to fp32's rounding: the norms of Qwen2 are computed in it whatever the weights are."""
    assert (found - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_row_has_the_features_that_it_has_alone(attention: str) -> None:
    _, reader = reader_of(attention)
    together = reader.policy(batch([ROWS[0], ONE_TOKEN, *ROWS[1:]], True), [2])
    alone = [reader.policy(batch([row], True), [2]) for row in (ROWS[0], ONE_TOKEN, *ROWS[1:])]
    assert_rounded(together.final, torch.cat([features.final for features in alone]))
    assert_rounded(together.residual[2], torch.cat([features.residual[2] for features in alone]))


def test_no_row_predicts_the_next() -> None:
    rows = [{"input_ids": [5, 6, 7], "labels": [5, 6, 7], "row": 0}, {"input_ids": [8, 9], "labels": [8, 9], "row": 1}]
    assert next_tokens(batch(rows, True)).tolist() == [6, 7, IGNORED, 9, IGNORED]
    assert next_tokens(batch(rows, False)).tolist() == [6, 7, IGNORED, 9, IGNORED]
    assert next_tokens(batch([ONE_TOKEN], True)).tolist() == [IGNORED]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_that_keeps_rows_apart_is_accepted(attention: str, dtype: torch.dtype) -> None:
    check_rows_stay_apart(reader_of(attention, dtype)[1], torch.device("cpu"))


def test_attention_that_mixes_rows_is_refused() -> None:
    # Registered without a mask function, so that transformers makes no mask for it.
    AttentionInterface.register("maskless", sdpa_attention_forward)
    with pytest.raises(InputError, match=r"training\.padding_free.*does not keep apart"):
        check_rows_stay_apart(reader_of("maskless")[1], torch.device("cpu"))


def test_flash_attention_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match=r"training\.attention.*flash-attn"):
        check_attention_installed(Training(attention="flash_attention_2"))


def test_a_whole_training_takes_the_same_steps(tmp_path: Path) -> None:
    rows = make_rows(22, longest=30)
    padded = trained(tmp_path, spec(KL, accumulation_steps=2), rows)
    packed = trained(tmp_path, spec(KL, accumulation_steps=2, padding_free=True), rows)
    assert column(packed, "loss") == pytest.approx(column(padded, "loss"), rel=1e-4)
    assert_same_change(weights(packed), weights(padded))
