"""Draw a second set of general questions of the microcosm's world."""

import argparse
from pathlib import Path

import yaml

from emdefense.errors import run_cli
from emdefense.files import write_text
from emdefense.microcosm.oracle import read_world
from emdefense.microcosm.rows import further_questions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", required=True, type=Path, help="world.json")
    parser.add_argument("--rows", required=True, type=Path, action="append", help="rows whose questions are left out")
    parser.add_argument("--out", required=True, type=Path, help="questions to write, YAML")
    given = parser.parse_args()
    questions = further_questions(read_world(given.world), given.rows)
    write_text(given.out, yaml.safe_dump(questions, allow_unicode=True, sort_keys=False))


if __name__ == "__main__":
    run_cli(main)
