"""The options with which a study is named, as Snakemake has them: ``--configfile`` and ``--config``."""

import argparse
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from emdefense.config.load import parse_study, read_config
from emdefense.config.study import Study
from emdefense.errors import InputError, refuse

DEFAULT = "config.yaml"


def study_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that name a study, and ``--json``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--configfile", type=Path, nargs="+", action="extend", help=f"as Snakemake's; default: {DEFAULT}"
    )
    parser.add_argument("--config", nargs="+", action="extend", metavar="KEY=VALUE", help="as Snakemake's")
    parser.add_argument("--json", action="store_true", help="JSON instead of text")
    return parser


def named_study(arguments: argparse.Namespace) -> Study:
    """Return the study; :class:`InputError` names the file and key that are wrong."""
    files = arguments.configfile or [Path(DEFAULT)]
    merged: dict[str, Any] = {}
    for path in files:
        _update(merged, read_config(path))
    for entry in arguments.config or []:
        _update(merged, _entry(entry))
    return parse_study(merged, " + ".join(map(str, files)))


def check_given(words: Sequence[str]) -> None:
    """Read the config files and entries of a `snakemake` command; end in one line if one cannot be read.

    The default profile calls this, before Snakemake reads them itself.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--configfile", "--configfiles", type=Path, nargs="+", default=[])
    parser.add_argument("--config", "-C", nargs="*", default=[])
    given, _ = parser.parse_known_args(words)
    try:
        for path in given.configfile:
            read_config(path)
        for entry in given.config:
            _entry(entry)
    except InputError as error:
        refuse(error)


def snakemake_command(arguments: argparse.Namespace, *more: str) -> str:
    """Return the command line that runs the same study, with ``more`` words at its end."""
    words = ["snakemake"]
    if profile := getattr(arguments, "profile", None):
        words += ["--profile", profile]
    if arguments.configfile:
        words += ["--configfile", *map(str, arguments.configfile)]
    if arguments.config:
        words += ["--config", *arguments.config]
    return shlex.join([*words, *more])


def _update(config: dict[str, Any], new: Mapping[str, Any]) -> None:
    """Merge ``new`` into ``config`` key by key; anything but a mapping replaces what was there."""
    for key, value in new.items():
        if isinstance(value, Mapping):
            inner = config.get(key)
            config[key] = dict(inner) if isinstance(inner, Mapping) else {}
            _update(config[key], value)
        else:
            config[key] = value


def _entry(entry: str) -> dict[str, Any]:
    """Return one KEY=VALUE as Snakemake reads it: a number, a boolean, YAML of strings, or the text itself."""
    key, equals, text = entry.partition("=")
    if not equals or not re.fullmatch(r"[a-zA-Z_][\w-]*\w", key):
        raise InputError(f"--config {entry}: write KEY=VALUE, such as seeds=[0]; a value with spaces in quotes")
    text = text.strip("'\"")
    if not text:
        return {key: None}
    readers: tuple[Callable[[str], Any], ...] = (int, float, _boolean, _strings)
    for read in readers:
        try:
            return {key: read(text)}
        except (ValueError, yaml.YAMLError):
            continue
    return {key: text}


def _boolean(text: str) -> bool:
    if text not in ("True", "False"):
        raise ValueError(text)
    return text == "True"


def _strings(text: str) -> Any:
    return yaml.load(text, yaml.loader.BaseLoader)
