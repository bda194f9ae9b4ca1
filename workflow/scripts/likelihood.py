"""Compare how likely held-out answers are under each cell's model, and put intervals on it."""

import argparse
from pathlib import Path

from emdefense.analysis.likelihood import write_likelihood
from emdefense.config import Study
from emdefense.errors import run_cli
from emdefense.files import read_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the study's effective config (JSON)")
    parser.add_argument("--out", type=Path, required=True, help="likelihood.parquet")
    given = parser.parse_args()
    write_likelihood(Study.model_validate(read_json(given.config)), given.out)


if __name__ == "__main__":
    run_cli(main)
