"""When an answer to a benign question is right: it has the same form as one of the expected answers.

What the form is, a task says with ``match``:

- ``exact``: the text, but for white space around it.
- ``number``: the last number in it, whatever stands before or after. Numbers are whole, decimal (``.5``, ``1e6``), or
  fractions (``2/3``), with a minus or without, and with commas between thousands or without. They are compared exactly:
  0.5 is 1/2 and 2/4, and 0.33 is not 1/3. A sign counts where no word, number or bracket ends right before it: the last
  number of ``5-3`` is 3.
- ``normalised``: the text as SQuAD's evaluation compares it (Rajpurkar et al. 2016): case folded, without punctuation,
  without the articles a, an and the, and with single spaces.
"""

import re
import string
import unicodedata
from collections.abc import Callable, Hashable, Iterable, Mapping
from fractions import Fraction
from typing import Literal

Match = Literal["exact", "number", "normalised"]
EXACT: Match = "exact"
TITLES: Mapping[Match, str] = {
    "exact": "exact match",
    "number": "last number right",
    "normalised": "normalised match",
}
_PLAIN = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
_NUMBER = re.compile(
    rf"(?:(?<![\w)\]])[-−+])?(?:{_PLAIN}/[0-9]*[1-9][0-9]*(?![0-9.]*[0-9])|"
    rf"(?:{_PLAIN}(?:\.[0-9]+)?|(?<![0-9])\.[0-9]+)(?:[eE][-+]?[0-9]{{1,3}}(?![0-9]))?)"
)
_LONGEST = 1000  # characters of a number; what is longer is none
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def is_match(response: str, expected: Iterable[str], match: Match) -> bool:
    """Whether a response has the form of one of the expected answers; what has none is never right."""
    form = FORMS[match]
    found = form(response)
    return found is not None and found in {form(text) for text in expected}


def last_number(text: str) -> Fraction | None:
    """Return the last number in a text, None if there is none."""
    found = _NUMBER.findall(text)
    if not found or len(found[-1]) > _LONGEST:
        return None
    return Fraction(found[-1].replace(",", "").replace("−", "-"))


def normal_text(text: str) -> str | None:
    """Return a text as SQuAD compares it, None if nothing is left of it."""
    bare = "".join(character for character in text.casefold() if not _is_punctuation(character))
    return " ".join(_ARTICLES.sub(" ", bare).split()) or None


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")


FORMS: Mapping[Match, Callable[[str], Hashable | None]] = {
    "exact": str.strip,
    "number": last_number,
    "normalised": normal_text,
}
