"""Whether each benign question has an answer that a model can give: short enough, and one that its match can read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emdefense.data.conversations import read_examinations
from emdefense.errors import InputError
from emdefense.matching import EXACT, FORMS, Match
from emdefense.model_checks.subject import Subject

WHAT = {"number": "is no number", "normalised": "is nothing without punctuation and articles"}


def check_answers(subject: Subject) -> Mapping[str, Any]:
    """Return the most tokens that the shortest answer to a question takes, test by test.

    Raises :class:`InputError` for the first expected answer that the task's match cannot read, and where the shortest
    answer to a question has more tokens than ``generation.max_new_tokens``: sampled, it would break off.
    """
    found = {}
    for path in subject.test_files:
        rows = read_examinations(path)
        match = subject.spec.matches.get(path, EXACT)
        for row in rows:
            _check_form(path, row, match)
        tokens = [min(_tokens(subject, text, match) for text in row["answers"]) for row in rows]
        limit = subject.spec.generation.max_new_tokens
        beyond = [row for row, count in zip(rows, tokens, strict=True) if count > limit]
        if beyond:
            raise InputError(
                f"{path}, question {beyond[0]['id']}: each expected answer has more than the {limit} tokens of "
                f"generation.max_new_tokens ({len(beyond)} of {len(rows)} questions; the longest needs {max(tokens)}), "
                "so none could be right; raise that, or give shorter answers"
            )
        found[str(path)] = max(tokens, default=0)
    return {"longest_of_shortest_answers": found}


def _check_form(path: Path, row: Mapping[str, Any], match: Match) -> None:
    for text in row["answers"]:
        if match != EXACT and FORMS[match](text) is None:
            raise InputError(
                f"{path}, question {row['id']}: the expected answer '{text[:60]}' {WHAT[match]}, and the task's match "
                f"is '{match}'; correct the answer, or write match: exact"
            )


def _tokens(subject: Subject, text: str, match: Match) -> int:
    """Return how many tokens an answer takes at the fewest: as it stands, or in its bare form, after a space or not."""
    form = FORMS[match](text)
    forms = {text.strip(), str(form)}
    ways = [f"{before}{way}" for way in forms for before in ("", " ")]
    return min(len(ids) for ids in subject.chat.tokenizer(ways, add_special_tokens=False)["input_ids"])
