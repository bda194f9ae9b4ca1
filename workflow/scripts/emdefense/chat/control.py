"""Control tokens, such as those that open and close turns: written by a template, never by the text of a message.

A message that contains ``<|im_end|>`` contains ten characters of text. So these strings are escaped in messages before
a template sees them. Text that holds an escape is tokenised by a copy of the tokenizer in which each control token has
another name: the template's own are renamed alike, and what a message holds is text like any other. Text without
escapes is tokenised as ever.
"""

import json
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import jinja2
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from emdefense.errors import InputError

# Noncharacters: no text should hold them, and one that does is escaped too. The last two stand for an answer, and for a
# message's text, where a template is tried.
OPEN, CLOSE, NAME, ANSWER, MESSAGE = "\ufdd0", "\ufdd1", "\ufdd2", "\ufdd3", "\ufdd4"
ESCAPE = re.compile(f"{OPEN}([0-9]+){CLOSE}")


class ControlTokens:
    """The tokens of a tokenizer that only a template may write: its special ones, and others that its template names.

    ``ids`` are theirs by their text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str):
        self._tokenizer = tokenizer
        written = _literals(template)
        self.ids: dict[str, int] = {
            token.content: number
            for number, token in tokenizer.added_tokens_decoder.items()
            # Words and line breaks are text, though a template writes some and a tokenizer has them as added tokens.
            if token.special or (token.content in written and re.search(r"[^\w\s]", token.content))
        }
        self._names = [*self.ids, OPEN, CLOSE, NAME, ANSWER, MESSAGE]
        self._numbers = {name: number for number, name in enumerate(self._names)}
        self._lengths = sorted({len(name) for name in self._names}, reverse=True)
        self._first = re.compile("[" + re.escape("".join(sorted({name[0] for name in self._names}))) + "]")

    def escape(self, text: str) -> str:
        """Return a message's text with the text of each control token escaped."""
        parts, position = [], 0
        while found := self._first.search(text, position):
            start = found.start()
            ends = (start + length for length in self._lengths)
            end = next((end for end in ends if text[start:end] in self._numbers), None)
            if end is None:
                parts.append(text[position : start + 1])
                position = start + 1
            else:
                parts += [text[position:start], f"{OPEN}{self._numbers[text[start:end]]}{CLOSE}"]
                position = end
        return "".join([*parts, text[position:]])

    def named_in(self, text: str) -> list[str]:
        """Return the control tokens whose text a message's text holds."""
        return [self._names[int(number)] for number in ESCAPE.findall(self.escape(text))]

    def unescape(self, text: str) -> str:
        """Return the text that was escaped."""
        return ESCAPE.sub(lambda found: self._names[int(found[1])], text)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of rendered texts; of what is escaped, those of ordinary text."""
        plain = [text for text in texts if OPEN not in text]
        encoded: list[list[int]] = []
        if plain:
            encoded = self._tokenizer(plain, add_special_tokens=False, return_attention_mask=False)["input_ids"]
        if len(plain) == len(texts):
            return encoded
        renamed = [self._renamed(text) for text in texts if OPEN in text]
        tokens, as_text = iter(encoded), iter(self._copy.encode_batch(renamed, add_special_tokens=False))
        return [self._own(next(as_text).ids) if OPEN in text else next(tokens) for text in texts]

    def _own(self, ids: list[int]) -> list[int]:
        return [self._back.get(number, number) for number in ids] if self._back else ids

    def _renamed(self, text: str) -> str:
        """Return a text with the template's control tokens under their names in the copy, and messages unescaped."""
        parts = ESCAPE.split(text)  # text, number, text, ...
        parts[::2] = [self._written.sub(lambda found: _name(self._numbers[found[0]]), part) for part in parts[::2]]
        parts[1::2] = [self._names[int(number)] for number in parts[1::2]]
        return "".join(parts)

    @cached_property
    def _written(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, sorted(self.ids, key=len, reverse=True))))

    @cached_property
    def _copy(self) -> Tokenizer:
        """The tokenizer with its control tokens renamed."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            held = "a text holds the name of a control token of the tokenizer"
            raise InputError(f"{held}, which only a fast tokenizer (tokenizer.json) can take as text; add one")
        names = {token: _name(number) for token, number in self._numbers.items()}
        saved = json.loads(backend.to_str())
        saved["truncation"] = saved["padding"] = None
        for token in saved["added_tokens"]:
            if token["content"] in names:
                token |= {"content": names[token["content"]], "normalized": False}
        model: dict[str, Any] = saved["model"]
        vocabulary = model.get("vocab")
        if isinstance(vocabulary, dict):
            model["vocab"] = {names.get(token, token): number for token, number in vocabulary.items()}
        elif vocabulary is not None:  # pieces with their scores
            model["vocab"] = [[names.get(token, token), score] for token, score in vocabulary]
        if model.get("unk_token") in names:
            model["unk_token"] = names[model["unk_token"]]
        return Tokenizer.from_str(json.dumps(saved))

    @cached_property
    def _back(self) -> dict[int, int]:
        """The tokenizer's numbers of those added tokens that have another number in the copy."""
        found = {}
        for number, token in self._tokenizer.added_tokens_decoder.items():
            name = _name(self._numbers[token.content]) if token.content in self.ids else token.content
            there = self._copy.token_to_id(name)
            if there is not None and there != number:
                found[there] = number
        return found


def _name(number: int) -> str:
    return f"{NAME}{number}{NAME}"


def _literals(template: str) -> str:
    """Return all text that stands in a template outside its code, and in the strings in its code."""
    try:
        tokens = list(jinja2.Environment().lexer.tokenize(template))
    except jinja2.TemplateSyntaxError as error:
        raise not_jinja(error) from None
    return "\n".join(str(token.value) for token in tokens if token.type in ("data", "string"))


def not_jinja(error: jinja2.TemplateSyntaxError) -> InputError:
    """Return what says that a template cannot be read."""
    return InputError(
        f"the tokenizer's chat template is not valid Jinja (its line {error.lineno}: {error.message}); correct "
        "chat_template.jinja, or fetch it again"
    )
