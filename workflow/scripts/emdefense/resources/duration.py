"""Seconds that a job should take, by arithmetic; requests are a multiple of them."""

from math import ceil
from typing import Any

from emdefense.config.shape import ModelShape
from emdefense.config.study import Generation
from emdefense.config.training import Training
from emdefense.resources.gpus import Gpu
from emdefense.resources.memory import BYTES
from emdefense.training.costs import training_flop

ROW_TOKENS = 512  # a row with its share of the padding; the paper's rows have 250 to 310 on average
COMPUTE_SHARE = 0.35  # of a GPU's peak, in matrix products as small as a batch of rows
BANDWIDTH_SHARE = 0.5  # of a GPU's memory bandwidth, while weights are read to sample a token
SECONDS_PER_BLOCK = 4e-4  # to launch a block's kernels, which a token of a small batch waits for
DISK_BYTES_PER_SECOND = 2e8  # a shared file system
JUDGE_SECONDS = 1.5  # a call to a remote judge


def training_seconds(
    shape: ModelShape, training: Training, penalty: dict[str, Any] | None, rows: int, gpu: Gpu
) -> float:
    """Return the seconds that a training takes on ``training.devices`` such GPUs."""
    length = min(ROW_TOKENS, training.max_length)
    # Cross-entropy on every token: how many of them a response has is not known.
    flop = training_flop(shape, training, penalty["name"] if penalty else None, length, 1).all
    seconds = flop * training.epochs * rows * length / (1e12 * gpu.tflops * COMPUTE_SHARE * training.devices)
    return loading_seconds(shape) + seconds


def generation_seconds(shape: ModelShape, generation: Generation, responses: int, gpu: Gpu) -> float:
    """Return the seconds that sampling takes if every response is as long as allowed."""
    reading = BYTES[generation.precision] * shape.parameters / (1e9 * gpu.gb_per_s * BANDWIDTH_SHARE)
    computing = 2 * shape.parameters * generation.batch_size / (1e12 * gpu.tflops * COMPUTE_SHARE)
    token = reading + computing + SECONDS_PER_BLOCK * shape.num_hidden_layers
    return loading_seconds(shape) + ceil(responses / generation.batch_size) * generation.max_new_tokens * token


def loading_seconds(shape: ModelShape) -> float:
    """Return the seconds that a model saved in bfloat16 takes from disk."""
    return 2 * shape.parameters / DISK_BYTES_PER_SECOND


def judging_seconds(responses: int, concurrency: int) -> float:
    """Return the seconds that a remote judge takes, who is asked twice about each response."""
    return 2 * responses * JUDGE_SECONDS / concurrency
