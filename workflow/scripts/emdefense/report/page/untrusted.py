"""Text that a model wrote, made fit to be looked at; markup is escaped by the templates."""

import json
import sys
import unicodedata
from functools import cache
from typing import Any

MAX_CHARACTERS = 20_000
KEPT = "\n\t"
# Control and format characters turn, hide or overlay text; surrogates are no text; separators are lines to some only.
HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def readable(text: str, limit: int = MAX_CHARACTERS) -> str:
    """Return at most ``limit`` characters of ``text``, those that cannot be seen spelt out, as in ``[U+202E]``."""
    cut = text[:limit] + (" […]" if len(text) > limit else "")
    # What is printable needs no look at each character: most texts, and a million of them.
    return cut if cut.replace("\n", "").replace("\t", "").isprintable() else cut.translate(_spelt_out())


def script_json(value: Any) -> str:
    """Return ``value`` as JSON that can stand in an HTML ``<script>`` element and in a file of JavaScript.

    No ``<`` is left to end the element or to open a comment, and no character that JavaScript takes for a line's end.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


@cache
def _spelt_out() -> dict[int, str]:
    return {
        code: f"[U+{code:04X}]"
        for code in range(sys.maxunicode + 1)
        if unicodedata.category(chr(code)) in HIDDEN and chr(code) not in KEPT
    }
