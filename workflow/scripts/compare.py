"""Put finished studies side by side on one page: what differs, their rates, and paired differences."""

import argparse
from pathlib import Path

from emdefense.comparison.page import comparison_folder, write_comparison
from emdefense.errors import run_cli
from emdefense.finished import read_several


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("studies", nargs="*", type=Path, metavar="FOLDER", help="a study's results, e.g. results/smoke")
    parser.add_argument("--out", type=Path, help="folder of the page; absent: below results/comparisons")
    args = parser.parse_args()
    studies = read_several(args.studies)
    out = args.out or comparison_folder(studies)
    print(f"Done: open {write_comparison(studies, out)}")


if __name__ == "__main__":
    run_cli(main)
