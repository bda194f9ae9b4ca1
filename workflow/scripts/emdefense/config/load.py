"""Load a study, and turn each mistake in it into one line."""

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from emdefense.config.checks import check_study
from emdefense.config.judges import Judge
from emdefense.config.sources import Source
from emdefense.config.study import Study, Task
from emdefense.errors import InputError
from emdefense.files import read_json
from emdefense.names import NAME_IN_WORDS, NAME_PATTERN
from emdefense.section import BOUND, SHOWN, TOO_LARGE, Section, key_path, shown
from emdefense.text_files import MAX_DEPTH, check_text
from emdefense.yaml_files import MAX_VALUES, TOO_SMALL, read_yaml, vanishes


def _kinds(union: Any) -> str:
    """Return the tags of a union of sections, as a list in words."""
    return ", ".join(get_args(section.model_fields["kind"].annotation)[0] for section in get_args(get_args(union)[0]))


EVALUATED = "__use_yte__"  # with it Snakemake runs expressions in a config file, before anything of ours is asked

_KINDS = {"tasks": _kinds(Task), "judge": _kinds(Judge), "second_judges": _kinds(Judge), "sources": _kinds(Source)}

_LENGTHS = {"too_short": ("few", "at least", "min_length"), "too_long": ("many", "at most", "max_length")}


def load_study(path: Path) -> Study:
    """Read and validate a study's YAML file; :class:`InputError` names file and key."""
    return parse_study(read_config(path), str(path), [path])


def read_config(path: Path) -> dict[str, Any]:
    """Return a config file's keys, not validated yet; :class:`InputError` if there are none."""
    raw = read_json(path) if path.suffix == ".json" else read_yaml(path, "config file")
    if not isinstance(raw, dict):
        raise InputError(f"{path}: expected a mapping with keys such as 'study' and 'models'")
    if EVALUATED in raw:
        raise InputError(f"{path}: key '{EVALUATED}': a study is data, not expressions; write its values, without it")
    return raw


def parse_study(raw: Mapping[str, Any], source: str, files: Sequence[Path] = ()) -> Study:
    """Validate a parsed config; raises :class:`InputError`, in which ``source`` is the file that is named.

    ``files`` are those whose keys were laid over each other; from their folders on, ``arms_from`` names its files.
    """
    try:
        _check_extent(raw)
        study = Study.model_validate(_beside(raw, files))
        check_study(study)
    except ValidationError as error:
        raise InputError(f"{source}: {_first_line(error)}") from None
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    return study


def _beside(raw: Mapping[str, Any], files: Sequence[Path]) -> Mapping[str, Any]:
    """Return a config in which the files of ``arms_from`` are named from here, not from the file that names them."""
    named = raw.get("arms_from")
    if not isinstance(named, list | tuple) or not all(isinstance(name, str) for name in named):
        return raw
    folder = next((file.parent for file in reversed(files) if read_config(file).get("arms_from") == named), Path())
    return {**raw, "arms_from": [_from_here(folder / name) for name in named]}


def _from_here(path: Path) -> str:
    """Return a path that is the same however the study's file was named: what it is relative to stands in specs."""
    whole = Path(os.path.abspath(path))
    return os.path.relpath(whole) if whole.is_relative_to(Path.cwd()) else str(whole)


def _check_extent(raw: Mapping[str, Any]) -> None:
    """Raise :class:`InputError` for what pydantic and ``repr`` choke on: lists in lists, numbers of many digits.

    So are texts that no encoding can write.
    """
    level: list[tuple[tuple[Any, ...], Any]] = [((), raw)]
    for _ in range(MAX_DEPTH):
        inner = []
        for keys, value in level:
            if isinstance(value, int) and abs(value) >= BOUND:
                raise InputError(f"key '{key_path(*keys)}': {TOO_LARGE}")
            if isinstance(value, str):
                if vanishes(value):
                    raise InputError(f"key '{key_path(*keys)}': {TOO_SMALL}")
                try:
                    check_text(value)
                except ValueError as error:
                    raise InputError(f"key '{key_path(*keys)}': {error}") from None
            if isinstance(value, Mapping):
                for key in value:
                    if not isinstance(key, str):
                        raise InputError(
                            f"key '{key_path(*keys, key)}': keys are texts; write it in quotes, or another"
                        )
                inner += [((*keys, key), below) for key, below in value.items()]
            elif isinstance(value, list | tuple | set):
                inner += [((*keys, place), below) for place, below in enumerate(value)]
        if not inner:
            return
        level = inner
        if len(level) > MAX_VALUES:
            break
    raise InputError(f"key '{key_path(*level[0][0][:1])}': too many lists and mappings in each other; write fewer")


# How pydantic ends the place of a value that may be of several types: with the first of them.
_ALTERNATIVES = ("float", "str")


def _first_line(error: ValidationError) -> str:
    first = error.errors()[0]
    # A union's tag stands in the location; the user never wrote it.
    tag = {"judge": 1, "second_judges": 2, "tasks": 2, "sources": 2}.get(str(first["loc"][0]))
    parts = [part for place, part in enumerate(first["loc"]) if place != tag and part != "[key]"]
    if len(parts) > 1 and parts[-1] in _ALTERNATIVES and first["type"] not in {"extra_forbidden", "missing"}:
        parts.pop()
    where, last = key_path(*parts), str(parts[-1])
    got = shown(first["input"], last)
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(last[:SHOWN], sorted(_known_keys()), n=1)
        hint = f"did you mean '{close[0]}'?" if close else "remove it, or see docs/config.md for the keys there are"
        return f"unknown key '{where}'; {hint}"
    if first["type"] in {"union_tag_not_found", "union_tag_invalid"}:
        kinds = _KINDS[str(first["loc"][0])]
        return f"key '{where}.kind': write one of {kinds}"
    if first["type"] == "missing":
        return f"key '{where}' is missing; add it"
    if first["type"] == "tuple_type":
        bare = got.strip("'")
        return f"key '{where}': {got} is no list; write it in brackets, such as [{bare}]"
    if first["type"] in _LENGTHS:
        wrong, bound, length = _LENGTHS[first["type"]]
        return f"key '{where}': too {wrong} entries in {got}; write {bound} {first['ctx'][length]}"
    if NAME_PATTERN in first.get("ctx", {}).values() or first["type"] == "string_too_long":
        return f"key '{where}': {NAME_IN_WORDS}"
    if first["type"] == "emdefense":  # a check of ours: it says what to write, and keys are never shown
        return f"key '{where}': {first['msg']}"
    return f"key '{where}': {first['msg']} (got {got})"


def _known_keys(section: type[Section] = Section) -> set[str]:
    """Return every key of every section."""
    return set().union(*(set(sub.model_fields) | _known_keys(sub) for sub in section.__subclasses__()))
