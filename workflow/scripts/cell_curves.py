"""Draw how each training went: a figure beside its log."""

import argparse
from pathlib import Path

from emdefense.config import Study
from emdefense.errors import run_cli
from emdefense.files import read_json
from emdefense.report.figures.style import FORMATS
from emdefense.report.figures.training_curves import write_cell_curves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the study's effective config (JSON)")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=["svg"], help="of the figures")
    args = parser.parse_args()
    write_cell_curves(Study.model_validate(read_json(args.config)), args.formats)


if __name__ == "__main__":
    run_cli(main)
