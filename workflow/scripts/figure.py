"""Draw one figure as PDF, SVG and PNG."""

import argparse
from pathlib import Path

from emdefense.analysis.summary import read_summary
from emdefense.config import Study
from emdefense.errors import run_cli
from emdefense.files import read_json
from emdefense.report.figures import write_figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the study's effective config (JSON)")
    parser.add_argument("--rates", type=Path, required=True, help="rates.parquet")
    parser.add_argument("--name", required=True, help="2a, 2b, 3, 4 or 5")
    parser.add_argument("--out", type=Path, required=True, help="folder of the figures")
    args = parser.parse_args()
    write_figure(args.name, Study.model_validate(read_json(args.config)), read_summary(args.rates), args.out)


if __name__ == "__main__":
    run_cli(main)
