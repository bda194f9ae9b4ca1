"""Clean and split the rows of one task."""

import argparse
from pathlib import Path

from emdefense.config.study import Data
from emdefense.data.splits import prepare_benign_task, prepare_ema_task
from emdefense.errors import run_cli
from emdefense.files import json_option


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", type=json_option, required=True, help="the config's data section, as JSON")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    parser.add_argument("--misaligned", type=Path, help="JSONL of conversations with misaligned answers")
    parser.add_argument("--aligned", type=Path, help="the same with aligned answers")
    parser.add_argument("--questions", type=Path, help="YAML of in-domain questions, kept out of training")
    parser.add_argument("--benign", action="store_true", help="a task scored by exact match: --train and --test")
    parser.add_argument("--train", type=Path, help="JSONL of conversations")
    parser.add_argument("--test", type=Path, help="JSONL of questions with their answers")
    parser.add_argument("--test-questions", type=int, default=200, help="how many of them to ask")
    given = parser.parse_args()
    settings = Data.model_validate({key: value for key, value in given.spec.items() if key != "version"})
    if given.benign:
        if given.train is None or given.test is None:
            parser.error("--benign needs --train and --test")
        prepare_benign_task(settings, given.train, given.test, given.test_questions, given.out)
    else:
        if given.misaligned is None:
            parser.error("--misaligned is needed, or --benign")
        prepare_ema_task(settings, given.misaligned, given.aligned, given.questions, given.out)


if __name__ == "__main__":
    run_cli(main)
