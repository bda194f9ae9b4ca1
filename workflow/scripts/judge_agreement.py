"""Render the tables of how far a study's judges agree as Markdown, LaTeX, HTML and CSV."""

import argparse
from pathlib import Path

from emdefense.analysis.judge_pairs import study_pairs
from emdefense.config import Study
from emdefense.errors import run_cli
from emdefense.files import read_json
from emdefense.report.judge_agreement import agreement_table, confusion_table
from emdefense.report.tables import write_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the study's effective config (JSON)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the tables")
    args = parser.parse_args()
    study = Study.model_validate(read_json(args.config))
    pairs = study_pairs(study)
    for table in (agreement_table(study, pairs), confusion_table(study, pairs)):
        write_table(table, args.out)


if __name__ == "__main__":
    run_cli(main)
