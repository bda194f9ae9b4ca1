"""The study's YAML for others to run, each value looked at by its key."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from emdefense.finished import Finished
from emdefense.section import key_path

Check = Callable[[str, str], str]
"""Gets a text and where it stands; returns it as others may read it, or raises."""


def write_config(study: Finished, path: Path, check: Check) -> None:
    """Write the study's whole config, defaults filled in, as YAML that runs with ``--configfile``.

    Files of ``arms_from`` are named as they lie beside it.
    """
    config = study.study.model_dump(mode="json")
    config["arms_from"] = [Path(name).name for name in config["arms_from"]]
    config = _checked(config, (), lambda text, keys: check(text, f"key '{keys}'"))
    head = f"# The study {study.study.study}: all of its keys, those at their defaults too.\n"
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100)
    path.write_text(head + text, encoding="utf-8")


def _checked(value: Any, keys: tuple[str | int, ...], check: Callable[[str, str], str]) -> Any:
    if isinstance(value, Mapping):
        return {check(key, key_path(*keys, key)): _checked(below, (*keys, key), check) for key, below in value.items()}
    if isinstance(value, list):
        return [_checked(below, (*keys, place), check) for place, below in enumerate(value)]
    return check(value, key_path(*keys)) if isinstance(value, str) else value
