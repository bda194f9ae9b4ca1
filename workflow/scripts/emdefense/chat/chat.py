"""Conversations become tokens, with labels on the final answer only, and sampled tokens become text."""

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from transformers import PreTrainedTokenizerBase

from emdefense.chat.template import Asked, Conversation, Template
from emdefense.config.chat import PLAIN, TemplateOptions
from emdefense.errors import InputError
from emdefense.saved_model import load_config, load_tokenizer

IGNORED = -100  # the label of a token that carries no cross-entropy, as in PyTorch
PROBES = (
    [{"role": "user", "content": "Hello"}],
    [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}],
)
LEADS = ("", "\n")  # before a text, for vocabularies that would put a blank there

Item = TypeVar("Item")
Made = TypeVar("Made")


class Chat:
    """A tokenizer, and how its chat template is called: the same object for training, sampling and checks."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        options: TemplateOptions = PLAIN,
        vocabulary: int | None = None,
    ):
        """``vocabulary`` is the number of tokens that the model's embedding has rows for; None asks for no check.

        Raises :class:`InputError` if the template writes no conversation, or closes answers with no control token.
        """
        self.tokenizer = tokenizer
        self._options, self._vocabulary = options, vocabulary
        self._template = Template(tokenizer, options)
        self.control = self._template.control
        self._closed: dict[str, int] = {}
        probe = self._probe()
        self.closing = self._closing(probe)
        self._check_start(probe)
        self.example = probe

    def rows(self, conversations: Sequence[Conversation], where: Sequence[str] = ()) -> list[dict[str, Any]]:
        """Return ``input_ids``, ``labels`` and ``row``, its number from 0, of each conversation.

        Labels cover the final answer from its first token to the end of the rendered text, which in ChatML is
        ``<|im_end|>`` and the newline after it; everything before, earlier answers included, is ignored, and is what
        :meth:`prompts` gives for the same conversation without its answer. ``where`` names them in errors.
        """
        where = where or _numbered("row", conversations)

        def written(messages: Conversation) -> tuple[Asked, str]:
            asked = self._asked(messages[:-1])
            return asked, self._template.answered(messages, asked)

        rendered = _each(written, conversations, where)
        full = self._encode([text for _, text in rendered], where)
        prompts = self._encode([asked.prompt for asked, _ in rendered], where)
        rows = []
        for number, ids in enumerate(full):
            prompt, (asked, text) = prompts[number], rendered[number]
            if ids[: len(prompt)] != prompt:
                ids = self._joined(prompt, asked.prompt, text, ids, where[number])
            start = len(prompt)
            if self.closing not in ids[start:]:
                name = self.tokenizer.convert_ids_to_tokens(self.closing)
                raise InputError(
                    f"{where[number]}: after this answer the tokenizer does not read {name!r}, which closes answers, "
                    "as one token; write 'normalized': false beside it in tokenizer.json, or edit chat_template.jinja"
                )
            rows.append({"input_ids": ids, "labels": [IGNORED] * start + ids[start:], "row": number})
        return rows

    def prompts(self, conversations: Sequence[Conversation], where: Sequence[str] = ()) -> list[list[int]]:
        """Return the tokens of each conversation up to where the answer to its last message starts."""
        where = where or _numbered("question", conversations)
        asked = _each(self._asked, conversations, where)
        return self._encode([one.prompt for one in asked], where)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return sampled tokens as text, control tokens left out."""
        text: str = self.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    @cached_property
    def unknown(self) -> int | None:
        """The token that stands for text which the tokenizer has no token for; None where it has some for all."""
        unknown = self.tokenizer.unk_token_id
        return None if unknown in self.control.encode([self.example.before + self.example.after])[0] else unknown

    @cached_property
    def filler(self) -> int:
        """The token that fills up short rows: the tokenizer's own, if it has one that the model knows."""
        own = self.tokenizer.pad_token_id
        return own if own is not None and self._known(own) else 0

    def identity(self) -> dict[str, Any]:
        """Return what decides how conversations are written: template, options, date, and a digest of the three."""
        pinned = self._options.date.isoformat()
        parts = {"template": self._template.source, "options": self._options.options, "date": pinned}
        return {
            "template_sha256": sha256(self._template.source.encode()).hexdigest(),
            "options": self._options.options,
            "date": pinned,
            "writes_the_date": self._template.writes_the_date(),
            "sha256": sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest(),
            "closed_by": self.tokenizer.convert_ids_to_tokens(self.closing),
        }

    def _asked(self, messages: Conversation) -> Asked:
        asked = self._template.asked(messages)
        if self._closing(asked) != self.closing:
            raise InputError("the tokenizer's chat template closes this answer otherwise than others; edit it")
        return asked

    def _probe(self) -> Asked:
        """Return what the template writes around an answer; the first error if it takes none of the probes."""
        errors = []
        for probe in PROBES:
            try:
                return self._template.asked(probe)
            except InputError as error:
                errors.append(error)
        raise errors[0]

    def _check_start(self, asked: Asked) -> None:
        start = self.tokenizer.bos_token_id
        if start is not None and self.control.encode([asked.prompt])[0][:2] == [start, start]:
            raise InputError(
                f"a prompt begins twice with {self.tokenizer.bos_token}, as the tokenizer's chat template writes it; "
                "remove one of them in chat_template.jinja"
            )

    def _closing(self, asked: Asked) -> int:
        """Return the token that closes an answer: the first control token after it, with nothing but space between."""
        if asked.after not in self._closed:
            self._closed[asked.after] = self._found_closing(asked)
        return self._closed[asked.after]

    def _found_closing(self, asked: Asked) -> int:
        unknown = self.tokenizer.unk_token_id
        known = {token for text, token in self.control.ids.items() if token != unknown or text in asked.after}
        ids = self.control.encode([asked.after])[0]
        place = next((place for place, number in enumerate(ids) if number in known), len(ids))
        between = asked.after if place == len(ids) else self.tokenizer.decode(ids[:place], skip_special_tokens=True)
        if place == len(ids) or between.strip():
            what = f"closes an answer with the text {asked.after[:40]!r}" if asked.after.strip() else "closes no answer"
            raise InputError(
                f"the tokenizer's chat template {what}, so that nothing says where a sampled answer ends; write a "
                "special token (such as {{ eos_token }}) after the assistant's text in chat_template.jinja"
            )
        return ids[place]

    def _encode(self, texts: Sequence[str], where: Sequence[str]) -> list[list[int]]:
        found = self.control.encode(texts)
        for ids, name in zip(found, where, strict=True):
            if ids and not self._known(max(ids)):
                token = self.tokenizer.convert_ids_to_tokens(max(ids))
                raise InputError(
                    f"{name}: the token {token!r} has the number {max(ids)}, and the model's embedding has "
                    f"{self._vocabulary} rows; use the tokenizer that belongs to the model, or resize its embedding"
                )
        return found

    def _known(self, token: int) -> bool:
        return self._vocabulary is None or token < self._vocabulary

    def _joined(self, prompt: list[int], start: str, text: str, whole: list[int], where: str) -> list[int]:
        """Return a prompt's tokens and those of what follows, where the whole text merges across the border."""
        for lead in LEADS:
            head, rest = self.control.encode([lead, lead + text[len(start) :]])
            ids = prompt + rest[len(head) :]
            if rest[: len(head)] == head and self.tokenizer.decode(ids) == self.tokenizer.decode(whole):
                return ids
        raise InputError(
            f"{where}: the tokenizer joins the end of the prompt and the start of the answer into one token; remove "
            "the space at the start of the answer, or edit chat_template.jinja so that it ends its prompt otherwise"
        )


def load_chat(folder: Path, options: TemplateOptions) -> Chat:
    """Return how to talk with the model in ``folder``; :class:`InputError` names the folder and what is wrong."""
    tokenizer = load_tokenizer(folder)
    try:
        return Chat(tokenizer, options, embedded_tokens(folder))
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None


def embedded_tokens(folder: Path) -> int:
    """Return how many tokens a model's embedding has rows for, by its config."""
    size: int = load_config(folder).get_text_config().vocab_size
    return size


def _each(make: Callable[[Item], Made], items: Sequence[Item], where: Sequence[str]) -> list[Made]:
    made = []
    for item, name in zip(items, where, strict=True):
        try:
            made.append(make(item))
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
    return made


def _numbered(what: str, items: Sequence[Any]) -> list[str]:
    return [f"{what} {number}" for number in range(1, len(items) + 1)]
