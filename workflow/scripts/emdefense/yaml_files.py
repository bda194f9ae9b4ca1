"""Reads YAML that a user wrote."""

from pathlib import Path
from typing import Any

import yaml

from emdefense.errors import InputError


def read_yaml(path: Path, what: str = "file") -> Any:
    """Return the value in ``path``; :class:`InputError` says that there is no such ``what``, or that it is no YAML."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such {what}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
