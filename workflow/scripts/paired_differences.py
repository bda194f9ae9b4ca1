"""Render the tables of paired differences as Markdown, LaTeX, HTML and CSV."""

import argparse
from pathlib import Path

from emdefense.analysis.rates import QUESTIONS_SCHEMA
from emdefense.analysis.summary import read_frame
from emdefense.config import Study
from emdefense.errors import run_cli
from emdefense.files import read_json
from emdefense.report.difference_table import defence_table, difference_table
from emdefense.report.tables import write_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the study's effective config (JSON)")
    parser.add_argument("--questions", type=Path, required=True, help="questions.parquet")
    parser.add_argument("--out", type=Path, required=True, help="folder of the tables")
    args = parser.parse_args()
    study = Study.model_validate(read_json(args.config))
    questions = read_frame(args.questions, QUESTIONS_SCHEMA)
    for table in (difference_table(study, questions), defence_table(study, questions)):
        write_table(table, args.out)


if __name__ == "__main__":
    run_cli(main)
