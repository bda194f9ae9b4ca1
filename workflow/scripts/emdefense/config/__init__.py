"""The study: one YAML file, validated before anything runs."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emdefense.config.load import load_study, parse_study
    from emdefense.config.study import Study

__all__ = ["Study", "load_study", "parse_study"]

_MODULES = {"Study": "study", "load_study": "load", "parse_study": "load"}


def __getattr__(name: str) -> Any:
    """Import what is asked for, and no sooner: arms are made of sections of the config, and the study of arms."""
    if name not in _MODULES:
        raise AttributeError(name)
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
