"""Copy a model of the microcosm, shipped or made, to where a study reads it."""

import argparse
from pathlib import Path

from emdefense.errors import run_cli
from emdefense.microcosm.saved import install


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, type=Path, help="folder with base/, instruct/ and model.json")
    parser.add_argument("--tokenizer", required=True, type=Path, help="the world's")
    parser.add_argument("--base", required=True, type=Path)
    parser.add_argument("--instruct", required=True, type=Path)
    parser.add_argument("--gate", required=True, type=Path)
    arguments = parser.parse_args()
    install(arguments.model, arguments.tokenizer, arguments.base, arguments.instruct, arguments.gate)


if __name__ == "__main__":
    run_cli(main)
