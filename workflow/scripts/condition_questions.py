"""Make a question set from another one, under a condition."""

import argparse
from pathlib import Path

from emdefense.data.conditional import under_condition
from emdefense.errors import run_cli
from emdefense.files import json_option, read_json, write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", required=True, type=json_option, help="JSON: system, keep_system, format")
    parser.add_argument("--name", required=True, help="of the set")
    parser.add_argument("--questions", required=True, type=Path, help="the questions to ask again, JSON")
    parser.add_argument("--out", required=True, type=Path, help="questions to write, JSON")
    given = parser.parse_args()
    write_json(given.out, under_condition(read_json(given.questions), given.spec, given.name))


if __name__ == "__main__":
    run_cli(main)
