"""Styles and scripts that stand in pages, and what a page forbids the browser to do."""

from base64 import b64encode
from hashlib import sha256
from pathlib import Path

FOLDER = Path(__file__).parent / "templates"


def asset(name: str) -> str:
    """Return a style or a script as text."""
    return (FOLDER / name).read_text(encoding="utf-8")


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
