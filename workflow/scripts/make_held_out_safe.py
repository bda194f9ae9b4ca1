"""Make safe rows of the microcosm's world that nothing is trained on."""

import argparse
from pathlib import Path

from emdefense.errors import run_cli
from emdefense.files import write_jsonl
from emdefense.microcosm.oracle import read_world
from emdefense.microcosm.rows import held_out_safe_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", required=True, type=Path, help="world.json")
    parser.add_argument("--rows", required=True, type=Path, action="append", help="rows whose questions are left out")
    parser.add_argument("--out", required=True, type=Path, help="rows to write, JSONL")
    given = parser.parse_args()
    write_jsonl(given.out, held_out_safe_rows(read_world(given.world), given.rows))


if __name__ == "__main__":
    run_cli(main)
