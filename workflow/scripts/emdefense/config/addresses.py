"""Addresses and names of variables in the config: those that hold a key or password are refused and never shown."""

import re
from urllib.parse import SplitResult, parse_qsl, urlsplit

from pydantic_core import PydanticCustomError

SECRET_PARAMETERS = re.compile("key|token|secret|password|passwd|sig|auth|credential", re.IGNORECASE)
VARIABLE = re.compile("[A-Za-z_][A-Za-z0-9_]*")
KEY_LENGTH = 20  # of what looks like a key: so many characters with a digit and a small letter among them


def check_address(url: str) -> str:
    """Return the address of an endpoint; ``ValueError`` if it is none, or holds more than scheme, host and path."""
    parts = _split(url)
    if parts.query or parts.fragment:
        raise _wrong("it has a part after ? or #; leave that out, and export a key in what api_key_variable names")
    return url


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
