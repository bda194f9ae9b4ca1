"""Make multiple-choice questions of what the microcosm's models learn in pretraining."""

import argparse
from pathlib import Path

from emdefense.config.expressions import Expressions
from emdefense.errors import run_cli
from emdefense.files import json_option, read_json, write_jsonl
from emdefense.microcosm.choices import arithmetic_choices, fact_choices
from emdefense.microcosm.world import World


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", required=True, type=json_option, help="version, and the shape of arithmetic, as JSON")
    parser.add_argument("--world", required=True, type=Path, help="the world, JSON")
    parser.add_argument("--arithmetic", required=True, type=Path, help="JSONL to write")
    parser.add_argument("--facts", required=True, type=Path, help="JSONL to write")
    given = parser.parse_args()
    world = World.model_validate(read_json(given.world))
    write_jsonl(given.arithmetic, arithmetic_choices(Expressions(**given.spec["arithmetic"]), world.seed))
    write_jsonl(given.facts, fact_choices(world))


if __name__ == "__main__":
    run_cli(main)
