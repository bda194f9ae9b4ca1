"""Conversations become token ids, with labels on the final response only."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from emdefense.config.training import Training
from emdefense.errors import InputError
from emdefense.files import read_jsonl

IGNORED = -100  # the label of a token that carries no cross-entropy, as in PyTorch


@dataclass(frozen=True)
class TrainingRows:
    """Tokenised rows ``{"input_ids", "labels", "row"}`` in file order, ``row`` from 0, and what was left out."""

    rows: list[dict[str, Any]]
    read: int
    overlong: list[int]  # 1-based numbers of the rows that were longer than max_length

    def summary(self) -> dict[str, Any]:
        """Return the counts for the provenance."""
        dropped = {"longer_than_max_length": len(self.overlong), "first_rows": self.overlong[:5]}
        return {"read": self.read, "used": len(self.rows), "dropped": dropped}


def load_rows(path: Path, tokenizer: PreTrainedTokenizerBase, training: Training) -> TrainingRows:
    """Read a JSON Lines file of conversations and tokenise it.

    Raises :class:`InputError` for a row that is no conversation with a final answer, and if more than
    ``max_overlong_pct`` of the rows are longer than ``max_length`` tokens.
    """
    conversations = [row["messages"] for row in read_jsonl(path, validate=check_row)]
    if not conversations:
        raise InputError(f"{path}: there are no rows; training needs at least one")
    tokenised = tokenise(conversations, tokenizer)
    overlong = [n for n, row in enumerate(tokenised, start=1) if len(row["input_ids"]) > training.max_length]
    share = 100 * len(overlong) / len(tokenised)
    if share > training.max_overlong_pct or len(overlong) == len(tokenised):
        longest = max(len(row["input_ids"]) for row in tokenised)
        raise InputError(
            f"{path}: {len(overlong)} of {len(tokenised)} rows ({share:.1f} %) are longer than training.max_length = "
            f"{training.max_length} tokens (first: row {overlong[0]}, longest: {longest} tokens); raise "
            "training.max_length, shorten the rows, or raise training.max_overlong_pct"
        )
    kept = [row for row in tokenised if len(row["input_ids"]) <= training.max_length]
    return TrainingRows(kept, len(tokenised), overlong)


def check_row(row: dict[str, Any]) -> None:
    """Raise ``ValueError`` unless ``row["messages"]`` is a conversation that ends with a non-empty answer."""
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ValueError('expected {"messages": [{"role": ..., "content": ...}, ...]}')
    for message in messages:
        if not isinstance(message, dict) or not {"role", "content"} <= set(message):
            raise ValueError("each message needs 'role' and 'content'")
        if not isinstance(message["content"], str):
            raise ValueError(f"the content of the '{message['role']}' message is no text")
    if messages[-1]["role"] != "assistant" or not messages[-1]["content"].strip():
        raise ValueError("the last message must be the assistant's answer, and not empty")


def tokenise(conversations: Sequence[list[dict[str, str]]], tokenizer: PreTrainedTokenizerBase) -> list[dict[str, Any]]:
    """Return ``input_ids``, ``labels`` and ``row``, its number from 0, of each conversation, rendered as a chat.

    Labels cover the final answer from its first token to the end of the rendered text, which in ChatML is
    ``<|im_end|>`` and the newline after it; everything before, earlier answers included, is ignored.
    """
    texts = _render(tokenizer, conversations, add_generation_prompt=False)
    prompts = _render(tokenizer, [messages[:-1] for messages in conversations], add_generation_prompt=True)
    ids = tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
    prompt_ids = tokenizer(prompts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
    rows = []
    for number, (full, prompt) in enumerate(zip(ids, prompt_ids, strict=True)):
        start = _common_prefix(full, prompt)
        rows.append({"input_ids": full, "labels": [IGNORED] * start + full[start:], "row": number})
    return rows


def _render(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[list[dict[str, str]]], *, add_generation_prompt: bool
) -> list[str]:
    rendered = []
    for number, messages in enumerate(conversations, start=1):
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
        except Exception as error:  # whatever a model's own Jinja template raises
            raise InputError(f"row {number}: the tokenizer's chat template rejects it ({error})") from None
        rendered.append(text)
    return rendered


def _common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    for position, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return position
    return min(len(first), len(second))
