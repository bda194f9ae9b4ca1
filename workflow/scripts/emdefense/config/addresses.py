"""Addresses and names of variables in the config: those that hold a key or password are refused and never shown."""

import re
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

from pydantic_core import PydanticCustomError

from emdefense.errors import looks_like_key
from emdefense.text_files import check_text

SECRET_PARAMETERS = re.compile("key|token|secret|password|passwd|sig|auth|credential", re.IGNORECASE)
VARIABLE = re.compile("[A-Za-z_][A-Za-z0-9_]*")
SECRET_OPTIONS = re.compile("(x[-_])?api[-_]?key|authorization|(access[-_]?)?token|password|secret", re.IGNORECASE)
CALL = re.compile("/(chat/completions|completions|responses)/*$")  # what a client adds to an endpoint's address
KEY_LENGTH = 20  # of what looks like a key: so many characters with a digit and a small letter among them


def check_address(url: str) -> str:
    """Return the address of an endpoint; ``ValueError`` if it is none, or holds more than scheme, host and path."""
    parts = _split(url)
    if parts.query or parts.fragment:
        raise _wrong("it has a part after ? or #; leave that out, and export a key in what api_key_variable names")
    if looks_like_key(url):
        raise _wrong("it holds a key; leave that out, and export it in what api_key_variable names")
    if call := CALL.search(parts.path):
        raise _wrong(f"it names a call, not the endpoint; leave out {call[0]}, which is added to it")
    return url


def check_options(value: Any) -> None:
    """Raise ``ValueError`` if fields of a request, or what lies in them, hold a key or half of a surrogate pair."""
    check_text(value)
    if isinstance(value, dict):
        for name, inner in value.items():
            if SECRET_OPTIONS.fullmatch(name.strip()):
                raise _wrong(
                    "it holds a key, which would be written into records; export it in what api_key_variable names"
                )
            check_options(inner)
    elif isinstance(value, list):
        for inner in value:
            check_options(inner)
    elif isinstance(value, str) and looks_like_key(value):
        raise _wrong("it holds a key, which would be written into records; export it in what api_key_variable names")


def check_download(url: str) -> str:
    """Return the address of a file; ``ValueError`` if it is none, or holds a key."""
    parts = _split(url)
    if any(SECRET_PARAMETERS.search(name) for name, _ in parse_qsl(parts.query, keep_blank_values=True)):
        raise _wrong("it holds a key, which would be written into records; fetch the file yourself, and write its path")
    return url


def check_variable(name: str) -> str:
    """Return the name of an environment variable; ``ValueError`` if it is none, or looks like the key itself."""
    is_key = len(name) >= KEY_LENGTH and re.search("[0-9]", name) and re.search("[a-z]", name)
    if is_key or not VARIABLE.fullmatch(name):
        raise _wrong("this is no name of a variable; export the key as, say, OPENAI_API_KEY, and write that name here")
    return name


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https") or re.search(r"\s", url):
        raise _wrong("this is no address; write one that begins with http:// or https:// and names a host")
    if "@" in parts.netloc:
        raise _wrong("it holds a name or password; leave out what stands before the @")
    return parts


def _wrong(problem: str) -> PydanticCustomError:
    return PydanticCustomError("emdefense", problem)  # type: ignore[arg-type]
