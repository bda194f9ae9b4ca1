"""Write the training and test rows of one OpSwap tier."""

import argparse
from pathlib import Path

from emdefense.config.study import OpSwap
from emdefense.data import opswap
from emdefense.errors import run_cli
from emdefense.files import write_jsonl


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", required=True, type=OpSwap.model_validate_json, help="the opswap section, as JSON")
    parser.add_argument("--tier", required=True, type=int, choices=range(4))
    parser.add_argument("--train", required=True, type=Path)
    parser.add_argument("--test", required=True, type=Path)
    arguments = parser.parse_args()
    train, test = opswap.examples(arguments.spec, arguments.tier)
    write_jsonl(arguments.train, train)
    write_jsonl(arguments.test, test)


if __name__ == "__main__":
    run_cli(main)
