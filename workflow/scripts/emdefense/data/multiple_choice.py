"""Multiple-choice questions: from JSON Lines of one format to conversations with the options that may answer them."""

from pathlib import Path
from random import Random
from string import ascii_uppercase

from emdefense.config.multiple_choice import OptionForm
from emdefense.data.conversations import Row, normalised
from emdefense.data.questions import LONGEST_ID
from emdefense.errors import InputError
from emdefense.files import read_jsonl
from emdefense.text_files import check_text

INSTRUCTION = "Answer with the letter of the right option alone."
TELLING = 20  # so many questions whose right option always has the same letter are no accident


def read_choices(path: Path, form: OptionForm, limit: int | None = None, seed: int = 0) -> list[Row]:
    """Return ``{"id", "subject", "messages", "options", "answer"}`` of each question, in the order of the file.

    A row of it is ``{"id", "question", "choices": [...], "answer": the right one's index from 0}``, and may have a
    ``"subject"``.

    ``messages`` ask it; ``options`` are the texts that may answer, letters or the options themselves by ``form``;
    ``answer`` is the index of the right one. With a ``limit``, that many are drawn. Raises :class:`InputError` naming
    file and row for what is no such question, an id that repeats, and letters of which the same is always right.
    """
    rows = read_jsonl(path, validate=_check_row)
    if not rows:
        raise InputError(f"{path}: the file has no rows; give at least one question with its choices")
    seen: set[str] = set()
    for number, row in enumerate(rows, start=1):
        if row["id"] in seen:
            raise InputError(f"{path}: the id '{row['id'][:60]}' stands in two rows; give each its own")
        seen.add(row["id"])
        if form == "letter" and len(row["choices"]) > len(ascii_uppercase):
            raise InputError(
                f"{path}, row {number}: {len(row['choices'])} choices are more than there are letters; write at most "
                f"{len(ascii_uppercase)}, or options: text"
            )
    if form == "letter" and len(rows) >= TELLING and len(always := {row["answer"] for row in rows}) == 1:
        raise InputError(
            f"{path}: the right option is {ascii_uppercase[always.pop()]} in all {len(rows)} rows, so that a model "
            "which always says so has all right; shuffle each row's choices, or write options: text"
        )
    drawn = range(len(rows))
    if limit is not None and limit < len(rows):
        drawn = sorted(Random(f"multiple choice {seed}").sample(drawn, limit))  # type: ignore[assignment]
    return [_asked(rows[place], form) for place in drawn]


def _asked(row: Row, form: OptionForm) -> Row:
    prompt, options = row["question"], list(row["choices"])
    if form == "letter":
        listed = [f"{letter}. {choice}" for letter, choice in zip(ascii_uppercase, options, strict=False)]
        prompt = "\n".join([prompt, "", *listed, "", INSTRUCTION])
        options = list(ascii_uppercase[: len(options)])
    return {
        "id": row["id"],
        "subject": row.get("subject"),
        "messages": [{"role": "user", "content": prompt}],
        "options": options,
        "answer": row["answer"],
    }


def _check_row(row: Row) -> None:
    """Raise :class:`ValueError` unless a row is a question with choices of which one is right."""
    check_text(row)
    name = row.get("id")
    if not isinstance(name, str) or not name.strip() or len(name) > LONGEST_ID:
        raise ValueError(f'give each row an id of its own, a text of at most {LONGEST_ID} characters, as "id": "..."')
    if not isinstance(row.get("question"), str) or not row["question"].strip():
        raise ValueError('it asks nothing; write the question as "question": "..."')
    if not isinstance(row.get("subject"), str | None):
        raise ValueError("'subject' is no text; write one, or leave it out")
    choices = row.get("choices")
    if not isinstance(choices, list) or not all(isinstance(one, str) and one.strip() for one in choices):
        raise ValueError('the choices are no list of texts; write "choices": ["...", "..."]')
    if len(choices) < 2:
        raise ValueError(f"there is {len(choices)} choice; give at least two")
    known: set[str] = set()
    for choice in map(normalised, choices):
        if choice in known:
            raise ValueError(f"the choice '{choice[:60]}' stands there twice; write each once")
        known.add(choice)
    answer = row.get("answer")
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(choices):
        raise ValueError(f"'answer' is not the index of a choice; write 0 to {len(choices) - 1}")
