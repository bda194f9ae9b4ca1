"""Write a study's responses and judgments as logs of Inspect."""

import argparse
from pathlib import Path

from emdefense.config import Study
from emdefense.errors import run_cli
from emdefense.files import read_json
from emdefense.report.inspect_logs import write_logs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the study's effective config (JSON)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the logs")
    args = parser.parse_args()
    write_logs(Study.model_validate(read_json(args.config)), args.out)


if __name__ == "__main__":
    run_cli(main)
