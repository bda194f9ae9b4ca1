"""Draw how trainings went: each cell's figure beside its log, and the main model's arms side by side."""

import argparse
from pathlib import Path

from emdefense.config import Study
from emdefense.errors import run_cli
from emdefense.files import read_json
from emdefense.report.style import FORMATS
from emdefense.report.training_curves import write_cell_curves, write_overview


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the study's effective config (JSON)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the figure of all arms")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=["svg"], help="of the cells' figures")
    args = parser.parse_args()
    study = Study.model_validate(read_json(args.config))
    write_cell_curves(study, args.formats)
    write_overview(study, args.out)


if __name__ == "__main__":
    run_cli(main)
