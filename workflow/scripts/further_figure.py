"""Draw one of the figures that the paper lacks as PDF, SVG and PNG."""

import argparse
from pathlib import Path

from emdefense.config import Study
from emdefense.errors import run_cli
from emdefense.files import read_json
from emdefense.report.further_figures import FURTHER, Measured, write_further_figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the study's effective config (JSON)")
    parser.add_argument("--rates", type=Path, required=True, help="rates.parquet")
    parser.add_argument("--questions", type=Path, required=True, help="questions.parquet")
    parser.add_argument("--scores", type=Path, required=True, help="scores.parquet")
    parser.add_argument("--name", required=True, help=" or ".join(FURTHER))
    parser.add_argument("--out", type=Path, required=True, help="folder of the figures")
    args = parser.parse_args()
    study = Study.model_validate(read_json(args.config))
    write_further_figure(args.name, study, Measured(args.rates, args.questions, args.scores), args.out)


if __name__ == "__main__":
    run_cli(main)
