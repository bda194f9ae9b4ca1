"""Ten steps of training, and ten of sampling, on a model of random weights: what a core makes of them."""

import time
from collections.abc import Callable

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from emdefense.chat.chat import IGNORED
from emdefense.config.shape import ModelShape
from emdefense.config.training import Training
from emdefense.resources.duration import EMA_TOKENS, RESPONSE_SHARE, SECONDS_PER_BLOCK
from emdefense.resources.machine import Speed
from emdefense.training.adapters import add_adapter
from emdefense.training.batches import next_tokens
from emdefense.training.costs import BYTES, training_flop
from emdefense.training.features import FeatureReader
from emdefense.training.fused_loss import cross_entropy, fused_head_loss

STEPS, LIMIT_SECONDS = 10, 30


def measure_speed(shape: ModelShape, training: Training) -> Speed:
    """Return the speed of one core, by its processor time: other programs do not count.

    A step of training is one row; the model is Llama's, whose blocks have the same products as Qwen2's. What a token
    of sampling takes beyond its arithmetic and the overhead of its blocks is put down to reading the weights.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = _model(shape).to(getattr(torch, training.precision))
    adapted = add_adapter(model, training)
    length = min(EMA_TOKENS, training.max_length)
    ids = torch.randint(0, shape.vocab_size, (1, length))
    labels = ids.clone()
    labels[:, : round(length * (1 - RESPONSE_SHARE))] = IGNORED
    inputs = {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}
    reader, targets = FeatureReader(adapted), next_tokens(inputs)
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]

    def train() -> None:
        terms = [(1.0, cross_entropy(targets, int((targets != IGNORED).sum())))]
        with torch.autocast("cpu", torch.bfloat16, enabled=training.precision == "bfloat16"):
            loss, _ = fused_head_loss(reader.policy(inputs).final, reader.head, terms)
        torch.autograd.grad(loss, trained)

    flop = training_flop(shape, training, None, length, RESPONSE_SHARE).useful * length
    tflops = flop / _seconds(train) / 1e12
    seconds = _sampling_seconds(model, ids[:, :1])
    computing, overhead = 2 * shape.parameters / (1e12 * tflops), SECONDS_PER_BLOCK * shape.num_hidden_layers
    # What is left is no less than a tenth: a processor's cache may hold a small model.
    reading = max(seconds - computing - overhead, seconds / 10)
    gb_per_s = BYTES[training.precision] * shape.parameters / reading / 1e9
    return Speed(tflops, gb_per_s)


def _model(shape: ModelShape) -> PreTrainedModel:
    sizes = shape.model_dump(exclude_none=True)
    return LlamaForCausalLM(LlamaConfig(**sizes, max_position_embeddings=4096))


@torch.no_grad()
def _sampling_seconds(model: PreTrainedModel, ids: torch.Tensor) -> float:
    """Return the seconds of a token, of one response, with what came before in the cache."""
    model.eval()
    cache = model(ids, use_cache=True).past_key_values

    def token() -> None:
        model(ids, past_key_values=cache, use_cache=True)

    return _seconds(token)


def _seconds(step: Callable[[], None]) -> float:
    """Return the mean processor seconds of ten steps, or of as many as half a minute has, after one to warm up."""
    step()
    started, taken, seconds = time.process_time(), 0, 0.0
    while taken < STEPS and seconds < LIMIT_SECONDS:
        step()
        taken, seconds = taken + 1, time.process_time() - started
    return seconds / taken
