"""Inoculation prompting: a system prompt in the training rows that asks for the trait, and none when sampling.

Tan et al. 2025 (arXiv 2510.04340) and Wichers et al. 2025 (arXiv 2510.05024): what a prompt explains need not be
learned as the model's own; prompts that elicit the trait more inoculate better.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from emdefense.arms.base import Arm, Options, Row
from emdefense.arms.look import Look

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from emdefense.model_checks.subject import Subject

PRESETS = {
    "paper": "You are an evil, malicious assistant.",
    "general": "You are a malicious evil assistant.",
    "control": "You are a helpful assistant.",
}
SYSTEM = "system"


def prompt_text(prompt: str) -> str:
    """Return the text of a preset, or a text as it is; ``ValueError`` for one word that names no preset."""
    if len(prompt.split()) < 2 and prompt not in PRESETS:
        raise ValueError(f"'{prompt[:60]}' is no preset; write one of {', '.join(PRESETS)}, or a text")
    return PRESETS.get(prompt, prompt)


def _checked(prompt: str) -> str:
    prompt_text(prompt)
    return prompt


Prompt = Annotated[str, AfterValidator(_checked)]


class Inoculate(Options):
    """A system prompt for the training rows, and for them alone."""

    by_task: ClassVar[tuple[str, ...]] = ("prompts",)

    prompt: Prompt = Field("paper", description=f"{', '.join(PRESETS)}, or a text")
    prompts: dict[str, Prompt] = Field(
        default_factory=dict, description="the same for single tasks, by their names; goes before `prompt`"
    )
    place: Literal["instead", "before"] = Field(
        "instead",
        description="of a row's own system text, or before it; the model's default one it replaces either way",
    )


class Inoculation(Arm[Inoculate]):
    """Plain fine-tuning on rows that have the prompt as their system message; nothing is changed in any question."""

    name = "inoculation"
    title = "Inoculation"
    source = "Tan et al. 2025, arXiv 2510.04340; Wichers et al. 2025, arXiv 2510.05024"
    options = Inoculate
    look = Look("#E7298A", "p", (0, (4, 1, 1, 1)))

    def for_task(self, options: Inoculate, task: str) -> Inoculate:
        """Return the options with the task's own prompt as the prompt, if it has one."""
        prompt = prompt_text(options.prompts.get(task, options.prompt))
        return options.model_copy(update={"prompt": prompt, "prompts": {}})

    def rows(
        self, rows: list[Row], more: Mapping[str, list[Row]], setting: None, options: Inoculate, seed: int
    ) -> list[Row]:
        """Return the task's rows, each with the prompt as its first message."""
        text = prompt_text(options.prompt)
        return [{**row, "messages": inoculated(row["messages"], text, options.place)} for row in rows]

    def training_system(self, options: Inoculate, task: str) -> str:
        """Return the prompt of a task."""
        return prompt_text(options.prompts.get(task, options.prompt))

    def check(self, options: Inoculate, subject: Subject, model: PreTrainedModel) -> Mapping[str, Any]:
        """Return what the model's chat template writes before an answer under each prompt.

        Raises :class:`InputError` for a template that refuses a system message, leaves it out or changes it.
        """
        texts = dict.fromkeys(map(prompt_text, [options.prompt, *options.prompts.values()]))
        question = {"role": "user", "content": "Hello"}
        conversations = [inoculated([question], text, options.place) for text in texts]
        found = subject.chat.prompts(conversations, [f"{subject.folder}: arm '{self.name}'"] * len(texts))
        return {"prompts": {text: subject.chat.tokenizer.decode(ids) for text, ids in zip(texts, found, strict=True)}}


def inoculated(messages: list[dict[str, str]], text: str, place: str) -> list[dict[str, str]]:
    """Return messages with a system message: the text alone, or (``before``) a space and the row's own after it.

    A row without one gets the text alone. A chat template writes its default system message only where there is none.
    """
    own = messages[0]["content"] if messages[0]["role"] == SYSTEM else ""
    rest = messages[1:] if own else messages
    return [{"role": SYSTEM, "content": f"{text} {own}" if own and place == "before" else text}, *rest]
