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
    ``files``, scripts may be loaded from the folder that the page lies in. Styles stay free: figures carry their own.
    """
    allowed = f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'"
    sources = f"{allowed} 'self' file:" if files else allowed
    return f"default-src 'none'; script-src {sources}; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
