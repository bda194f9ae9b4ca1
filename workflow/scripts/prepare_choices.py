"""Read multiple-choice questions, and write them as models are asked them."""

import argparse
from pathlib import Path

from emdefense.data.multiple_choice import read_choices
from emdefense.errors import run_cli
from emdefense.files import json_option, write_jsonl


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", type=json_option, required=True, help="options, limit, seed and version, as JSON")
    parser.add_argument("--source", type=Path, required=True, help="questions with choices, JSONL")
    parser.add_argument("--out", type=Path, required=True, help="questions to write, JSONL")
    given = parser.parse_args()
    spec = given.spec
    write_jsonl(given.out, read_choices(given.source, spec["options"], spec["limit"], spec["seed"]))


if __name__ == "__main__":
    run_cli(main)
