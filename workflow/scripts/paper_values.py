"""Render every table, figure and claim from the paper's published numbers."""

import argparse
from pathlib import Path

from emdefense.errors import run_cli
from emdefense.report.published import write_paper_values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    write_paper_values(parser.parse_args().out)


if __name__ == "__main__":
    run_cli(main)
