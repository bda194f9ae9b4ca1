"""Render one table as Markdown, LaTeX, HTML and CSV."""

import argparse
from pathlib import Path

from emdefense.analysis.summary import read_summary
from emdefense.config import Study
from emdefense.errors import run_cli
from emdefense.files import read_json
from emdefense.report.reference import paper_reference
from emdefense.report.tables import build_table, write_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the study's effective config (JSON)")
    parser.add_argument("--rates", type=Path, required=True, help="rates.parquet")
    parser.add_argument("--benign", type=Path, required=True, help="exact_match.parquet")
    parser.add_argument("--questions", type=Path, required=True, help="questions.parquet")
    parser.add_argument("--number", type=int, required=True, help="1 to 11")
    parser.add_argument("--out", type=Path, required=True, help="folder of the tables")
    args = parser.parse_args()
    study = Study.model_validate(read_json(args.config))
    summary = read_summary(args.rates, args.benign, args.questions)
    write_table(build_table(args.number, study, summary, paper_reference()), args.out)


if __name__ == "__main__":
    run_cli(main)
