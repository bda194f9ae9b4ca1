"""Fetch one source of the study, check it, and convert it to the files that the pipeline reads."""

import argparse
from pathlib import Path

from emdefense.config.sources import Source, SourceSection
from emdefense.errors import run_cli
from emdefense.files import json_option
from emdefense.sources.fetch import fetch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True, help="the source's name in the config")
    parser.add_argument("--spec", type=json_option, required=True, help="its section of the config, as JSON")
    parser.add_argument("--pins", type=json_option, default={}, help="more keys of that section, as JSON")
    parser.add_argument("--folder", type=Path, required=True, help="the sources folder")
    given = parser.parse_args()

    from pydantic import TypeAdapter  # here, because what imports before the package cannot fail in one line

    source: SourceSection = TypeAdapter(Source).validate_python({**given.spec, **given.pins})
    fetch(given.name, source, given.folder)


if __name__ == "__main__":
    run_cli(main)
