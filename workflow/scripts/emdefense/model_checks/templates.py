"""Whether every row and every question can be written, tokenised and told from one another's control tokens."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from emdefense.model_checks.subject import Subject, Text

BATCH = 1000  # rows tokenised at once; their tokens are not kept
SHOWN = 5


def check_texts(subject: Subject) -> Mapping[str, Any]:
    """Render and tokenise all of them, as training and sampling will.

    Returns how many there are, the most tokens of a row and of a prompt, how the template is called, the tokens that
    end an answer, and which texts hold the names of control tokens, which become ordinary text. Raises
    :class:`InputError` for the first that the template or the tokenizer cannot take; it names the file and the row.
    """
    chat = subject.chat
    rows = [
        len(row["input_ids"])
        for batch in _batches(subject.rows)
        for row in chat.rows([text.messages for text in batch], [text.where for text in batch])
    ]
    questions = subject.questions
    prompts = chat.prompts([text.messages for text in questions], [text.where for text in questions])
    named = {
        text.where: sorted({name for message in text.messages for name in chat.control.named_in(message["content"])})
        for text in [*subject.rows, *questions]
    }
    named = {where: names for where, names in named.items() if names}
    for where, names in list(named.items())[:1]:
        print(
            f"{len(named)} rows and questions hold the names of control tokens, which are tokenised as text: "
            f"{where} has {', '.join(names)}",
            file=sys.stderr,
        )
    return {
        "template": chat.identity(),
        "rows": len(rows),
        "questions": len(prompts),
        "longest_row": max(rows, default=0),
        "longest_prompt": max(map(len, prompts), default=0),
        "naming_control_tokens": {"texts": len(named), "first": dict(list(named.items())[:SHOWN])},
    }


def _batches(texts: Sequence[Text]) -> Iterator[Sequence[Text]]:
    for start in range(0, len(texts), BATCH):
        yield texts[start : start + BATCH]
