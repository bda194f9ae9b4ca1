"""Assemble the page from a study's rates, tables, figures and claims."""

import argparse
from pathlib import Path

from emdefense.config import Study
from emdefense.errors import run_cli
from emdefense.files import read_json
from emdefense.report.page.index import write_page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the study's effective config (JSON)")
    parser.add_argument("--results", type=Path, required=True, help="the study's results folder")
    parser.add_argument("--out", type=Path, required=True, help="the page (HTML)")
    args = parser.parse_args()
    write_page(Study.model_validate(read_json(args.config)), args.results, args.out)


if __name__ == "__main__":
    run_cli(main)
