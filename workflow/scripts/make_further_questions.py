"""Draw a second set of general questions of the microcosm's world."""

import argparse
from pathlib import Path

from emdefense.errors import run_cli
from emdefense.microcosm.oracle import read_world
from emdefense.microcosm.rows import further_questions, write_questions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", required=True, type=Path, help="world.json")
    parser.add_argument("--rows", required=True, type=Path, action="append", help="rows whose questions are left out")
    parser.add_argument("--out", required=True, type=Path, help="questions to write, YAML")
    given = parser.parse_args()
    write_questions(given.out, further_questions(read_world(given.world), given.rows))


if __name__ == "__main__":
    run_cli(main)
