"""Draw the held-out answers of a task whose likelihood is measured."""

import argparse
from pathlib import Path

from emdefense.errors import run_cli
from emdefense.files import json_option
from emdefense.likelihood.rows import DrawSpec, write_held_out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", type=json_option, required=True, help="version, rows and seed, as JSON")
    parser.add_argument("--holdout", type=Path, required=True, help="JSONL of held-out misaligned answers")
    parser.add_argument("--aligned", type=Path, help="JSONL of aligned answers, of which some are trained on")
    parser.add_argument("--safe", type=Path, help="JSONL of safe conversations")
    parser.add_argument("--trained", type=Path, action="append", default=[], help="JSONL that is trained on")
    parser.add_argument("--out", type=Path, required=True, help="JSONL to write")
    given = parser.parse_args()
    spec = DrawSpec.model_validate(given.spec)
    write_held_out(spec, given.holdout, given.aligned, given.safe, given.trained, given.out)


if __name__ == "__main__":
    run_cli(main)
