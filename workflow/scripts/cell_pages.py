"""Write a page for each cell of a study: its numbers, its training, how it was made, and its responses to read."""

import argparse
from pathlib import Path

from emdefense.config import Study
from emdefense.errors import run_cli
from emdefense.files import read_json
from emdefense.report.page.cells import write_cell_pages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the study's effective config (JSON)")
    parser.add_argument("--results", type=Path, required=True, help="the study's results folder")
    parser.add_argument("--out", type=Path, required=True, help="folder of the pages")
    args = parser.parse_args()
    write_cell_pages(Study.model_validate(read_json(args.config)), args.results, args.out)


if __name__ == "__main__":
    run_cli(main)
