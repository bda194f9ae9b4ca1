"""The study's YAML for others to run, and other nested values, each looked at by its key."""

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
    config = checked_values(config, check)
    head = f"# The study {study.study.study}: all of its keys, those at their defaults too.\n"
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100)
    path.write_text(head + text, encoding="utf-8")


def checked_values(value: Any, check: Check, keys: tuple[str | int, ...] = ()) -> Any:
    """Return nested values as others may read them: every text of them, names of keys included, is looked at."""
    if isinstance(value, Mapping):
        return {
            check(key, f"key '{key_path(*keys, key)}'"): checked_values(below, check, (*keys, key))
            for key, below in value.items()
        }
    if isinstance(value, list):
        return [checked_values(below, check, (*keys, place)) for place, below in enumerate(value)]
    return check(value, f"key '{key_path(*keys)}'") if isinstance(value, str) else value
