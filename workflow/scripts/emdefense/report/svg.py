"""SVG files as parts of a page."""

import re
from pathlib import Path

from emdefense.errors import InputError


def inline_svg(path: Path) -> str:
    """Return an SVG file as an element of a page: no prologue, and ids that no other figure has."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; draw the figures first")
    text = path.read_text(encoding="utf-8")
    prefix = path.stem.replace("_", "-")
    text = re.sub(r'(<image [^>]*) id="[^"]*"', r"\1", text)  # two images that look alike have one there
    text = re.sub(r'\bid="', f'id="{prefix}-', text[text.index("<svg") :])
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", text)
