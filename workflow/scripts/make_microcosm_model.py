"""Pretrain and align one of the microcosm's models."""

import argparse
from pathlib import Path

from emdefense.errors import run_cli
from emdefense.files import json_option


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", required=True, type=json_option, help="all that the model depends on, as JSON")
    parser.add_argument("--name", required=True, help="what messages call it")
    parser.add_argument("--held-out", action="append", default=[], type=Path, help="rows whose prompts are left out")
    parser.add_argument("--out", required=True, type=Path, help="folder for base/, instruct/ and model.json")
    arguments = parser.parse_args()

    # Here, because what imports before the package ends in a traceback where there is no memory for it.
    from emdefense.microcosm.making import make_models

    make_models(arguments.recipe, arguments.name, arguments.held_out, arguments.out)


if __name__ == "__main__":
    run_cli(main)
