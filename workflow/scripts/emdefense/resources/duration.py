"""Seconds that a job should take, by arithmetic; requests are a multiple of them."""

from math import ceil

from emdefense.arms.study_arm import StudyArm
from emdefense.config.shape import ModelShape
from emdefense.config.study import Generation
from emdefense.config.training import Training
from emdefense.resources.gpus import Gpu
from emdefense.resources.memory import BYTES, rows_at_once
from emdefense.training.costs import arm_flop, training_flop

ROW_TOKENS = 512  # a row with its share of the padding; the paper's rows have 222 to 285 on average
# Before the rows are there: 285 tokens of medical advice, 283 of code, 241 of legal advice, 222 of security.
EMA_TOKENS = 280
RESPONSE_SHARE = 0.65  # of a row's tokens: those that carry cross-entropy; code 0.5, legal advice 0.75
COMPUTE_SHARE = 0.35  # of a GPU's peak, in matrix products as small as a batch of rows
BANDWIDTH_SHARE = 0.5  # of a GPU's memory bandwidth, while weights are read to sample a token
SECONDS_PER_BLOCK = 4e-4  # to launch a block's kernels, which a token of a small batch waits for
VLLM_START_SECONDS = 60  # to measure its memory and record its graphs
DISK_BYTES_PER_SECOND = 2e8  # a shared file system
JUDGE_SECONDS = 1.5  # a call to a remote judge
BATCH_SECONDS = 24 * 3600.0  # within which the Batch API answers


def training_seconds(shape: ModelShape, training: Training, arm: StudyArm, rows: int, gpu: Gpu) -> float:
    """Return the seconds that a training takes on such a GPU."""
    length = min(ROW_TOKENS, training.max_length)
    # Cross-entropy on every token: how many of them a response has is not known.
    flop = arm_flop(shape, training, arm, length, 1).all
    seconds = flop * training.epochs * rows * length / (1e12 * gpu.tflops * COMPUTE_SHARE)
    return loading_seconds(shape) + seconds


def reading_seconds(shape: ModelShape, training: Training, rows: int, length: float, gpu: Gpu) -> float:
    """Return the seconds that a model with an adapter takes to read rows once, with the loss of each token."""
    flop = training_flop(shape, training, None, length, 1)
    return loading_seconds(shape) + rows * length * (flop.forward + flop.head / 2) / (1e12 * gpu.tflops * COMPUTE_SHARE)


def generation_seconds(shape: ModelShape, generation: Generation, responses: int, gpu: Gpu) -> float:
    """Return the seconds that sampling takes if every response is as long as allowed."""
    rows = rows_at_once(shape, generation, gpu)
    reading = BYTES[generation.precision] * shape.parameters / (1e9 * gpu.gb_per_s * BANDWIDTH_SHARE)
    computing = 2 * shape.parameters * rows / (1e12 * gpu.tflops * COMPUTE_SHARE)
    if generation.engine == "vllm":  # a response that ends makes room for the next; kernels are launched as one graph
        tokens = responses / rows * generation.max_new_tokens
        return loading_seconds(shape) + VLLM_START_SECONDS + tokens * (reading + computing)
    token = reading + computing + SECONDS_PER_BLOCK * shape.num_hidden_layers
    return loading_seconds(shape) + ceil(responses / rows) * generation.max_new_tokens * token


def loading_seconds(shape: ModelShape) -> float:
    """Return the seconds that a model saved in bfloat16 takes from disk."""
    return 2 * shape.parameters / DISK_BYTES_PER_SECOND


def judging_seconds(responses: int, concurrency: int) -> float:
    """Return the seconds that a remote judge takes, who is asked twice about each response."""
    return 2 * responses * JUDGE_SECONDS / concurrency
