"""The files that a saved model is, checked without loading it; whatever else lies beside them counts for nothing."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emdefense.errors import InputError
from emdefense.text_files import opened, problem_in_words, read_text

CONFIG, TOKENIZER_CONFIG, GENERATION_CONFIG = "config.json", "tokenizer_config.json", "generation_config.json"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# What tokenizers are read from, whatever their class; and by their endings, what each of them calls its own.
TOKENIZER_FILES = (
    *("tokenizer.json", TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "vocab.txt", "chat_template.json"),
)
OTHER_TEMPLATES = "additional_chat_templates"  # a folder of those besides the default one
TOKENIZER_ENDINGS = (".model", ".tiktoken", ".spm", ".jinja")
COUNTED, MOST_COUNTED = re.compile("layer|expert|block"), 10_000
_ENDS = "key 'eos_token_id' is no token id and no list of them"


def model_files(folder: Path) -> list[Path]:
    """Return the files that a model is, by name: its config, its tokenizer and its weights.

    A file that is hidden, or that neither transformers nor its weights' index asks for, is none of them.
    """
    names = {CONFIG, GENERATION_CONFIG, ADAPTER_CONFIG, *TOKENIZER_FILES, *_weight_files(folder)}
    found = [path for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []
    found += (folder / OTHER_TEMPLATES).glob("*.jinja")
    return sorted(path for path in found if path.name in names or path.name.endswith(TOKENIZER_ENDINGS))


def _weight_files(folder: Path) -> set[str]:
    """Return the names of a model's weight files, its index among them; a broken index is for others to complain of."""
    if (folder / SINGLE).is_file() or not (folder / INDEX).is_file():
        return {SINGLE}
    try:
        return {INDEX, *weight_map(folder).values()}
    except InputError:
        return {INDEX}


def weight_map(folder: Path) -> dict[str, str]:
    """Return which file holds which tensor, by the index of a sharded model; :class:`InputError` if that is none."""
    index = _json(folder / INDEX)
    found = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(found, dict) or not found:
        raise InputError(f"{folder / INDEX}: there is no 'weight_map' in it; fetch the file again")
    for name, file in found.items():
        if not isinstance(file, str) or not file.endswith(".safetensors") or Path(file).name != file:
            raise InputError(f"{folder / INDEX}: '{name}' is in {file!r}, which is no safetensors file; fetch it again")
    return found


def check_config(folder: Path) -> dict[str, Any]:
    """Return a model's config; :class:`InputError` if there is none, or it is one of a model that cannot be used.

    These are quantised weights, an encoder with a decoder, and a model that needs code of its own to be run.
    """
    check_there(folder, CONFIG, "model")
    config = json_object(folder / CONFIG)
    if not isinstance(config.get("model_type"), str):
        raise InputError(f"{folder / CONFIG}: key 'model_type' does not say what model it is; fetch the file again")
    if config.get("quantization_config") is not None:
        raise InputError(f"{folder / CONFIG}: the weights are quantised; name the model before it was quantised")
    if config.get("is_encoder_decoder"):
        raise InputError(f"{folder / CONFIG}: an encoder with a decoder; only decoders can be trained")
    if (folder / ADAPTER_CONFIG).exists():
        raise InputError(
            f"{folder / ADAPTER_CONFIG}: an adapter lies in the model's folder, and would be loaded with it; "
            "move it elsewhere, or merge it into the weights"
        )
    _check_counts(folder / CONFIG, config)
    _check_ends(folder / CONFIG, config)
    if is_named(folder / GENERATION_CONFIG):
        _check_ends(folder / GENERATION_CONFIG, json_object(folder / GENERATION_CONFIG))
    _check_code(folder / CONFIG, config)
    return config


def check_tokenizer_files(folder: Path) -> None:
    """Raise :class:`InputError` if a tokenizer's file is missing, no JSON, a pointer to a file, or asks for code."""
    check_there(folder, TOKENIZER_CONFIG, "tokenizer")
    for path in model_files(folder):
        if path.name == "tokenizer.json" or path.suffix in TOKENIZER_ENDINGS or path.suffix == ".txt":
            with opened(path):  # megabytes: whoever loads it reads it
                pass
        elif path.name in TOKENIZER_FILES:
            content = json_object(path)
            if path.name == TOKENIZER_CONFIG:
                _check_code(path, content)


def check_there(folder: Path, name: str, what: str) -> None:
    """Raise :class:`InputError` if a model's folder is not there, or lacks the file ``name`` of its ``what``."""
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such model folder")
    if not is_named(folder / name):
        raise InputError(f"{folder}: there is no {what} ({name}); name a folder written by save_pretrained")


def is_named(path: Path) -> bool:
    """Whether something has this name, a link that leads nowhere included: that is a broken file, not a missing one."""
    return path.exists() or path.is_symlink()


def json_object(path: Path) -> dict[str, Any]:
    """Return the object in a file that transformers wrote, which may hold Infinity; errors as for a user's JSON."""
    value = _json(path)
    if not isinstance(value, dict):
        raise InputError(f"{path}: a JSON {type(value).__name__}, not an object; fetch the file again")
    return value


def _json(path: Path) -> Any:
    text = read_text(path)
    try:
        return json.loads(text)
    except RecursionError:
        raise InputError(f"{path}: not valid JSON (too many values in each other); fetch the file again") from None
    except ValueError as error:
        problem = error if isinstance(error, json.JSONDecodeError) else problem_in_words(error)
        raise InputError(f"{path}: not valid JSON ({problem}); fetch the file again") from None


def _check_counts(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse numbers of layers and experts that would have transformers make lists until memory ends."""
    for key, value in config.items():
        if isinstance(value, dict):
            _check_counts(path, value)
        elif COUNTED.search(key) and isinstance(value, (int, float)) and value > MOST_COUNTED:
            raise InputError(f"{path}: key '{key}': no model has {value:g} of them; fetch the file again")


def _check_ends(path: Path, config: Mapping[str, Any]) -> None:
    ends = config.get("eos_token_id")
    tokens = ends if isinstance(ends, list) else [] if ends is None else [ends]
    if not all(isinstance(token, int) and not isinstance(token, bool) for token in tokens):
        raise InputError(f"{path}: {_ENDS}; fetch the file again")


def _check_code(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse a model whose own code lies beside it, or that names some: nothing of it is ever run."""
    if not config.get("auto_map"):
        return
    code = sorted(file.name for file in path.parent.glob("*.py"))
    if code or "--" in json.dumps(config["auto_map"]):
        where = code[0] if code else "another repository"
        raise InputError(
            f"{path}: key 'auto_map' asks for code of the model's own ({where}), which is never run; remove the key if "
            "transformers knows this kind of model itself, or name another model"
        )
