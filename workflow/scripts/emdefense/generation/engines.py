"""The engines by name; each module is imported only where its engine is asked for."""

from importlib import import_module
from pathlib import Path

from emdefense.fast_imports import fast_imports
from emdefense.generation.protocol import Engine, GenerationSpec

CLASSES = {"transformers": "TransformersEngine", "vllm": "VllmEngine"}
# An engine is called like its package.
PACKAGES = {
    "transformers": ("transformers", "torch", "tokenizers"),
    "vllm": ("vllm", "torch", "transformers", "tokenizers"),
}


def engine_module(name: str) -> str:
    """Return the module of an engine."""
    return f"emdefense.generation.{name}_engine"


def load_engine(spec: GenerationSpec, model: Path, adapter: Path | None, threads: int) -> Engine:
    """Return the spec's engine with the model in memory; :class:`InputError` if it cannot be had here."""
    with fast_imports():
        module = import_module(engine_module(spec.engine))
    engine: Engine = getattr(module, CLASSES[spec.engine])(model, adapter, spec.precision, threads)
    return engine


def device_name() -> str:
    """Return the GPU that engines use, or ``cpu``."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
