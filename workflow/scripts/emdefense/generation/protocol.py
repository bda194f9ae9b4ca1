"""What every generation engine takes and gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from emdefense.config.chat import PLAIN, TemplateOptions
from emdefense.config.study import Generation

if TYPE_CHECKING:  # planning reads specs, and must not import torch
    from emdefense.chat.chat import Chat

FinishReason = Literal["stop", "length"]
Conversation = list[dict[str, str]]


class GenerationSpec(Generation):
    """Everything that sampling depends on besides model, adapter and questions."""

    version: int
    samples_per_question: int
    chat: TemplateOptions = PLAIN


@dataclass(frozen=True)
class Completion:
    """A sampled answer, special tokens removed, and whether the model ended it or the limit did."""

    text: str
    finish_reason: FinishReason


class Engine(Protocol):
    """Anything that samples answers from a model; ``chat`` is how it is asked.

    ``positions``: how many tokens a prompt and its answer may have together; None: any number.
    """

    chat: "Chat"
    positions: int | None

    def sample(self, conversations: Sequence[Conversation], spec: GenerationSpec) -> list[list[Completion]]:
        """Return ``spec.samples_per_question`` completions of each conversation, in order.

        The same conversations and spec give the same completions, whatever was sampled before. Temperature and nucleus
        are all that shapes the model's distribution: nothing of its own settings (Qwen ships top_k 20,
        repetition_penalty 1.05) comes in.
        """
        ...
