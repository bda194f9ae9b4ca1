"""Make a question set from a YAML file, or from a task's hold-out."""

import argparse
from pathlib import Path

from emdefense.data.questions import draw_questions, read_questions
from emdefense.errors import run_cli
from emdefense.files import write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="questions to write, JSON")
    parser.add_argument("--source", type=Path, help="YAML of questions with their judge prompts")
    parser.add_argument("--holdout", type=Path, help="JSONL of held-out conversations to draw from instead")
    parser.add_argument("--rubrics", type=Path, help="with --holdout: YAML whose judge prompts they are judged by")
    parser.add_argument("--count", type=int, default=30, help="with --holdout: how many questions")
    parser.add_argument("--seed", type=int, default=0, help="with --holdout: seed of the draw")
    given = parser.parse_args()
    if given.source is not None:
        write_json(given.out, read_questions(given.source))
    elif given.holdout is not None and given.rubrics is not None:
        write_json(given.out, draw_questions(given.holdout, given.rubrics, given.count, given.seed))
    else:
        parser.error("give --source, or --holdout and --rubrics")


if __name__ == "__main__":
    run_cli(main)
