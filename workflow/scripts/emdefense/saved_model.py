"""Loads a saved model and its tokenizer, from their folder alone, and names what is missing or broken in it.

No code but transformers' own is ever run, whatever the folder asks for and whoever might agree to it.
"""

import math
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
import transformers
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

from emdefense.config.training import Quantisation, Training
from emdefense.errors import InputError, one_line
from emdefense.model_files import CONFIG, check_config, check_there, check_tokenizer_files
from emdefense.training.packages import check_quantisation
from emdefense.weight_files import weight_shapes

OWN_FILES_ALONE = {"local_files_only": True, "trust_remote_code": False}
# How many times as many weights as its files hold a model may have: what is tied is stored once.
MOST_TIED = 4
MOST_BUFFERED = 1 << 28  # numbers that are not stored, such as masks of all positions: 1 GiB


def warm_up() -> None:
    """Have transformers do what it does once in a process, before a first model is loaded.

    It compiles nine hundred patterns, by which weights of any type of model are named anew: longer than loading a small
    model. And it imports the type at hand, here that of the microcosm's models.
    """
    get_checkpoint_conversion_mapping(transformers.Qwen2ForCausalLM.config_class.model_type)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Return a model's tokenizer; :class:`InputError` names what the folder lacks."""
    _quieten()
    check_there(folder, CONFIG, "model")
    check_tokenizer_files(folder)
    load_config(folder)
    with in_one_line(folder, "load the tokenizer"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, **OWN_FILES_ALONE)
        tokenizer.model_max_length = int(1e30)  # texts are measured by the study's own limits
        tokenizer(["a"], add_special_tokens=False)
    if tokenizer.chat_template is None:
        raise InputError(
            f"{folder}: the tokenizer has no chat template; add chat_template.jinja, or use an instruction-tuned model"
        )
    return tokenizer


def _quieten() -> None:
    """Let libraries say nothing that is not the user's: what is wrong with a model is said here, in one line."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def load_config(folder: Path) -> PretrainedConfig:
    """Return a model's config as transformers reads it; :class:`InputError` names what is wrong with it."""
    kind = check_config(folder)["model_type"]
    if kind not in CONFIG_MAPPING:
        raise InputError(
            f"{folder / CONFIG}: transformers {transformers.__version__} knows no model of type '{kind}', and no code "
            "of the model's own is ever run; name another model"
        )
    with in_one_line(folder, "load the model"):
        config = AutoConfig.from_pretrained(folder, **OWN_FILES_ALONE)
        config.return_dict, config.output_attentions, config.output_hidden_states = True, False, False
        text = config.get_text_config()
        if not isinstance(text, PretrainedConfig) or not isinstance(text.vocab_size, int):
            raise InputError(
                f"{folder / CONFIG}: key 'text_config' or 'vocab_size' is of the wrong type; fetch it again"
            )
        return config


def load_model(
    folder: Path, precision: str, attention: str | None = None, quantisation: Quantisation = "none"
) -> PreTrainedModel:
    """Return the model in ``folder`` in ``precision`` (``bfloat16`` or ``float32``), on the CPU.

    ``attention`` is how it is computed (``training.attention``); None leaves it to transformers: sdpa where it can be.
    With ``quantisation`` its matrices but for embedding and head are kept in 4 bits (and it lies on a GPU if there is
    one), and turned into ``precision`` for each product (QLoRA, arXiv 2305.14314, section 3).

    Raises :class:`InputError` if a file is missing or torn, if a tensor is missing (transformers would draw it at
    random), has another shape than the config says or no place in it, and if a weight is not finite.
    """
    _quieten()
    config = load_config(folder)
    _check_size(folder, config)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    quantised = {} if quantisation == "none" else {"quantization_config": _in_four_bits(folder, config, dtype)}
    model: PreTrainedModel
    how = f" with training.attention: {attention}" if attention else ""
    with in_one_line(folder, f"load the model{how}", _other_attention(attention)):
        model, found = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            **quantised,
            attn_implementation=attention,
            ignore_mismatched_sizes=True,  # they are named below
            output_loading_info=True,
            use_safetensors=True,
            **OWN_FILES_ALONE,
        )
    for name in sorted(found["missing_keys"]):
        raise InputError(f"{folder}: its files hold no '{name}'; fetch it again")
    for name, *_ in sorted(found["mismatched_keys"]):
        raise InputError(f"{folder}: '{name}' has another shape than config.json says; fetch it again")
    modules = dict(model.named_modules())
    known = {_numbers_apart(name) for name, _ in model.named_parameters()}
    for name in sorted(found["unexpected_keys"]):
        if _numbers_apart(name) in known or _belongs(name, modules):
            raise InputError(f"{folder}: config.json has no place for '{name}', which its files hold; fetch it again")
    for name in sorted(
        set(model.get_expanded_tied_weights_keys(all_submodels=True)) - set(model.all_tied_weights_keys)
    ):
        raise InputError(
            f"{folder}: config.json says tie_word_embeddings: true, but the files hold a '{name}' that is not what it "
            "would be tied to; write false there if it is the model's own, or fetch it again"
        )
    for name, parameter in model.named_parameters():
        scales = getattr(parameter, "quant_state", None)  # of a matrix in 4 bits, whose own bytes are always finite
        if not torch.isfinite((parameter if scales is None else scales.absmax).sum()):  # without a copy, 2 s for 7B
            raise InputError(f"{folder}: '{name}' holds values that are not finite; fetch or make the model again")
    return model


