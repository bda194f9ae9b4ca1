"""Load a study, and turn each mistake in it into one line."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from emdefense.config.base import Section
from emdefense.config.checks import check_study
from emdefense.config.sources import Source
from emdefense.config.study import Judge, Study, Task
from emdefense.errors import InputError
from emdefense.yaml_files import read_yaml


def _kinds(union: Any) -> str:
    """Return the tags of a union of sections, as a list in words."""
    return ", ".join(get_args(section.model_fields["kind"].annotation)[0] for section in get_args(get_args(union)[0]))


_KINDS = {"tasks": _kinds(Task), "judge": _kinds(Judge), "second_judges": _kinds(Judge), "sources": _kinds(Source)}

_LENGTHS = {"too_short": ("few", "at least", "min_length"), "too_long": ("many", "at most", "max_length")}


def load_study(path: Path) -> Study:
    """Read and validate a study's YAML file; :class:`InputError` names file and key."""
    return parse_study(read_config(path), str(path))


def read_config(path: Path) -> dict[str, Any]:
    """Return a config file's keys, not validated yet; :class:`InputError` if there are none."""
    raw = read_yaml(path, "config file")
    if not isinstance(raw, dict):
        raise InputError(f"{path}: expected a mapping with keys such as 'study' and 'models'")
    return raw


def parse_study(raw: Mapping[str, Any], source: str) -> Study:
    """Validate a parsed config; ``source`` is the file named in errors. Raises :class:`InputError`."""
    try:
        study = Study.model_validate(raw)
    except ValidationError as error:
        raise InputError(f"{source}: {_first_line(error)}") from None
    try:
        check_study(study)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    return study


def _first_line(error: ValidationError) -> str:
    first = error.errors()[0]
    # A union's tag stands in the location; the user never wrote it.
    tag = {"judge": 1, "second_judges": 2, "tasks": 2, "sources": 2}.get(str(first["loc"][0]))
    where = ".".join(str(part) for place, part in enumerate(first["loc"]) if place != tag)
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(first["loc"][-1]), sorted(_known_keys()), n=1)
        hint = f"did you mean '{close[0]}'?" if close else "remove it, or see docs/config.md for the keys there are"
        return f"unknown key '{where}'; {hint}"
    if first["type"] in {"union_tag_not_found", "union_tag_invalid"}:
        kinds = _KINDS[str(first["loc"][0])]
        return f"key '{where}.kind': write one of {kinds}"
    if first["type"] == "missing":
        return f"key '{where}' is missing; add it"
    if first["type"] == "tuple_type":
        return f"key '{where}': {first['input']!r} is no list; write it in brackets, such as [{first['input']}]"
    if first["type"] in _LENGTHS:
        wrong, bound, length = _LENGTHS[first["type"]]
        return f"key '{where}': too {wrong} entries in {first['input']!r}; write {bound} {first['ctx'][length]}"
    return f"key '{where}': {first['msg']} (got {first['input']!r})"


def _known_keys(section: type[Section] = Section) -> set[str]:
    """Return every key of every section."""
    return set().union(*(set(sub.model_fields) | _known_keys(sub) for sub in section.__subclasses__()))
