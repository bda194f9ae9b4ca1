"""Judge a cell's responses to one question set."""

import argparse
import json
from pathlib import Path

from emdefense.errors import run_cli
from emdefense.judging.judge_file import judge_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", type=json.loads, required=True, help="the config's judge section, as JSON")
    parser.add_argument("--questions", type=Path, required=True, help="questions, JSON")
    parser.add_argument("--responses", type=Path, required=True, help="responses, JSONL")
    parser.add_argument("--judgments", type=Path, required=True, help="judgments to write, JSONL")
    arguments = parser.parse_args()
    judge_file(arguments.spec, arguments.questions, arguments.responses, arguments.judgments)


if __name__ == "__main__":
    run_cli(main)
