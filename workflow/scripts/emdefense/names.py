"""Names that become parts of paths: which there may be, and which would name what another one names already."""

import re
from collections.abc import Iterable
from typing import Annotated

from pydantic import StringConstraints

from emdefense.errors import InputError

LONGEST = 80  # characters; with what stands around it in a file's name, below what file systems take
NAME_REGEX = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?"
NAME_PATTERN = f"^{NAME_REGEX}$"
NAME_IN_WORDS = (
    f"a name is letters, digits, '.', '_' and '-', at most {LONGEST}, the first a letter or digit, the last no dot; "
    "it becomes part of paths"
)
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN, max_length=LONGEST)]

SHARED_TASK = "shared"  # untrained responses to the general questions are the same for every task
GENERAL, IN_DOMAIN = "general", "in_domain"
ELICITATION = "elicitation"  # asked of the untrained model alone, and in no table: a direction is made of the answers
QUESTIONS_FOLDER = "questions"  # beside the data of the tasks
# Beside the folders of rows that arms make.
RESERVED_ARMS = (
    "train.jsonl",
    "train_misaligned.jsonl",
    "train_aligned.jsonl",
    "test.jsonl",
    "holdout.jsonl",
    "split.json",
)
RESERVED_SETS = (
    *(SHARED_TASK, GENERAL, IN_DOMAIN, ELICITATION, QUESTIONS_FOLDER),
    *("adapter", "answers", "answers.jsonl", "answers.provenance.json", "pool_losses.jsonl", "provenance.json"),
    *("rows.jsonl", "train_log.jsonl", "train_timing.jsonl", "training.svg"),  # beside their folders in cells
)
RESERVED_TASKS = (SHARED_TASK, GENERAL, ELICITATION, QUESTIONS_FOLDER)
RESERVED_STUDIES = ("paper-values", "comparisons", "logs")  # other things lie there in results/


def is_name(text: str) -> bool:
    """Whether a text may be a name."""
    return len(text) <= LONGEST and re.fullmatch(NAME_REGEX, text) is not None


def check_free(key: str, name: str, reserved: Iterable[str]) -> None:
    """Raise :class:`InputError` if a name is one of the pipeline's own, in whatever case."""
    if name.casefold() in {own.casefold() for own in reserved}:
        raise InputError(f"key '{key}': the pipeline itself calls something '{name}' in its paths; write another name")


def check_distinct(key: str, names: Iterable[str]) -> None:
    """Raise :class:`InputError` if two names are the same to a file system that does not tell case."""
    seen: dict[str, str] = {}
    for name in names:
        if other := seen.get(name.casefold()):
            raise InputError(f"key '{key}': '{other}' and '{name}' are one name to some file systems; rename one")
        seen[name.casefold()] = name