def load_to_train(folder: Path, training: Training) -> PreTrainedModel:
    """Return the model in ``folder`` as trainings compute it; raises what :func:`load_model` raises."""
    return load_model(folder, training.precision, training.attention, training.quantisation)


def _in_four_bits(folder: Path, config: PretrainedConfig, dtype: torch.dtype) -> BitsAndBytesConfig:
    """Return how transformers is to quantise a model; :class:`InputError` if it cannot."""
    check_quantisation("nf4")
    if getattr(config, "quantization_config", None) is not None:
        raise InputError(f"{folder}: it is quantised already; write quantisation: none, or name the model in bfloat16")
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


def _check_size(folder: Path, config: PretrainedConfig) -> None:
    """Raise :class:`InputError` if a config describes far more weights than there are, before memory is taken."""
    shapes = weight_shapes(folder)
    stored = sum(map(math.prod, shapes.values()))
    with in_one_line(folder, "load the model"):
        layers = config.get_text_config().num_hidden_layers
        described, buffered = None, 0
        if isinstance(layers, int) and layers <= len(shapes):
            with torch.device("meta"):
                empty = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
            described = sum(parameter.numel() for parameter in empty.parameters())
            buffered = sum(buffer.numel() for buffer in empty.buffers())
    if described is None or described > MOST_TIED * stored or buffered > max(MOST_BUFFERED, MOST_TIED * stored):
        raise InputError(
            f"{folder / CONFIG}: it describes a far larger model than the {stored} weights there are; fetch both again"
        )


@contextmanager
def in_one_line(folder: Path | str, what: str, instead: str = "fetch it again") -> Iterator[None]:
    """Turn whatever transformers and tokenizers raise for files that are not as they expect into one line.

    ``what`` is what was tried, as in "cannot load the model", and ``instead`` what to do about it.
    """
    try:
        yield
    except (InputError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise InputError(f"{folder}: cannot {what} ({one_line(error)[:300]}); {instead}") from None


def _other_attention(attention: str | None) -> str:
    if attention in (None, "eager"):
        return "fetch it again"
    return "if it has no such attention, write training.attention: eager; otherwise fetch it again"


def _belongs(name: str, modules: Mapping[str, torch.nn.Module]) -> bool:
    """Whether a stored tensor that the model has no place for is a bias, norm or matrix of one of its blocks.

    Others are of no account: masks and frequencies that are computed, further heads, layers that predict ahead.
    """
    parent, _, last = name.rpartition(".")
    if last not in ("weight", "bias") or not re.search(r"\.\d+\.", name):
        return False
    module, around = modules.get(parent), parent.rpartition(".")[0]
    if module is not None:
        return next(module.parameters(recurse=False), None) is not None
    return re.search(r"\.\d+", around) is not None and around in modules


def _numbers_apart(name: str) -> str:
    return re.sub(r"\d+", "0", name)
