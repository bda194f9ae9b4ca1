"""The files that hold a model's weights, of which only the headers are read."""

import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open

from emdefense.errors import InputError
from emdefense.model_files import INDEX, SINGLE, is_named, weight_map
from emdefense.text_files import OTHER_FORMATS, check_regular

FLOATS = ("F64", "F32", "F16", "BF16")
PICKLED = re.compile(r"pytorch_model.*\.bin|.*\.(pth|pt|ckpt)")


def weight_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of each stored tensor, from the files' headers.

    Raises :class:`InputError` if the folder has no weights, a file of them is missing or not whole, or they are no
    plain floating-point numbers.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for file, names in tensors_by_file(folder).items():
        with open_tensors(folder / file) as tensors:
            stored = set(tensors.keys())
            for name in sorted(stored if names is None else names):
                if name not in stored:
                    raise InputError(
                        f"{folder / file}: there is no '{name}' in it, though {INDEX} says so; fetch both again"
                    )
                tensor = tensors.get_slice(name)
                if "weight" in name.rpartition(".")[2] and tensor.get_dtype() not in FLOATS:
                    raise InputError(
                        f"{folder / file}: '{name}' holds {tensor.get_dtype()}, which needs scales to be read; name "
                        "the model before it was quantised"
                    )
                shapes[name] = tuple(tensor.get_shape())
    return shapes


def tensors_by_file(folder: Path) -> Mapping[str, list[str] | None]:
    """Return the files that hold weights, and the tensors that each is to hold; None for all that it has.

    As transformers does, a single file is taken before an index. Raises :class:`InputError` if there is neither.
    """
    if is_named(folder / SINGLE):
        return {SINGLE: None}
    if is_named(folder / INDEX):
        files: dict[str, list[str] | None] = {}
        for name, file in weight_map(folder).items():
            files[file] = [*(files.get(file) or []), name]
        return files
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such model folder")
    others = sorted(path.name for path in folder.iterdir() if PICKLED.fullmatch(path.name) or path.suffix == ".gguf")
    if others:
        raise InputError(
            f"{folder}: there are no weights ({SINGLE} or {INDEX}), only {others[0]}, of a kind that is not read; save "
            "the model as safetensors, with save_pretrained"
        )
    raise InputError(f"{folder}: there are no weights ({SINGLE} or {INDEX}); name a folder that has them")


def open_tensors(path: Path, framework: str = "numpy") -> safe_open:
    """Open a safetensors file; :class:`InputError` if it is missing, a pointer to a file, or not whole."""
    if not is_named(path):
        by = f", though {INDEX} names it" if (path.parent / INDEX).is_file() else ""
        raise InputError(f"{path}: there is no such file{by}; fetch it")
    check_regular(path)
    try:
        return safe_open(path, framework=framework)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a whole safetensors file ({_instead(path) or error}); fetch it again") from None


def _instead(path: Path) -> str | None:
    """Return what a file is that should be safetensors, where that shows."""
    with path.open("rb") as content:
        start = content.read(64)
    return next((what for first, what in OTHER_FORMATS.items() if start.startswith(first)), None)
