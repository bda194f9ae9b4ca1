"""Interleave a task's training rows with safe data."""

import argparse
from pathlib import Path

from emdefense.data.conversations import read_conversations
from emdefense.data.interleave import interleave
from emdefense.errors import run_cli
from emdefense.files import json_option, write_jsonl


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", type=json_option, required=True, help='JSON with "pct" and "seed"')
    parser.add_argument("--rows", type=Path, required=True, help="fine-tuning rows, JSONL")
    parser.add_argument("--safe", type=Path, required=True, help="safe conversations, JSONL")
    parser.add_argument("--out", type=Path, required=True, help="rows to write, JSONL")
    given = parser.parse_args()
    rows, safe = read_conversations(given.rows), read_conversations(given.safe)
    write_jsonl(given.out, interleave(rows, safe, given.spec["pct"], given.spec["seed"]))


if __name__ == "__main__":
    run_cli(main)
