"""Draw the cosines of SafeLoRA's matrices as PDF, SVG and PNG."""

import argparse
from pathlib import Path

from emdefense.arms.safelora.cosines import read_projections
from emdefense.arms.safelora.figure import write_cosines
from emdefense.config import Study
from emdefense.errors import run_cli
from emdefense.files import read_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the study's effective config (JSON)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the figures")
    args = parser.parse_args()
    study = Study.model_validate(read_json(args.config))
    write_cosines(study, read_projections(study), args.out)


if __name__ == "__main__":
    run_cli(main)
