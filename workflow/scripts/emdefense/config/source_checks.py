"""Checks of sources against the paths that name them, and against what was fetched before."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emdefense.config.sources import SourceSection
from emdefense.errors import InputError
from emdefense.files import read_json

PLACEHOLDER = "{sources}/"
RECORDED = {"revision", "asked_revision", "raw"}


def record_path(folder: Path, name: str) -> Path:
    """Return where it is written down what a source was fetched from."""
    return folder / f"{name}.source.json"


def check_source_names(sources: Mapping[str, SourceSection]) -> None:
    """Raise :class:`InputError` if two sources, or a source and a record, would lie at one place."""
    taken: dict[str, str] = {}
    for name, source in sources.items():
        places = {Path(file).parts[0] for file in source.files(name)} | {record_path(Path(), name).name}
        for place in sorted(places):
            if other := taken.get(place.casefold()):
                raise InputError(f"key 'sources.{name}': {place} would also be of source '{other}'; rename one")
            taken[place.casefold()] = name


def check_sources(sources: Mapping[str, SourceSection], folder: Path) -> None:
    """Raise :class:`InputError` for a source from nowhere, or one fetched before from elsewhere under its name."""
    for name, source in sources.items():
        for key in source.comes_from if source.path is None else ():
            if getattr(source, key) is None:
                raise InputError(f"key 'sources.{name}.{key}': it comes from nowhere; write its {key}, or a local path")
        record = record_path(folder, name)
        if record.is_file():
            check_record(read_json(record), name, source, record)


def check_reference(sources: Mapping[str, SourceSection], key: str, path: str) -> None:
    """Raise :class:`InputError` if no source makes the file or folder that ``path`` names below {sources}."""
    made = [PLACEHOLDER + file for name, source in sources.items() for file in source.files(name)]
    if path not in made:
        close = difflib.get_close_matches(path, made, n=1)
        hint = f"did you mean {close[0]}?" if close else "define it under 'sources'"
        raise InputError(f"key '{key}': no source makes {path}; {hint}")


def check_record(record: dict[str, Any], name: str, source: SourceSection, path: Path) -> None:
    """Raise :class:`InputError` if ``record``, read from ``path``, is of another source than the config's."""
    again = f"give this one another name, or remove {path} to fetch it anew"
    if not isinstance(record, dict) or not isinstance(record.get("identity"), dict) or not record.keys() >= RECORDED:
        raise InputError(f"{path}: damaged, or no record of a source; remove it to fetch the source anew")
    if record["identity"] != source.identity():
        raise InputError(f"key 'sources.{name}': fetched before as {_in_words(record['identity'])}; {again}")
    revision = getattr(source, "revision", None)
    if source.path is None and revision is not None and revision not in (record["revision"], record["asked_revision"]):
        raise InputError(f"key 'sources.{name}.revision': fetched before at {record['revision']}; {again}")
    sha256 = getattr(source, "sha256", None)
    if sha256 is not None and sha256 not in record["raw"].values():
        raise InputError(f"key 'sources.{name}.sha256': not that of the file fetched before; {again}")


def _in_words(identity: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in identity.items())
