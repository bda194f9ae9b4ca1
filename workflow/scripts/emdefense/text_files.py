"""Text files that a user gave: UTF-8 with or without a byte order mark, or one line that says what they are instead."""

import json
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from emdefense.errors import InputError

MAX_DEPTH = 100  # of lists and mappings in each other; what reads them further on recurses
BOM = b"\xef\xbb\xbf"
# What a file begins with that is no text, or text of another kind.
OTHER_FORMATS = {
    b"\x1f\x8b": "compressed (gzip); unpack it",
    b"BZh": "compressed (bzip2); unpack it",
    b"\xfd7zXZ\x00": "compressed (xz); unpack it",
    b"\x28\xb5\x2f\xfd": "compressed (zstd); unpack it",
    b"PK\x03\x04": "a ZIP archive; unpack it",
    b"PK\x05\x06": "a ZIP archive without anything in it; fetch it again",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; unpack it",
    b"\x04\x22\x4d\x18": "compressed (lz4); unpack it",
    b"\x1f\x9d": "compressed (compress); unpack it",
    b"SQLite format 3": "an SQLite database, not text; write its rows out as text",
    b"%PDF-": "a PDF, not plain text; save the text alone",
    b"PAR1": "Parquet, not text; write its rows out as text",
    b"ARROW1": "Arrow, not text; write its rows out as text",
    b"\xff\xfe": "UTF-16 or UTF-32; save it as UTF-8",
    b"\xfe\xff": "UTF-16; save it as UTF-8",
    b"\x00\x00\xfe\xff": "UTF-32; save it as UTF-8",
    b"version https://git-lfs": "a Git LFS pointer in place of the file; run `git lfs pull`",
    b"/annex/objects/": "a git-annex pointer in place of the file; run `git annex get`",
    **dict.fromkeys(
        (b"<!DOCTYPE html", b"<!doctype html", b"<html"), "a web page in place of the file; download the raw file"
    ),
    b"<<<<<<< ": "full of marks of a merge conflict; resolve it",
}
TOO_DEEP = f"more than {MAX_DEPTH} lists and mappings in each other; flatten it"
_HALF_PAIR = re.compile("[\\ud800-\\udfff]")
_DIGITS = "Exceeds the limit"  # as Python's error about an integer of thousands of digits begins


def check_regular(path: Path, what: str = "file") -> None:
    """Raise :class:`InputError` if there is no file of that name, or something else has it, or it may not be read."""
    with _named(path, what):
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise InputError(f"{path}: a folder, not a file; name the file in it")
        if not stat.S_ISREG(mode):  # to open a pipe would wait for its other end
            raise InputError(f"{path}: a pipe, socket or device, not a file; save what it holds and name that")
        path.open("rb").close()


@contextmanager
def opened(path: Path, what: str = "file") -> Iterator[BinaryIO]:
    """Open a file of text, its byte order mark behind; :class:`InputError` says what it is instead, or why it fails."""
    check_regular(path, what)
    with _named(path, what), path.open("rb") as content:
        start = content.read(max(map(len, OTHER_FORMATS)))
        for first, problem in OTHER_FORMATS.items():
            if start.startswith(first):
                raise InputError(f"{path}: the file is {problem}")
        content.seek(len(BOM) if start.startswith(BOM) else 0)
        yield content


def read_text(path: Path, what: str = "file") -> str:
    """Return a file's text without a byte order mark, line ends as they are; errors as in :func:`opened`.

    Raises :class:`InputError` naming the line that is not UTF-8.
    """
    with opened(path, what) as content:
        data = content.read()
    try:
        return decoded(data)
    except ValueError as error:
        bad = error.start if isinstance(error, UnicodeDecodeError) else data.index(0)
        raise InputError(f"{path}, line {data.count(10, 0, bad) + 1}: {problem_in_words(error)}") from None


def iterate_lines(path: Path, what: str = "file") -> Iterator[tuple[int, bytes]]:
    """Yield each line that is not blank, its number first; only ``\\n`` ends a line. Errors as in :func:`opened`."""
    with opened(path, what) as content:
        for number, line in enumerate(content, start=1):
            if line.strip():
                yield number, line


def decoded(data: bytes) -> str:
    """Return UTF-8 as text; ``ValueError`` if it is none, or holds NUL bytes, as UTF-16 does."""
    text = data.decode("utf-8")
    if "\0" in text:
        raise ValueError("NUL bytes, as in UTF-16; save the file as UTF-8")
    return text


def parse_json(text: str) -> Any:
    """Return the value of one JSON text. ``ValueError`` for what readers disagree on or choke on as well.

    That is NaN and Infinity, a key that stands twice in an object, more than ``MAX_DEPTH`` values in each other,
    and numbers of thousands of digits.
    """
    try:
        value = _JSON.decode(text)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    if text.count("[") + text.count("{") > MAX_DEPTH:
        check_depth(value)
    return value


def check_depth(value: Any) -> None:
    """Raise ``ValueError`` if more than ``MAX_DEPTH`` lists and mappings lie in each other."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        if not level:
            return
        level = [inner for outer in level for inner in _items(outer)]
    raise ValueError(TOO_DEEP)


def check_text(value: Any) -> None:
    """Raise ``ValueError`` if a text in ``value`` holds half of a surrogate pair, which no encoding can write."""
    if isinstance(value, str):
        if found := _HALF_PAIR.search(value):
            raise ValueError(
                f"\\u{ord(found[0]):04x} is half of a surrogate pair, not a character; write both halves, or remove it"
            )
    elif isinstance(value, dict):
        for key, inner in value.items():
            check_text(key)
            check_text(inner)
    elif isinstance(value, list):
        for inner in value:
            check_text(inner)


def problem_in_words(error: ValueError) -> str:
    """Return what was wrong with a JSON text, or with the bytes of one, and what to do about it."""
    if isinstance(error, UnicodeDecodeError):
        return (
            f"not UTF-8 (byte 0x{error.object[error.start]:02x}); save the file as UTF-8, for example with "
            "`iconv -f WINDOWS-1252 -t UTF-8`"
        )
    if isinstance(error, json.JSONDecodeError):
        if error.msg == "Extra data":
            return "more than one JSON value; write each on a line of its own"
        if error.pos >= len(error.doc.rstrip()):
            return (
                "the JSON value does not end here; write each on one line, as `jq -c .` does, or restore what was cut"
            )
        return f"not valid JSON ({error.msg} at character {error.pos + 1})"
    return "a number has too many digits" if str(error).startswith(_DIGITS) else str(error)


@contextmanager
def _named(path: Path, what: str) -> Iterator[None]:
    """Turn the system's refusals of a path into one line."""
    try:
        yield
    except FileNotFoundError:
        if path.is_symlink():
            raise InputError(f"{path}: a link to {path.readlink()}, which is not there; restore it") from None
        raise InputError(f"{path}: there is no such {what}") from None
    except PermissionError:
        raise InputError(f"{path}: you may not read it; change its permissions") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the path") from None


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in found if keys.count(key) > 1)
        raise ValueError(f"the key '{twice[:60]}' stands twice in one object; remove one")
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON; write a number or null")


_JSON = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse)
