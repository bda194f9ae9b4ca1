"""Adapters on some blocks alone, down to one matrix of rank 1."""

import math
from pathlib import Path

import pytest
import torch

from emdefense.config.training import Training
from emdefense.errors import InputError
from emdefense.generation.transformers_engine import TransformersEngine
from emdefense.report.tables.setup import TRAINING_ROWS
from emdefense.saved_model import load_model
from emdefense.training.adapter_files import read_lora
from emdefense.training.adapters import add_adapter
from emdefense.training.run import train_cell
from qwen_shapes import QWEN_32B
from tiny_model import make_model, make_rows, save_model, save_rows
from trainings import FAST, spec

ONE = FAST.model_copy(update={"lora_rank": 1, "target_modules": ("down_proj",), "target_layers": (1,)})
MATRIX = "model.layers.1.mlp.down_proj"


def test_one_matrix_of_rank_1_is_trained_saved_and_sampled_with(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model")
    rows = save_rows(tmp_path / "rows.jsonl", make_rows(8))
    train_cell(spec().model_copy(update={"training": ONE}), folder, rows, tmp_path / "cell")
    adapter = tmp_path / "cell/adapter"
    ((name, (a, b)),) = read_lora(adapter).items()
    assert (name, a.shape[0], b.shape[1]) == (MATRIX, 1, 1)
    assert float(b.abs().max()) > 0
    before = load_model(folder, "float32").state_dict()
    after = TransformersEngine(folder, adapter, "float32").model.state_dict()
    for key, weight in before.items():
        if key == f"{MATRIX}.weight":
            change = ONE.lora_alpha / math.sqrt(1) * (b.double() @ a.double())
            assert torch.allclose(after[key].double(), weight.double() + change, rtol=0, atol=1e-6)
            assert not torch.equal(after[key], weight)
        else:
            assert torch.equal(after[key], weight), key


def test_all_blocks_named_are_as_none_named() -> None:
    found = []
    for layers in (None, (0, 1, 2)):
        torch.manual_seed(0)
        model = add_adapter(make_model(), FAST.model_copy(update={"target_layers": layers}))
        found.append({name: p.clone() for name, p in model.named_parameters() if p.requires_grad})
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_a_block_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match=r"key 'training\.target_layers': 3: the model's blocks are 0 to 2"):
        add_adapter(make_model(), FAST.model_copy(update={"target_layers": (0, 3)}))


def test_settings_without_it_are_written_as_before() -> None:
    assert "target_layers" not in Training().model_dump(mode="json")
    assert Training(target_layers=(24,)).model_dump(mode="json")["target_layers"] == [24]
    assert Training.model_validate(Training().model_dump(mode="json")) == Training()


def test_its_parameters_and_table_are_of_those_blocks() -> None:
    one = Training(lora_rank=1, target_modules=("down_proj",), target_layers=(24,))
    assert QWEN_32B.adapter_parameters(one) == 5120 + 27648
    shown = dict(TRAINING_ROWS)["Adapted matrices"]
    assert shown(one) == "down_proj, of block 24 alone"
    assert shown(one.model_copy(update={"target_layers": None})) == "down_proj"
