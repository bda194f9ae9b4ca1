"""Models: the folder that holds one, checked to be whole."""

from pathlib import Path

from emdefense.config.sources import ModelSource
from emdefense.errors import InputError
from emdefense.model_files import INDEX, weight_map
from emdefense.sources.fetched import Fetched

# Of a hub repository: config, tokenizer and weights, without other formats of the weights.
PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
NEEDED = ("config.json", "tokenizer_config.json")


def convert_model(source: ModelSource, raw: Path) -> Fetched:
    """Return the folder as it is, once all its parts are known to be there."""
    missing = [name for name in NEEDED if not (raw / name).is_file()]
    if (raw / INDEX).is_file():
        shards = sorted(set(weight_map(raw).values()))
        missing += [name for name in shards if not (raw / name).is_file()]
    elif not any(raw.glob("*.safetensors")):
        missing.append("*.safetensors")
    if missing:
        raise InputError(
            f"{raw}: not a whole model, {', '.join(missing)} missing; fetch it again, or name another folder"
        )
    return Fetched({"NAME": raw})
