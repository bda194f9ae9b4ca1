"""Whether the model's chat template can write every row and every question."""

from collections.abc import Callable, Mapping
from typing import Any

from emdefense.errors import InputError
from emdefense.generation.prompts import prompt_tokens
from emdefense.model_checks.subject import Conversation, Subject, Text
from emdefense.training.data import tokenise


def check_texts(subject: Subject) -> Mapping[str, Any]:
    """Render and tokenise all of them; return how many there are, and the most tokens of a row and of a prompt."""

    def row(messages: Conversation) -> int:
        return len(tokenise([messages], subject.tokenizer)[0]["input_ids"])

    def prompt(messages: Conversation) -> int:
        return len(prompt_tokens(subject.tokenizer, messages))

    rows = [_length(text, row) for text in subject.rows]
    prompts = [_length(text, prompt) for text in subject.questions]
    return {
        "rows": len(rows),
        "questions": len(prompts),
        "longest_row": max(rows, default=0),
        "longest_prompt": max(prompts, default=0),
    }


def _length(text: Text, length: Callable[[Conversation], int]) -> int:
    try:
        return length(text.messages)
    except InputError as error:
        raise InputError(f"{text.where}: {error}") from None
