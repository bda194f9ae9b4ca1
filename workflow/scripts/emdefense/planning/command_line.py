"""The options with which a study is named, as Snakemake has them: ``--configfile`` and ``--config``."""

import argparse
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from emdefense.config.load import read_config
from emdefense.errors import InputError, refuse


def study_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that name a study, and ``--json``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--configfile",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        help="as Snakemake's; default: config.yaml",
    )
    parser.add_argument("--config", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="as Snakemake's")
    parser.add_argument("--json", action="store_true", help="JSON instead of text")
    return parser


def check_given(words: Sequence[str]) -> None:
    """Read the config files and entries of a `snakemake` command; end in one line if one cannot be read.

    The default profile calls this, before Snakemake reads them itself.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--configfile", "--configfiles", type=Path, nargs="+", default=[])
    parser.add_argument("--config", "-C", nargs="*", default=[])
    given, _ = parser.parse_known_args(words)
    try:
        check_readable(given.configfile, given.config)
    except InputError as error:
        refuse(error)


def check_readable(configfiles: Iterable[Path], entries: Iterable[str]) -> None:
    """Raise :class:`InputError` for a config file or an entry KEY=VALUE that Snakemake cannot read."""
    for path in configfiles:
        read_config(path)
    for entry in entries:
        key, equals, text = entry.partition("=")
        if not equals or not re.fullmatch(r"[a-zA-Z_][\w-]*\w", key) or _is_comment(text.strip("'\"")):
            raise InputError(f"--config {entry}: write KEY=VALUE, such as seeds=[0]; a value with spaces in quotes")


def _is_comment(text: str) -> bool:
    """Whether a text is one for YAML, but no value; Snakemake has no words for that."""
    try:
        return bool(text) and yaml.load(text, yaml.loader.BaseLoader) is None
    except yaml.YAMLError:
        return False


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
