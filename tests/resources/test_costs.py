"""FLOP and bytes against counts by hand, and against what PyTorch counts while it trains."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from emdefense.arms import STANDARD
from emdefense.config.shape import ModelShape
from emdefense.config.training import Training
from emdefense.training.adapters import add_adapter
from emdefense.training.batches import Collator
from emdefense.training.costs import feature_bytes, training_flop
from emdefense.training.features import FeatureReader
from emdefense.training.loss import DefenceLoss
from emdefense.training.penalty import build_penalty
from emdefense.training.token_batch import WindowCounts
from qwen_shapes import QWEN_7B, QWEN_32B
from tiny_model import make_model


@pytest.mark.parametrize(
    ("shape", "parameters", "matrices", "adapters", "attention"),
    [
        # a block: q and o 3584², k and v 3584·512, three times 3584·18944; adapters of rank 32 on each
        (QWEN_7B, 7.616e9, 28 * (2 * 3584**2 + 2 * 3584 * 512 + 3 * 3584 * 18944), 80_740_352, 28 * 3584),
        (QWEN_32B, 32.764e9, 64 * (2 * 5120**2 + 2 * 5120 * 1024 + 3 * 5120 * 27648), 268_435_456, 64 * 5120),
    ],
    ids=["7B", "32B"],
)
def test_flop_of_qwen_counted_by_hand(
    shape: ModelShape, parameters: float, matrices: int, adapters: int, attention: int
) -> None:
    assert shape.parameters == pytest.approx(parameters, rel=1e-3)
    length, head = 300, shape.vocab_size * shape.hidden_size
    sft = training_flop(shape, Training(), None, length, 0.5)
    assert sft.forward == 2 * (matrices + adapters) + 2 * length * attention
    assert sft.backward == 2 * matrices + 4 * adapters + 4 * length * attention
    assert sft.head == 4 * head * 0.5
    assert (sft.reference, sft.recomputed) == (0, 0)
    kl = training_flop(shape, Training(activation_checkpointing=True), STANDARD["kl"], length, 0.5)
    assert kl.head == 6 * head
    assert kl.reference == 2 * matrices + 2 * length * attention
    assert kl.recomputed == kl.forward == sft.forward
    assert kl.all - kl.useful == kl.recomputed
    assert training_flop(shape, Training(reference="cached"), STANDARD["kl"], length, 0.5).reference == 0
    ldifs = training_flop(shape, Training(), STANDARD["ldifs"], length, 0.5)
    assert (ldifs.head, ldifs.reference) == (sft.head, kl.reference)


@pytest.mark.parametrize("penalty", [None, "kl", "ldifs"])
def test_flop_are_those_that_pytorch_counts(penalty: str | None) -> None:
    width, length, rows = 64, 48, 3
    shape = ModelShape(
        hidden_size=width,
        intermediate_size=96,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=259,
        tie_word_embeddings=True,
    )
    training = Training(precision="float32", lora_rank=8)
    reader = FeatureReader(add_adapter(make_model(layers=6, attn_implementation="eager"), training))
    ids = torch.randint(3, 259, (rows, length)).tolist()
    batch = Collator(0)([{"input_ids": row, "labels": row, "row": number} for number, row in enumerate(ids)])
    counts = WindowCounts(labels=rows * (length - 1), tokens=rows * length, sequences=rows)
    loss = DefenceLoss(reader, build_penalty(penalty, {}) if penalty else None, 0.1)
    with FlopCounterMode(display=False) as counter:
        loss(batch, counts).total.backward()
    flop = training_flop(shape, training, STANDARD[penalty] if penalty else None, length, (length - 1) / length)
    # Eager attention computes the half of the scores that is masked as well.
    masked = 2 * length * shape.query_size * shape.num_hidden_layers
    masked *= 3 if flop.reference == 0 else 4
    # The embeddings are frozen, so the first block's queries, keys, values and adapters give no gradient to its input.
    inputs = sum(width * out + 8 * width for out in (width, width // 2, width // 2))
    expected = (flop.all + masked - 2 * inputs) * rows * length
    assert counter.get_total_flops() == pytest.approx(expected, rel=5e-3)


def test_bytes_of_cached_features() -> None:
    tokens = 5400 * 300
    assert feature_bytes(tokens, 3584, 0, "bfloat16") == 11_612_160_000
    assert feature_bytes(tokens, 3584, 5, "bfloat16") == 6 * 11_612_160_000
    assert feature_bytes(1, 64, 0, "float32") == 256
