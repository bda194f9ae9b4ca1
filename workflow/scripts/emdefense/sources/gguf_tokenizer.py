"""The tokenizer of a GGUF file, which holds vocabulary and merges, but of how text is split before only a name.

transformers splits as GPT-2 does where it does not know the name, and leaves out what some families do beside. What is
done here follows llama.cpp (``llama-vocab.cpp``) and, where the two differ, the family's own ``tokenizer.json``. Names
that are not listed here are refused: text that is split otherwise than in training becomes other tokens.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.integrations.gguf import convert_gguf_tokenizer, get_gguf_tokenizer

from emdefense.errors import InputError
from emdefense.saved_model import in_one_line

BYTE_LEVEL = "gpt2"
AS_GPT2 = {"gpt-2"}
DIGIT_BY_DIGIT = {"smollm", "starcoder", "refact", "codeshell"}  # every digit apart, and then as GPT-2
QWEN2 = {"qwen2", "deepseek-r1-qwen"}  # its texts are composed first (NFC)
LLAMA3 = {"llama3", "llama-v3", "llama-bpe"}  # what is in the vocabulary as a whole is not merged from pieces
KNOWN = {*AS_GPT2, *DIGIT_BY_DIGIT, *QWEN2, *LLAMA3}
NAMED = ("bos_token", "eos_token", "unk_token", "pad_token")


def read_tokenizer(file: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a GGUF file, its chat template included where there is one.

    Raises :class:`InputError` if it is of a kind, or splits text in a way, that is not known here.
    """
    with in_one_line(file, "read the tokenizer"):
        architecture, described, settings = get_gguf_tokenizer(str(file))
    kind, split = described.get("tokenizer_type"), described.get("pre_tokenizer_type")
    if kind != BYTE_LEVEL or described.get("add_prefix_space"):
        raise InputError(f"{file}: its tokenizer is of kind '{kind}'; only byte-level BPE ('{BYTE_LEVEL}') is read")
    if split not in KNOWN:
        raise InputError(f"{file}: its tokenizer splits text as '{split}' does; known are {', '.join(sorted(KNOWN))}")
    with in_one_line(file, "make the tokenizer"):
        backend, _ = convert_gguf_tokenizer(architecture, described)
        _mend(backend, split)
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend,
            chat_template=settings.get("chat_template"),
            clean_up_tokenization_spaces=False,
            **{name: settings[name] for name in NAMED if settings[name] is not None},
        )
    _check_vocabulary(file, tokenizer, described)
    return tokenizer


def _mend(backend: Tokenizer, split: str) -> None:
    if split in DIGIT_BY_DIGIT:
        digits = pre_tokenizers.Digits(individual_digits=True)
        as_gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, as_gpt2])
    if split in QWEN2:
        backend.normalizer = normalizers.NFC()
    if split in LLAMA3:
        backend.model.ignore_merges = True


def _check_vocabulary(file: Path, tokenizer: PreTrainedTokenizerBase, described: Mapping[str, Any]) -> None:
    """Raise :class:`InputError` unless each token has the number that it has in the file."""
    tokens = described["tokens"]
    found = tokenizer.convert_ids_to_tokens(list(range(len(tokens))))
    wrong = next((number for number, token in enumerate(tokens) if found[number] != token), None)
    if wrong is not None or len(tokenizer) != len(tokens):
        number = len(tokens) if wrong is None else wrong
        raise InputError(f"{file}: token {number} would get another number; its vocabulary is not read here")
