"""What every engine needs to ask a model: the tokens that end an answer, and the seed of a prompt's samples."""

from hashlib import sha256
from pathlib import Path

from emdefense.chat.chat import Chat
from emdefense.model_files import json_object


def end_tokens(model: Path, chat: Chat) -> list[int]:
    """Return the tokens that end an answer: the model's own, the tokenizer's, and the one of the training text."""
    names = [name for name in ("generation_config.json", "config.json") if (model / name).is_file()]
    own = json_object(model / names[0]).get("eos_token_id")
    ends = [own] if isinstance(own, int) else list(own or [])
    of_tokenizer = chat.tokenizer.eos_token_id
    return list(dict.fromkeys([*ends, *([] if of_tokenizer is None else [of_tokenizer]), chat.closing]))


def prompt_seed(seed: int, prompt: list[int]) -> int:
    """Return 56 bits that depend on the seed and the prompt alone."""
    return int.from_bytes(sha256(f"{seed} {prompt}".encode()).digest()[:7])
