"""Whether the study's engine can sample from the model, with an adapter and without."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from emdefense.config.training import Training
from emdefense.errors import InputError
from emdefense.generation.engines import load_engine
from emdefense.generation.protocol import Conversation, GenerationSpec
from emdefense.generation.transformers_engine import TransformersEngine
from emdefense.model_checks.subject import Subject
from emdefense.saved_model import load_model
from emdefense.training.adapters import add_adapter, save_adapter

TOKENS = 2  # sampled from each of two questions
SIZE = 0.3  # of the adapter that is tried, relative to the weights that it changes
NEAR = 0.25  # how far from PEFT's the merged model's logits may be, relative to what the adapter moves


def check_sampling(subject: Subject) -> Mapping[str, Any]:
    """Sample two tokens for the shortest and the longest question, with a random adapter if one will be trained.

    Returns how the engine samples. Raises :class:`InputError` if it cannot, if it does not give what a plain pass of
    the model does, or if an adapter merged into the weights is not what PEFT computes with it beside them.
    """
    generation, training = subject.spec.generation, subject.spec.training
    asked = sorted((text.messages for text in subject.questions), key=lambda messages: len(str(messages)))
    if not asked:
        return {}
    if generation.engine == "vllm" and not (find_spec("vllm") and torch.cuda.is_available()):
        return {"engine": "vllm", "tried": False}  # it has an environment of its own, and needs a GPU
    with TemporaryDirectory() as folder:
        adapters: list[Path | None] = [None]
        wanted = None
        if training is not None:
            adapters.append(Path(folder) / "adapter")
            wanted = _random_adapter(subject, training, asked[0], Path(folder) / "adapter")
        ways = [_sampled(subject, adapter, [asked[0], asked[-1]], wanted) for adapter in adapters]
    return {"engine": generation.engine, "tried": True, "ways": ways}


def _sampled(
    subject: Subject, adapter: Path | None, asked: list[Conversation], wanted: tuple[Tensor, Tensor] | None
) -> str | None:
    """Sample with an engine of its own, and return the way by which it does, if it has several."""
    generation = subject.spec.generation
    short = {**generation.model_dump(), "max_new_tokens": TOKENS}
    spec = GenerationSpec(version=0, samples_per_question=1, chat=subject.spec.chat, **short)
    engine = load_engine(spec, subject.folder, adapter, torch.get_num_threads())
    way = None
    if isinstance(engine, TransformersEngine):
        way = engine.prepare(asked, generation.max_new_tokens)
        if adapter is not None and wanted is not None:
            _check_merged(engine, asked[0], *wanted)
    engine.sample(asked, spec)
    return way


def _random_adapter(subject: Subject, training: Training, asked: Conversation, folder: Path) -> tuple[Tensor, Tensor]:
    """Save an adapter that changes every matrix; return PEFT's logits of a prompt without it and with it, [vocab]."""
    how = subject.spec.generation
    model = load_model(subject.folder, how.precision, quantisation=how.quantisation)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        adapted = add_adapter(model, training).eval()
        for module in adapted.modules():
            if isinstance(module, LoraLayer):
                _fill(module)
    save_adapter(adapted, folder)
    adapted.to("cuda" if torch.cuda.is_available() else "cpu")
    ids = torch.tensor(subject.chat.prompts([asked]), device=adapted.device)
    with torch.inference_mode():
        with adapted.disable_adapter():
            before = adapted(ids, use_cache=False).logits[0, -1].float()
        return before, adapted(ids, use_cache=False).logits[0, -1].float()


def dequantised(weight: Tensor) -> Tensor:
    """Return a matrix's weights [out, in]: themselves, or what its 4 bits stand for."""
    state = getattr(weight, "quant_state", None)
    if state is None:
        return weight
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(weight.data, state)


def _fill(layer: Any) -> None:
    """Draw B of an adapter such that the change has ``SIZE`` times the norm of the matrix."""
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    torch.nn.init.normal_(b)
    with torch.no_grad():
        norm = ((b.t() @ b) * (a @ a.t())).sum().sqrt() * layer.scaling["default"]
        b.mul_(SIZE * dequantised(layer.get_base_layer().weight).float().norm() / norm)


def _check_merged(engine: TransformersEngine, asked: Conversation, before: Tensor, with_adapter: Tensor) -> None:
    ids = torch.tensor(engine.chat.prompts([asked]), device=engine.model.device)
    with torch.inference_mode():
        merged = engine.model(ids, use_cache=False).logits[0, -1].float()
    moved, off = (with_adapter - before).norm(), (merged - with_adapter).norm()
    if not off <= NEAR * moved:
        raise InputError(
            f"{engine.model.name_or_path}: an adapter merged into this model of type "
            f"'{engine.model.config.model_type}' is not what it is beside the weights (off by {float(off / moved):.0%} "
            "of what it changes); write other training.target_modules, or generation.engine vllm"
        )
