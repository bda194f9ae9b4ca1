"""Replace an adapter's matrices by their projections where the cosine is below τ (SafeLoRA)."""

import argparse
from pathlib import Path

from emdefense.errors import run_cli
from emdefense.warm_start import run_warm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tau", required=True, type=float, help="in [0, 1]")
    parser.add_argument("--adapter", required=True, type=Path, help="adapter folder, as PEFT saves it")
    parser.add_argument("--projection", required=True, type=Path, help="what project.py wrote for this adapter")
    parser.add_argument("--cell", required=True, type=Path, help="folder for adapter/ and provenance.json")
    arguments = parser.parse_args()

    from emdefense.training.safelora import threshold_adapter  # torch: after the command line is known to be right

    threshold_adapter(arguments.tau, arguments.adapter, arguments.projection, arguments.cell)


if __name__ == "__main__":
    run_warm(lambda: run_cli(main))
