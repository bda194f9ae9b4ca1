"""Questions that are alike: forms of one question, or questions on one topic, which are drawn together."""

import re
from collections.abc import Sequence

from emdefense.errors import InputError


def groups_of(questions: Sequence[str], pattern: str | None) -> list[str]:
    """Return the group of each question id by ``scoring.question_groups``: itself where the pattern finds nothing."""
    if pattern is None:
        return list(questions)
    found = [re.search(pattern, question) for question in questions]
    # A group is never taken for a question that is called the same.
    return [
        f"{match[1]}\n" if match is not None and match[1] is not None else question
        for question, match in zip(questions, found, strict=True)
    ]


def check_groups(questions: Sequence[str], pattern: str | None) -> None:
    """Raise :class:`InputError` if ``scoring.question_groups`` finds nothing in any of the question ids."""
    if pattern is not None and questions and not any(re.search(pattern, question) for question in questions):
        raise InputError(
            f"key 'scoring.question_groups': '{pattern}' is found in no question id, for example not in "
            f"'{questions[0]}'; correct it, or leave it out"
        )
