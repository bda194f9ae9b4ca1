"""Make one archive of replies that were paid for, or take one in: whoever has it makes all tables for nothing."""

import argparse
from pathlib import Path

from emdefense.errors import run_cli
from emdefense.judging.archive import export_cache, import_cache
from emdefense.judging.judge_file import CACHE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=("export", "import"))
    parser.add_argument("archive", type=Path, help="JSON Lines, compressed with gzip: NAME.jsonl.gz")
    parser.add_argument("--cache", type=Path, default=CACHE, help="the folder of replies")
    arguments = parser.parse_args()
    act = export_cache if arguments.action == "export" else import_cache
    print(f"{act(arguments.cache, arguments.archive)} replies")


if __name__ == "__main__":
    run_cli(main)
