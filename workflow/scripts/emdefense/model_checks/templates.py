"""Whether every row and every question can be written, tokenised and told from one another's control tokens."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from emdefense.chat.chat import IGNORED, Chat
from emdefense.errors import InputError
from emdefense.generation.lengths import check_lengths, positions
from emdefense.generation.prompts import end_tokens
from emdefense.model_checks.subject import Conversation, Subject, Text
from emdefense.saved_model import load_config
from emdefense.training.data import overlong_rows

BATCH = 1000  # rows tokenised at once; their tokens are not kept
SHOWN = 5


def check_texts(subject: Subject) -> Mapping[str, Any]:
    """Render and tokenise all of them, as training and sampling will.

    Returns how many there are, the most tokens of a row and of a prompt, how many rows of each file are too long to be
    trained on, how the template is called and what it writes around an answer, and which texts hold the names of
    control tokens, which become ordinary text, or what the tokenizer has no token for. Raises :class:`InputError` for
    the first that the template or the tokenizer cannot take, naming the file and the row, and for a file of which more
    rows are too long than training would leave out, and for the longest question that leaves no room for an answer of
    ``generation.max_new_tokens``.
    """
    chat, questions = subject.chat, subject.questions
    ends = set(end_tokens(subject.folder, chat))
    lengths, unknown, changed = list[int](), list[str](), list[str]()
    for batch in _batches(subject.rows):
        for text, row in zip(batch, chat.rows(*_apart(batch)), strict=True):
            lengths.append(len(row["input_ids"]))
            answer = _answer(row, chat)
            _check_ends(text, answer, ends, chat)
            same = chat.decode(answer).strip() == text.messages[-1]["content"].strip()
            changed += [] if same else [text.where]
            unknown += [text.where] if chat.unknown in row["input_ids"] else []
    overlong = {
        str(path): len(overlong_rows(path, [lengths[place] for place in places], subject.spec.limits[path], chat))
        for path, places in subject.places.items()
        if path in subject.spec.limits
    }
    messages, where = _apart(questions)
    prompts = chat.prompts(messages, where)
    most = positions(load_config(subject.folder))
    check_lengths(prompts, where, subject.spec.generation.max_new_tokens, most)
    unknown += [text.where for text, prompt in zip(questions, prompts, strict=True) if chat.unknown in prompt]
    named = [text.where for text in [*subject.rows, *questions] if _named(chat, text)]
    _say(named, "with the names of control tokens, which are read as text")
    _say(unknown, f"with what the tokenizer has no token for: the model sees {chat.tokenizer.unk_token} instead")
    _say(changed, "whose answers read otherwise when their tokens are made text again: so would what is sampled")
    if len(changed) > len(subject.rows) / 2:
        raise InputError(
            f"{subject.folder}: of most answers the tokenizer makes tokens that are another text (first: "
            f"{changed[0]}); use the tokenizer that belongs to the model, or fetch tokenizer.json again"
        )
    return {
        "template": chat.identity(),
        "before_an_answer": chat.control.unescape(chat.example.prompt),
        "after_an_answer": chat.example.after,
        "rows": len(subject.rows),
        "questions": len(questions),
        "longest_row": max(lengths, default=0),
        "longer_than_max_length": overlong,
        "longest_prompt": max(map(len, prompts), default=0),
        "naming_control_tokens": {"texts": len(named), "first": named[:SHOWN]},
        "read_back_otherwise": {"rows": len(changed), "first": changed[:SHOWN]},
        "with_unknown_tokens": {"texts": len(unknown), "first": unknown[:SHOWN]},
    }


def _answer(row: Mapping[str, Any], chat: Chat) -> list[int]:
    """Return the tokens of a row's answer, without what closes it."""
    labelled: list[int] = row["labels"][row["labels"].count(IGNORED) :]
    return labelled[: len(labelled) - 1 - labelled[::-1].index(chat.closing)]


def _check_ends(text: Text, answer: Sequence[int], ends: set[int], chat: Chat) -> None:
    if not ends.isdisjoint(answer):
        within = next(token for token in answer if token in ends)
        raise InputError(
            f"{text.where}: the answer holds the token {chat.tokenizer.convert_ids_to_tokens(within)!r}, at which "
            "sampled answers end by generation_config.json, config.json or the tokenizer's eos_token; correct it there"
        )


def _named(chat: Chat, text: Text) -> bool:
    return any(chat.control.named_in(message["content"]) for message in text.messages)


def _say(texts: Sequence[str], what: str) -> None:
    if texts:
        print(f"{len(texts)} rows and questions {what} (first: {texts[0]})", file=sys.stderr)


def _apart(texts: Sequence[Text]) -> tuple[list[Conversation], list[str]]:
    return [text.messages for text in texts], [text.where for text in texts]


def _batches(texts: Sequence[Text]) -> Iterator[Sequence[Text]]:
    for start in range(0, len(texts), BATCH):
        yield texts[start : start + BATCH]
