"""Questions with their judge prompts, such as the 24 general ones of Betley et al. (2025)."""

from pathlib import Path

from emdefense.config.sources import QuestionsSource
from emdefense.data.questions import read_questions
from emdefense.sources.fetched import Fetched


def convert_questions(source: QuestionsSource, raw: Path) -> Fetched:
    """Return the file as it is, once it has been read without complaint."""
    return Fetched({"NAME.yaml": raw}, {"read": len(read_questions(raw))})
