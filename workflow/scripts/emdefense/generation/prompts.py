"""What every engine needs to ask a model: a prompt's tokens, those that end an answer, and the seed of its samples."""

from hashlib import sha256
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from emdefense.errors import InputError
from emdefense.files import read_json
from emdefense.generation.protocol import Conversation


def prompt_tokens(tokenizer: PreTrainedTokenizerBase, conversation: Conversation) -> list[int]:
    """Return the tokens of a conversation in the model's chat template, up to where the answer starts."""
    try:
        text = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # whatever a model's own Jinja template raises
        raise InputError(f"the tokenizer's chat template rejects a question ({error})") from None
    tokens: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return tokens


def end_tokens(model: Path, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens that end an answer: the model's own, and the tokenizer's."""
    names = [name for name in ("generation_config.json", "config.json") if (model / name).is_file()]
    own = read_json(model / names[0]).get("eos_token_id")
    ends = [own] if isinstance(own, int) else list(own or [])
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in ends:
        ends.append(tokenizer.eos_token_id)
    if not ends:
        raise InputError(f"{model}: neither model nor tokenizer names an end-of-text token; set eos_token")
    return ends


def prompt_seed(seed: int, prompt: list[int]) -> int:
    """Return 56 bits that depend on the seed and the prompt alone."""
    return int.from_bytes(sha256(f"{seed} {prompt}".encode()).digest()[:7])
