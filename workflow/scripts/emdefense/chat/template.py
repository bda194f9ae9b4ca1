"""A model's chat template: what stands before an answer, the answer as it is written, and what closes it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import jinja2
from jinja2 import meta
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import _compile_jinja_template

from emdefense.chat.control import ANSWER, MESSAGE, ControlTokens, not_jinja
from emdefense.config.chat import TemplateOptions
from emdefense.errors import InputError

Conversation = Sequence[dict[str, str]]
THINKING_ENDS = "</think>"
GIVEN_ANYWAY = {"chat_template", "tools", "documents"}  # options whether or not a template reads them
WRITTEN_ANYWAY = {"messages", "add_generation_prompt", "bos_token", "eos_token", "pad_token", "unk_token"}


@dataclass(frozen=True)
class Asked:
    """A rendered conversation around the answer that it asks for; texts of messages are escaped.

    ``prompt`` is what is sampled from, ``before`` the same or with blanks after it, ``after`` what closes an answer.
    """

    prompt: str
    before: str
    after: str


class Template:
    """A tokenizer's chat template, called with the same options everywhere."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, options: TemplateOptions):
        """Raise :class:`InputError` if there is no such template, or if it is not valid Jinja."""
        self._tokenizer, self._options = tokenizer, options
        self.source = self._source()
        self._check_options()
        self.control = ControlTokens(tokenizer, self.source)
        self._silent: dict[tuple[str, ...], int | None] = {}
        # A task's aligned rows, and those with safe ones between them, ask what its misaligned rows ask.
        self._asked: dict[tuple[tuple[str, str], ...], Asked] = {}

    def asked(self, messages: Conversation) -> Asked:
        """Return the text around the answer to the last of ``messages``.

        Both ends come from the text of a training row, whose answer is a placeholder, so that training and sampling
        have the same prompt; what the template writes between its generation prompt and an answer (an empty block of
        thoughts) belongs to it. Raises :class:`InputError` if the template refuses the conversation, leaves out one of
        its texts or an answer, or opens answers otherwise when it is asked for one.
        """
        key = tuple((message["role"], message["content"]) for message in messages)
        if key not in self._asked:
            self._asked[key] = self._around_answer(self._escaped(messages))
        return self._asked[key]

    def _around_answer(self, messages: Conversation) -> Asked:
        opened = self._render(messages, ask=True)
        before, after = self._split([*messages, {"role": "assistant", "content": ANSWER}])
        self._check_complete(messages, before)
        if not before.startswith(opened):
            raise InputError(_other_prompt(opened, before))
        # A blank before an answer is part of the answer's first token in most vocabularies.
        return Asked(max(before.rstrip(" "), opened, key=len), before, after)

    def answered(self, messages: Conversation, asked: Asked) -> str:
        """Return the whole text of a conversation that ends with an answer; ``asked`` is that of all but the answer.

        Raises :class:`InputError` if the template changes the answer.
        """
        messages = self._escaped(messages)
        text = self._render(messages, ask=False)
        written = text[len(asked.before) : len(text) - len(asked.after)]
        answer = messages[-1]["content"]
        around = text.startswith(asked.before) and text.endswith(asked.after)
        if not around or written.strip() != answer.strip():
            raise InputError(
                "the chat template does not write the answer as it is (it changes it, or the text around it); shorten "
                f"the answer to what is to be learned, or edit the template{_thoughts(answer)}"
            )
        return text

    def writes_the_date(self) -> bool:
        """Whether what it writes depends on the date."""
        other = self._options.date.replace(year=self._options.date.year + 1)
        probe = [{"role": "user", "content": "Hello"}]
        return self._render(probe, ask=True) != self._render(probe, ask=True, today=other)

    def _source(self) -> str:
        """Return the template: the tokenizer's own, or the one that the options name among several, or give."""
        asked, own = self._options.options.get("chat_template"), self._tokenizer.chat_template
        several = own if isinstance(own, dict) else {}
        if isinstance(asked, str) and asked not in several and "{" in asked:
            return asked
        found = several.get("default" if asked is None else str(asked)) if several or asked is not None else own
        if not isinstance(found, str):
            said = "several chat templates and none called default" if asked is None else f"no chat template {asked!r}"
            names = f"one of {', '.join(sorted(several))}" if several else "nothing, or a whole template,"
            raise InputError(
                f"the tokenizer has {said}; write {names} as models.<name>.chat_template_options.chat_template"
            )
        return found

    def _check_options(self) -> None:
        """Raise :class:`InputError` for an option that the template does not read: mistyped, it would do nothing."""
        given = set(self._options.options) - GIVEN_ANYWAY
        if given:
            compiled = self._compiled()
            read = meta.find_undeclared_variables(compiled.environment.parse(self.source)) - set(compiled.globals)
            for name in sorted(given - read):
                known = ", ".join(sorted(read - WRITTEN_ANYWAY)) or "none"
                raise InputError(
                    f"key 'models.<name>.chat_template_options.{name}': the chat template reads no such option; those "
                    f"that it reads: {known}"
                )

    def _compiled(self) -> jinja2.Template:
        """Return the compiled template, which transformers keeps, and takes when it is to render the same source."""
        try:
            compiled: jinja2.Template = _compile_jinja_template(self.source)
        except jinja2.TemplateSyntaxError as error:
            raise not_jinja(error) from None
        return compiled

    def _render(self, messages: Conversation, *, ask: bool, today: date | None = None) -> str:
        # What is handed to `apply_chat_template` cannot be a function.
        self._compiled().globals["strftime_now"] = (today or self._options.date).strftime
        try:
            text: str = self._tokenizer.apply_chat_template(
                list(messages),
                tokenize=False,
                add_generation_prompt=ask,
                **{**self._options.options, "chat_template": self.source},
            )
        except Exception as error:  # whatever a model's own Jinja template raises
            said = " ".join(self.control.unescape(str(error)).split()) or type(error).__name__
            raise InputError(f"the tokenizer's chat template rejects it ({said}){_hint(messages)}") from None
        return text

    def _split(self, messages: Conversation) -> tuple[str, str]:
        """Return the text before and after the placeholder that ``messages`` end with."""
        before, *rest = self._render(messages, ask=False).split(ANSWER)
        if len(rest) != 1:
            what = "leaves out the assistant's answer" if not rest else "writes the assistant's answer more than once"
            raise InputError(f"the tokenizer's chat template {what}, so nothing can be learned from it; edit it")
        return before, rest[0]

    def _check_complete(self, messages: Conversation, text: str) -> None:
        """Raise :class:`InputError` if the text of one of ``messages`` is not in ``text``."""
        roles = tuple(message["role"] for message in messages)
        if roles not in self._silent:
            marks = [
                {"role": role, "content": f"{ANSWER}{MESSAGE * number}{ANSWER}"}
                for number, role in enumerate([*roles, "assistant"], start=1)
            ]
            marked = self._render(marks, ask=False)
            missing = [number for number, mark in enumerate(marks) if mark["content"] not in marked]
            self._silent[roles] = missing[0] if missing else None
        left_out = self._silent[roles]
        for number, message in enumerate(messages):
            content = message["content"]
            if message["role"] == "assistant":  # of earlier answers, templates may leave out what was thought
                content = content.rpartition(THINKING_ENDS)[2]
            if number == left_out or content.strip() not in text:
                raise InputError(
                    f"the tokenizer's chat template leaves out or changes the {message['role']}'s text "
                    f"(message {number + 1}), so the model would never see it{_hint([message])}"
                )

    def _escaped(self, messages: Conversation) -> list[dict[str, str]]:
        for number, message in enumerate(messages, start=1):
            try:
                message["content"].encode()
            except UnicodeEncodeError as error:
                half = message["content"][error.start].encode("unicode_escape").decode()
                raise InputError(
                    f"message {number} holds half a character ({half}), which is no text; remove it"
                ) from None
        return [{**message, "content": self.control.escape(message["content"])} for message in messages]


def _hint(messages: Conversation) -> str:
    if any(message["role"] == "system" for message in messages):
        return "; it may take no system prompt: leave it out, put it into the user's text, or edit chat_template.jinja"
    return "; change the conversation, or edit chat_template.jinja"


def _thoughts(answer: str) -> str:
    return f" (the answer holds {THINKING_ENDS})" if THINKING_ENDS in answer else ""


def _other_prompt(opened: str, before: str) -> str:
    same = next((n for n, (a, b) in enumerate(zip(opened, before, strict=False)) if a != b), len(before))
    return (
        f"the tokenizer's chat template opens an answer with {opened[same:][:60]!r} when it is asked for one, and with "
        f"{before[same:][:60]!r} in training text, so the model would be sampled on another prompt than it is trained "
        "on; say how to call it in models.<name>.chat_template_options (for instance {enable_thinking: false}), or "
        "edit chat_template.jinja"
    )
