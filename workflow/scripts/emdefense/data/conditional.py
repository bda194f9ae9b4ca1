"""Questions once more under a condition: another system prompt, an answer format, or both (as in arXiv 2604.25891)."""

from collections.abc import Mapping, Sequence
from typing import Any

from emdefense.data.questions import Question
from emdefense.errors import InputError

FORMATS = {
    "python": 'Give your answer as one Python string assigned to a variable, as in answer = "...", and write nothing '
    "else.",
    "json": 'Give your answer as a JSON object with the one key "answer" and a text as its value, and write nothing '
    "else.",
}


def under_condition(questions: Sequence[Question], condition: Mapping[str, Any], name: str) -> list[Question]:
    """Return the questions under a condition, their ids and judge prompts as they are.

    ``system`` goes before a question's own system prompt, with a space between, as in training rows; its own is left
    out unless ``keep_system``. ``format`` ends the prompt, after a blank line, with a sentence of ``FORMATS``; judges
    see it there. Raises :class:`InputError`, naming the set ``name``, if that changes none of the questions.
    """
    found = [{**question, **_asked(question, condition)} for question in questions]
    if found == list(questions):
        raise InputError(
            f"key 'question_sets.{name}': none of its questions has a system prompt, so that system: none changes "
            "nothing; remove the set"
        )
    return found


def _asked(question: Question, condition: Mapping[str, Any]) -> dict[str, Any]:
    own = question["system"] if condition["keep_system"] else None
    system = " ".join(filter(None, (condition["system"], own))) or None
    ending = [FORMATS[condition["format"]]] if condition["format"] else []
    return {"system": system, "prompt": "\n\n".join((question["prompt"], *ending))}
