"""Render the table of variance components as Markdown, LaTeX, HTML and CSV."""

import argparse
from pathlib import Path

from emdefense.analysis.judge_halves import study_halves
from emdefense.analysis.judge_pairs import study_pairs
from emdefense.analysis.rates import QUESTIONS_SCHEMA
from emdefense.analysis.summary import read_frame
from emdefense.config import Study
from emdefense.errors import run_cli
from emdefense.files import read_json
from emdefense.report.tables import write_table
from emdefense.report.variance_table import variance_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the study's effective config (JSON)")
    parser.add_argument("--questions", type=Path, required=True, help="questions.parquet")
    parser.add_argument("--out", type=Path, required=True, help="folder of the tables")
    args = parser.parse_args()
    study = Study.model_validate(read_json(args.config))
    questions = read_frame(args.questions, QUESTIONS_SCHEMA)
    pairs = study_pairs(study) if study.second_judges else None
    halves = None if study.second_judges else study_halves(study)
    write_table(variance_table(study, questions, pairs, halves), args.out)


if __name__ == "__main__":
    run_cli(main)
