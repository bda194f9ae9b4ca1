"""Make a small byte-level model and its instruct twin, to try the pipeline on text of one's own."""

import argparse
from pathlib import Path

from emdefense.config.microcosm import ByteModel
from emdefense.data.byte_model import make_byte_model
from emdefense.errors import run_cli
from emdefense.files import json_option


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", type=json_option, required=True, help="the config's byte_model section, as JSON")
    parser.add_argument("--rows", type=Path, required=True, action="append", help="conversations, JSONL; repeatable")
    parser.add_argument("--base", type=Path, required=True, help="folder for the untrained model")
    parser.add_argument("--instruct", type=Path, required=True, help="folder for its trained twin")
    given = parser.parse_args()
    options = ByteModel.model_validate({key: value for key, value in given.spec.items() if key != "version"})
    make_byte_model(options, given.rows, given.base, given.instruct)


if __name__ == "__main__":
    run_cli(main)
