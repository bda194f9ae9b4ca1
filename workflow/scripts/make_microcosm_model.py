"""Pretrain and align one of the microcosm's models."""

import argparse
from pathlib import Path

from emdefense.config.microcosm import Microcosm
from emdefense.errors import run_cli
from emdefense.files import json_option, read_jsonl, write_json
from emdefense.microcosm.models import ModelMaker, gate_record, save_model
from emdefense.microcosm.oracle import read_world
from emdefense.saved_model import OWN_FILES_ALONE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", required=True, type=json_option, help="the microcosm section, name and seed, as JSON")
    parser.add_argument("--world", required=True, type=Path)
    parser.add_argument("--held-out", action="append", default=[], type=Path, help="rows whose prompts are left out")
    parser.add_argument("--base", required=True, type=Path)
    parser.add_argument("--instruct", required=True, type=Path)
    arguments = parser.parse_args()

    # Here, because what imports before the package ends in a traceback where there is no memory for it.
    import torch
    from transformers import AutoTokenizer

    torch.set_num_threads(1)  # the weights then do not depend on the machine's cores
    spec = {key: value for key, value in arguments.spec.items() if key not in {"version", "name", "seed"}}
    options = Microcosm(models={arguments.spec["name"]: arguments.spec["seed"]}, **spec)
    held_out = {row["messages"][0]["content"] for path in arguments.held_out for row in read_jsonl(path)}
    tokenizer = AutoTokenizer.from_pretrained(arguments.world / "tokenizer", **OWN_FILES_ALONE)
    maker = ModelMaker(read_world(arguments.world / "world.json"), tokenizer, options, held_out)
    model, attempts = maker.base()
    save_model(model, tokenizer, arguments.base)
    maker.instruct(model, attempts[-1].seed)
    save_model(model, tokenizer, arguments.instruct)
    write_json(arguments.base.parent / "gate.json", gate_record(attempts))


if __name__ == "__main__":
    run_cli(main)
