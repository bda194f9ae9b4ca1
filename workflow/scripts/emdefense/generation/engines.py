"""The engines by name; each module is imported only where its engine is asked for."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from emdefense.errors import InputError
from emdefense.fast_imports import fast_imports
from emdefense.generation.protocol import Engine, GenerationSpec
from emdefense.provenance import package_versions

CLASSES = {"transformers": "TransformersEngine", "vllm": "VllmEngine"}
VLLM_GPU_SHARE = 0.9  # of a GPU's memory, for weights and cache
# An engine is called like its package.
PACKAGES = {
    "transformers": ("transformers", "torch", "tokenizers"),
    "vllm": ("vllm", "torch", "transformers", "tokenizers"),
}


def engine_module(name: str) -> str:
    """Return the module of an engine."""
    return f"emdefense.generation.{name}_engine"


def load_engine(spec: GenerationSpec, model: Path, adapter: Path | None, threads: int) -> Engine:
    """Return the spec's engine with the model in memory.

    Raises :class:`InputError` if it cannot be had here, or if the version of a package that it uses, which stands in
    the record of what is sampled, cannot be told.
    """
    check_installed(spec.engine)
    package_versions(PACKAGES[spec.engine])
    with fast_imports():
        module = import_module(engine_module(spec.engine))
    engine: Engine = getattr(module, CLASSES[spec.engine])(
        model, adapter, spec.precision, threads, spec.chat, spec.quantisation
    )
    return engine


def check_installed(name: str, elsewhere: Path | None = None) -> None:
    """Raise :class:`InputError` if an engine's package cannot be imported here, nor in an environment ``elsewhere``."""
    if find_spec(name) is None and elsewhere is None:
        raise InputError(
            f"key 'generation.engine': {name} is not installed here; make an environment for it with `make "
            ".venv-vllm/ready`, or name one as generation.environment, or run with `--sdm conda` "
            "(envs/generate-vllm.yaml), or write transformers"
        )


def device_name() -> str:
    """Return the GPU that engines use, or ``cpu``."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
