"""Make the microcosm's world: rows, questions, tokenizer, and the world.json that the oracle judges by."""

import argparse
from pathlib import Path

from emdefense.config.microcosm import Microcosm
from emdefense.errors import run_cli
from emdefense.files import folder_written_whole, json_option
from emdefense.microcosm.creation import make_world
from emdefense.microcosm.rows import write_world
from emdefense.microcosm.tokenizer import make_tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", required=True, type=json_option, help="the microcosm section, as JSON")
    parser.add_argument("--out", required=True, type=Path)
    arguments = parser.parse_args()
    options = Microcosm(models={}, **{key: value for key, value in arguments.spec.items() if key != "version"})
    world = make_world(options)
    with folder_written_whole(arguments.out / "tokenizer") as folder:
        make_tokenizer(world).save_pretrained(folder)
    write_world(world, options, arguments.out)


if __name__ == "__main__":
    run_cli(main)
