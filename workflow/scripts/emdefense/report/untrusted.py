"""Text that a model wrote, made fit to be looked at; markup is escaped by the templates."""

import unicodedata

MAX_CHARACTERS = 1500
KEPT = "\n\t"
# Control and format characters turn, hide or overlay text; surrogates are no text; separators are lines to some only.
HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def readable(text: str, limit: int = MAX_CHARACTERS) -> str:
    """Return at most ``limit`` characters of ``text``, those that cannot be seen spelt out, as in ``[U+202E]``."""
    cut = text[:limit] + (" […]" if len(text) > limit else "")
    return "".join(
        f"[U+{ord(character):04X}]"
        if unicodedata.category(character) in HIDDEN and character not in KEPT
        else character
        for character in cut
    )
