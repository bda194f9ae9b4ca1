"""Fetch one source: get it, check it against what was pinned and recorded, convert it, write down what it was."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from emdefense.config.source_checks import check_record, record_path
from emdefense.config.sources import GgufSource, ModelSource, PackageSource, SourceSection, UrlSource
from emdefense.errors import InputError
from emdefense.files import file_digest, read_json, write_json, write_jsonl
from emdefense.sources.conversations import convert_conversations
from emdefense.sources.download import download
from emdefense.sources.emergent_plus import convert_emergent_plus
from emdefense.sources.fetched import Content, Fetched
from emdefense.sources.foqa import convert_foqa
from emdefense.sources.gguf import check_gguf_package, convert_gguf
from emdefense.sources.hub import check_stored, snapshot
from emdefense.sources.models import PATTERNS, convert_model
from emdefense.sources.multiple_choice import convert_mmlu, convert_truthfulqa
from emdefense.sources.package import download_wheel, extract_gguf
from emdefense.sources.questions import convert_questions
from emdefense.sources.wildguardmix import convert_wildguardmix
from emdefense.text_files import check_regular

CONVERTERS: dict[str, Callable[[Any, Path], Fetched]] = {
    "conversations": convert_conversations,
    "questions": convert_questions,
    "emergent_plus": convert_emergent_plus,
    "wildguardmix": convert_wildguardmix,
    "foqa": convert_foqa,
    "mmlu": convert_mmlu,
    "truthfulqa": convert_truthfulqa,
    "model": convert_model,
    "gguf": convert_gguf,
    "package": convert_gguf,
}


@dataclass(frozen=True)
class Raw:
    """What was got: a file or folder, the commit it is of, and each file's SHA-256."""

    path: Path
    revision: str | None
    digests: dict[str, str]


def fetch(name: str, source: SourceSection, folder: Path) -> None:
    """Make the source's files in ``folder``, and beside them ``NAME.source.json`` that says what they are.

    Raises :class:`InputError` if it cannot be had, is not what the config pins or an earlier fetch recorded, or is not
    in the format of its kind.
    """
    path = record_path(folder, name)
    record = read_json(path) if path.is_file() else None
    if record is not None:
        check_record(record, name, source, path)
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=f".{name}-") as temporary:
        raw = _get(name, source, Path(temporary))
        _check_pinned(name, source, raw)
        made = CONVERTERS[source.kind](source, raw.path)  # type: ignore[attr-defined]
        files = {template.replace("NAME", name): content for template, content in made.files.items()}
        converted = Path(temporary) / "converted"
        for file, content in files.items():
            _write(converted / file, content)
        # A model's files are many gigabytes: they are not read again.
        linked = {f"{name}/{file}": digest for file, digest in raw.digests.items()}
        digests = linked if isinstance(source, ModelSource) else _digests(converted)
        new = _record(name, source, raw, made, digests)
        # What a GGUF file becomes depends on the version of transformers, too.
        compared = "raw" if isinstance(source, GgufSource | PackageSource) else "files"
        if record is not None and source.path is None and record[compared] != new[compared]:
            raise InputError(
                f"source {name}: upstream has changed since {record['fetched']} (revision {record['revision']}, now "
                f"{raw.revision}); pin the earlier one, or remove {path} to accept the change"
            )
        for file in files:
            _move(converted / file, folder / file)
    write_json(path, new)


def _get(name: str, source: SourceSection, temporary: Path) -> Raw:
    if isinstance(source, GgufSource | PackageSource):
        check_gguf_package()
    given = None if source.path is None else Path(source.path)
    if given is not None:
        if not given.exists():
            raise InputError(f"key 'sources.{name}.path': {given} does not exist; correct it, or leave it out")
        if not given.is_dir():
            check_regular(given)
    if isinstance(source, PackageSource):
        archive = given or download_wheel(str(source.package), str(source.version), temporary)
        file = extract_gguf(archive, source.file, temporary, f"sources.{name}.file")
        return Raw(file, source.version if given is None else None, _digests(file))
    if given is not None:
        return Raw(given, None, _digests(given))
    if isinstance(source, UrlSource):
        file = download(str(source.url), temporary)
        return Raw(file, None, _digests(file))
    repository, revision = source.repository, source.revision  # type: ignore[attr-defined]
    if isinstance(source, ModelSource):
        found = snapshot(repository, revision, "model", PATTERNS)
    else:
        found = snapshot(repository, revision, "dataset")
    digests = _digests(found)
    check_stored(found, digests)
    return Raw(found, found.name, digests)


def _digests(path: Path) -> dict[str, str]:
    if path.is_file():
        return {path.name: file_digest(path)}
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return {file.relative_to(path).as_posix(): file_digest(file) for file in files}


def _check_pinned(name: str, source: SourceSection, raw: Raw) -> None:
    wanted = getattr(source, "sha256", None)
    for file, digest in raw.digests.items():
        if wanted is not None and digest != wanted:
            raise InputError(
                f"key 'sources.{name}.sha256': {file} has {digest}, not {wanted}; fetch it again, or correct "
                "the key if this is the file you want"
            )


def _write(target: Path, content: Content) -> None:
    """Write rows, copy a file, or make a folder: of links to another one's files, so that no weights are copied."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if callable(content):
        content(target)
    elif isinstance(content, list):
        write_jsonl(target, content)
    elif content.is_file():
        shutil.copyfile(content, target)
    else:
        for file in sorted(file for file in content.rglob("*") if file.is_file()):
            link = target / file.relative_to(content)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file.resolve())


def _move(made: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        shutil.rmtree(target)
    made.replace(target)


def _record(name: str, source: SourceSection, raw: Raw, made: Fetched, files: dict[str, str]) -> dict[str, Any]:
    return {
        "name": name,
        "identity": source.identity(),
        "asked_revision": getattr(source, "revision", None),
        "revision": raw.revision,
        "terms": source.terms,
        "fetched": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": made.rows,
        "raw": raw.digests,
        "files": files,
    }
