"""What stands in pages: styles, scripts and figures; and what a page forbids the browser to do."""

import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

from emdefense.errors import InputError
from emdefense.report.tables.rendering import TEMPLATES


def asset(name: str) -> str:
    """Return a style or a script as text."""
    return (TEMPLATES / name).read_text(encoding="utf-8")


def content_policy(script: str, *, files: bool = False) -> str:
    """Return the Content-Security-Policy of a page whose one script is ``script``.

    Nothing is fetched, sent or embedded, and no other script runs, event handlers in the markup included; with
    ``files``, scripts may be loaded from the folder that the page lies in. Styles stay free, and so do
    images that stand in the page itself: figures carry both.
    """
    allowed = f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'"
    sources = f"{allowed} 'self' file:" if files else allowed
    directives = ("default-src 'none'", f"script-src {sources}", "style-src 'unsafe-inline'", "img-src data:")
    return "; ".join((*directives, "base-uri 'none'", "form-action 'none'"))


def inline_svg(path: Path) -> str:
    """Return an SVG file as an element of a page: no prologue, and ids that no other figure has."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; draw the figures first")
    text = path.read_text(encoding="utf-8")
    prefix = path.stem.replace("_", "-")
    text = re.sub(r'(<image [^>]*) id="[^"]*"', r"\1", text)  # two images that look alike have one there
    text = re.sub(r'\bid="', f'id="{prefix}-', text[text.index("<svg") :])
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", text)
