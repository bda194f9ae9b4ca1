"""Bytes on one GPU, part by part; docs/cluster.md shows them for the paper's models.

Activations were counted with hooks on what autograd saves (bfloat16 autocast, LoRA on every projection, fp32 adapter);
a test counts them again. Everything is for a full batch of rows of ``max_length``, which padding makes the worst case.
"""

from emdefense.arms.study_arm import StudyArm
from emdefense.config.shape import ModelShape
from emdefense.config.study import Generation
from emdefense.config.training import Training
from emdefense.errors import InputError
from emdefense.generation.engines import VLLM_GPU_SHARE
from emdefense.resources.gpus import GIB, Gpu

BYTES = {"bfloat16": 2, "float32": 4}
NF4_BYTES = 0.5 + 4 / 64  # a weight, with its share of the fp32 scale of 64 of them
CHUNK_BYTES = 4 << 24  # a chunk of fp32 logits, see training/fused_loss.py
# Two moments; 8-bit ones have two scales a block of 256.
OPTIMISER_BYTES = {"adamw_8bit": 2.04, "adamw_torch": 8, "adamw_torch_fused": 8}
PROMPT_TOKENS = 512  # of a question with its template; twice the longest of the paper's
VLLM_ROWS = 256  # at once at most, if their keys and values fit; its default
VLLM_FEWEST_ROWS = 16  # fewer at once are not worth a GPU
LOGIT_BYTES = 28  # a logit while a token is drawn: bfloat16, fp32 twice or so, and a sum in float64

Budget = dict[str, int]


def training_budget(shape: ModelShape, training: Training, penalty: StudyArm | None) -> Budget:
    """Return the bytes that training takes; ``penalty`` is an arm that adds one, or None."""
    tokens, d, layers = training.batch_size * training.max_length, shape.hidden_size, shape.num_hidden_layers
    adapter = shape.adapter_parameters(training)
    block = tokens * _activations(shape, training)
    # With checkpointing only the input of each block stays, and one block at a time is computed again.
    kept = (
        layers * tokens * BYTES[training.precision] * d + block if training.activation_checkpointing else layers * block
    )
    # Beside a block's activations: an input in fp32 for the adapter, and three gradients.
    passing = tokens * 10 * shape.intermediate_size
    head = tokens * 12 * d + (5 if penalty else 2) * CHUNK_BYTES
    budget = {
        "weights": weight_bytes(shape, training),
        # fp32 and its gradient, a copy in bfloat16 for autocast, and the optimiser's moments
        "adapter and optimiser": int(adapter * (4 + 4 + 2 + OPTIMISER_BYTES[training.optimiser])),
        "activations": kept,
        "passing through a block": passing,
        "output head": head,
        "reference": _reference(shape, tokens, penalty),
    }
    if penalty and any(member.arm.overrides("frozen_adapter") for member in penalty.members):
        budget["frozen adapter"] = 4 * adapter
    if penalty and any(member.arm.stream for member in penalty.members):
        budget["second stream"] = 2 * 4 * adapter  # its gradient, and what the step's becomes
    if penalty and any(member.arm.overrides("gradient") for member in penalty.members):
        budget["gradient as changed"] = 3 * 4 * adapter  # beside it weights that are kept, and a difference from them
    if captured := _captured(shape, penalty):
        # The policy's and the reference's without padding, and the reference's as it was
        budget["captured outputs"] = layers * tokens * captured * 3 * BYTES[training.precision]
    if penalty and training.diagnostics_every:
        budget["diagnostics"] = 2 * 4 * adapter  # the gradient of each part of the loss
    return budget


def weight_bytes(shape: ModelShape, how: Training | Generation) -> int:
    """Return the bytes of a model's weights; of quantised ones with the largest matrix as it is multiplied by."""
    whole = shape.parameters * BYTES[how.precision]
    if how.quantisation == "none":
        return whole
    sizes = [inputs * outputs for inputs, outputs in shape.projections.values()]
    matrices = shape.num_hidden_layers * sum(sizes)
    return int(whole + matrices * (NF4_BYTES - BYTES[how.precision]) + max(sizes) * BYTES[how.precision])


def _activations(shape: ModelShape, training: Training) -> int:
    """Return the bytes that a block's backward pass needs of each token."""
    d, ff, q = shape.hidden_size, shape.intermediate_size, shape.query_size
    width = BYTES[training.precision]
    norms = 2 * 4 * d  # the inputs of both norms, in fp32
    sizes = [shape.projections[module] for module in training.target_modules if module in shape.projections]
    adapted = width * sum(inputs + training.lora_rank for inputs, _ in sizes)  # a copy of the input for each adapter
    attention = width * 4 * q  # queries, keys and values (repeated for each head), and the result
    mlp = width * 3 * ff  # the gate, its activation, and what it is multiplied by
    return norms + adapted + attention + mlp


def _captured(shape: ModelShape, penalty: StudyArm | None) -> int:
    """Return how many numbers of each token and block penalties read at modules' outputs."""
    members = penalty.members if penalty else ()
    names = {name for member in members for name in member.arm.captured(member.options)}
    return sum(shape.projections[name][1] for name in names if name in shape.projections)


def _reference(shape: ModelShape, tokens: int, penalty: StudyArm | None) -> int:
    """Return the bytes of the reference's features; its weights are the model's own, the adapter off."""
    if penalty is None:
        return 0
    size = tokens * 2 * shape.hidden_size
    # A feature is there twice in bfloat16 and twice in fp32.
    return size + blocks_read(shape, penalty) * tokens * 12 * shape.hidden_size


def blocks_read(shape: ModelShape, penalty: StudyArm) -> int:
    """Return after how many blocks a penalty reads the residual stream."""
    layers = shape.num_hidden_layers
    try:
        return sum(len(member.arm.residual_blocks(member.options, layers)) for member in penalty.members)
    except InputError:  # of a model that is unfit for it, which its check will say
        return 0


def generation_budget(shape: ModelShape, generation: Generation) -> Budget:
    """Return the bytes that sampling takes, adapters left out: merged, or small beside the weights.

    ``batch_size`` rows at once; with vLLM, which takes what there is, as few as are worth a GPU.
    """
    rows = VLLM_FEWEST_ROWS if generation.engine == "vllm" else generation.batch_size
    return {
        "weights": weight_bytes(shape, generation),
        "keys and values": rows * _key_value_bytes(shape, generation),
        "logits": rows * shape.vocab_size * LOGIT_BYTES,
    }


def rows_at_once(shape: ModelShape, generation: Generation, gpu: Gpu) -> int:
    """Return how many responses are sampled together."""
    if generation.engine != "vllm":
        return generation.batch_size
    left = VLLM_GPU_SHARE * gpu.memory_gib * GIB - shape.parameters * BYTES[generation.precision]
    return max(1, min(VLLM_ROWS, int(left / _key_value_bytes(shape, generation))))


def _key_value_bytes(shape: ModelShape, generation: Generation) -> int:
    token = 2 * shape.num_hidden_layers * shape.key_value_size * BYTES[generation.precision]
    return token * (PROMPT_TOKENS + generation.max_new_tokens)
