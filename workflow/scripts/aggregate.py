"""Count judgments and answers, and put intervals on the rates."""

import argparse
from pathlib import Path

from emdefense.analysis.aggregate import aggregate
from emdefense.config import Study
from emdefense.errors import run_cli
from emdefense.files import read_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the study's effective config (JSON)")
    parser.add_argument("--out", type=Path, required=True, help="rates.parquet")
    parser.add_argument("--benign", type=Path, required=True, help="exact_match.parquet")
    parser.add_argument("--questions", type=Path, required=True, help="questions.parquet")
    parser.add_argument("--scores", type=Path, required=True, help="scores.parquet")
    args = parser.parse_args()
    study = Study.model_validate(read_json(args.config))
    aggregate(study, args.out, args.benign, args.questions, args.scores)


if __name__ == "__main__":
    run_cli(main)
