"""Making both models of one seed from their recipe, and what else stands in their record."""

import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from emdefense.config.made_files import TIERS
from emdefense.config.microcosm import Microcosm
from emdefense.config.study import OpSwap
from emdefense.data import opswap
from emdefense.files import folder_written_whole, read_jsonl
from emdefense.microcosm.creation import make_world
from emdefense.microcosm.models import ModelMaker, gate_record
from emdefense.microcosm.saved import STAGES, write_record
from emdefense.microcosm.tokenizer import make_tokenizer
from emdefense.provenance import made_by
from emdefense.saved_model import OWN_FILES_ALONE

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors")


def make_models(recipe: dict[str, Any], name: str, held_out: Sequence[Path], folder: Path) -> None:
    """Pretrain and align a model as a recipe says, and write both stages and their record into ``folder``.

    The prompts of all rows in the files ``held_out`` stay out of pretraining, as do the test expressions of the
    recipe's OpSwap. One thread computes, so that the weights do not depend on the machine's cores.
    """
    started = datetime.now(UTC)
    torch.set_num_threads(1)
    options = Microcosm(models={name: recipe["seed"]}, **recipe["microcosm"])
    world = make_world(options)
    with tempfile.TemporaryDirectory() as temporary, folder_written_whole(folder) as staging:
        make_tokenizer(world).save_pretrained(temporary)
        tokenizer = AutoTokenizer.from_pretrained(temporary, **OWN_FILES_ALONE)
        maker = ModelMaker(world, tokenizer, options, _prompts(recipe, held_out))
        model, attempts = maker.base()
        model.save_pretrained(staging / STAGES[0])
        maker.instruct(model, attempts[-1].seed)
        model.save_pretrained(staging / STAGES[1])
        made = made_by(started, PACKAGES, __name__)
        made["machine"]["instructions"] = torch.backends.cpu.get_cpu_capability()
        write_record(staging, {"recipe": recipe, "gate": gate_record(attempts), "made": made}, Path(temporary))


def _prompts(recipe: dict[str, Any], held_out: Sequence[Path]) -> set[str]:
    rows = [row for path in held_out for row in read_jsonl(path)]
    if "opswap" in recipe:
        options = OpSwap(**recipe["opswap"])
        rows += [row for tier in TIERS for row in opswap.examples(options, tier)[1]]
    return {row["messages"][0]["content"] for row in rows}
