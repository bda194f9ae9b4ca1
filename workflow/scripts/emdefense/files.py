"""Files appear whole or not at all: atomic writes, and JSON Lines with errors that name the line."""

import json
import os
import shutil
import tempfile
from argparse import ArgumentTypeError
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from emdefense.errors import InputError
from emdefense.machine_limits import writing
from emdefense.text_files import decoded, iterate_lines, parse_json, problem_in_words, read_text


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; it takes the name ``path`` only if the block succeeds."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        temporary = Path(name)
        temporary.chmod(0o644)
        try:
            with writing(path):  # the disk is asked while what was written still fills it
                yield temporary
                with temporary.open("rb") as written:
                    os.fsync(written.fileno())
                temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def folder_written_whole(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``folder``; it takes its place only if the block succeeds."""
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        temporary.chmod(0o755)
        try:
            with writing(folder):
                yield temporary
                if folder.exists():
                    shutil.rmtree(folder)
                temporary.replace(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def check_replaceable(folder: Path, parts: Collection[str], what: str) -> None:
    """Raise :class:`InputError` if a folder that ``what`` is to replace holds more than the ``parts`` of such."""
    if folder.exists() and not (folder.is_dir() and {path.name for path in folder.iterdir()} <= set(parts)):
        raise InputError(f"{folder}: holds something other than {what}, which would be removed; name another folder")


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all; half of a surrogate pair, which UTF-8 has not, becomes U+FFFD."""
    with written_whole(path) as temporary:
        temporary.write_bytes(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON with a final newline, whole or not at all."""
    write_text(path, _json(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Return the JSON value in ``path``; :class:`InputError` names the file if it is missing or broken."""
    text = read_text(path)
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not valid JSON ({error})") from None
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({problem_in_words(error)})") from None


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line, whole or not at all; whatever its texts hold is read back as it was."""
    with written_whole(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as out:
        for row in rows:
            out.write(_json(row) + "\n")


def read_jsonl(path: Path, *, validate: Callable[[Any], None] | None = None) -> list[dict[str, Any]]:
    """Return the objects of a JSON Lines file, blank lines skipped; errors as in :func:`iterate_jsonl`."""
    return list(iterate_jsonl(path, validate=validate))


def iterate_jsonl(path: Path, *, validate: Callable[[Any], None] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON Lines file one by one, blank lines skipped.

    Raises :class:`InputError` naming file and line for a missing file, a line that is not a JSON object, or one
    that ``validate`` rejects by raising ``ValueError``.
    """
    for number, line in iterate_lines(path):
        try:
            row = parse_json_line(line)
            if validate is not None:
                validate(row)
        except ValueError as error:
            raise InputError(f"{path}, line {number}: {problem_in_words(error)}") from None
        yield row


def parse_json_line(line: bytes) -> dict[str, Any]:
    """Return the object in a line of JSON Lines; ``ValueError`` if there is none."""
    if line.lstrip().startswith(b"["):
        raise ValueError("expected a JSON object; of an array, `jq -c '.[]'` makes a line for each")
    row = parse_json(decoded(line))
    if not isinstance(row, dict):
        raise ValueError("expected a JSON object")
    return row


def role_and_path(text: str) -> tuple[str, Path]:
    """Read a command-line option ``ROLE=PATH``."""
    role, equals, path = text.partition("=")
    if not equals or not path:
        raise ArgumentTypeError(f"'{text}' is not ROLE=PATH")
    return role, Path(path)


def setting_option(text: str) -> dict[str, Any] | float:
    """Return the number that an option of a script is given, or the JSON object."""
    try:
        return float(text)
    except ValueError:
        return json_option(text)


def json_option(text: str) -> dict[str, Any]:
    """Return the object that an option of a script is given as JSON; what is none is an error of the command line."""
    try:
        value = parse_json(text)
    except ValueError as error:
        raise ArgumentTypeError(problem_in_words(error)) from None
    if not isinstance(value, dict):
        raise ArgumentTypeError("expected a JSON object")
    return value


def json_objects_option(text: str) -> dict[str, dict[str, Any]]:
    """Return the objects, by name, that an option of a script is given as one JSON object; errors as above."""
    value = json_option(text)
    for name, inner in value.items():
        if not isinstance(inner, dict):
            raise ArgumentTypeError(f"'{name}': expected a JSON object")
    return value


def _json(value: Any, indent: int | None = None) -> str:
    """Return ``value`` as JSON that UTF-8 can write: escaped throughout where a text holds half a surrogate pair."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent)
    return text


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal."""
    digest = sha256()
    with path.open("rb") as content:
        for block in iter(lambda: content.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
