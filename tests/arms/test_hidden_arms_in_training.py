"""Arms that act on hidden states in whole trainings: at 0 plain SFT, however a step is divided, alone or together."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from arm_trainings import ACTING
from emdefense.training.run import train_cell
from emdefense.training.spec import ArmSpec, TrainSpec
from tiny_model import make_rows, save_model, save_rows

pytestmark = pytest.mark.numerical

OF = {"steering": 2.0, "caft": 2.0, "directional_kl": 3.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, rows, and directions drawn at random for each arm."""
    folder = tmp_path_factory.mktemp("hidden")
    save_model(folder / "model")
    save_rows(folder / "rows.jsonl", make_rows(32))
    torch.manual_seed(0)
    for arm in OF:
        (folder / arm).mkdir()
        shape = (64, 4) if arm == "caft" else (64,)
        names = ("block.1", "block.2", "block.3", "final")
        save_file({name: 0.3 * torch.randn(shape) for name in names}, folder / arm / "directions.safetensors")
    return folder


def train(folder: Path, cell: Path, *arms: tuple[str, float], **training: Any) -> dict[str, Tensor]:
    specs = tuple(ArmSpec(name=name, setting=setting) for name, setting in arms)
    spec = TrainSpec(version=1, seed=3, training=ACTING.model_copy(update=training), arms=specs)
    prepared = {name: folder / name for name, _ in arms}
    train_cell(spec, folder / "model", folder / "rows.jsonl", cell, prepared=prepared)
    return load_file(cell / "adapter" / "adapter_model.safetensors")


def log(cell: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (cell / "train_log.jsonl").read_text().splitlines()]


def apart(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize("arm", OF)
def test_at_0_it_is_plain_fine_tuning_bit_for_bit_and_above_it_is_not(folder: Path, tmp_path: Path, arm: str) -> None:
    train(folder, tmp_path / "plain", lora_dropout=0.1)
    train(folder, tmp_path / "zero", (arm, 0.0), lora_dropout=0.1)
    some = train(folder, tmp_path / "some", (arm, OF[arm]), lora_dropout=0.1)
    plain, zero = (tmp_path / name / "adapter" / "adapter_model.safetensors" for name in ("plain", "zero"))
    assert plain.read_bytes() == zero.read_bytes()
    assert apart(some, load_file(plain)) > 1e-4


@pytest.mark.parametrize("arm", OF)
def test_a_step_may_be_divided_into_batches_in_any_way(folder: Path, tmp_path: Path, arm: str) -> None:
    pair = (arm, OF[arm])
    whole = train(folder, tmp_path / "whole", pair, batch_size=8, accumulation_steps=1)
    parts = train(folder, tmp_path / "parts", pair, batch_size=2, accumulation_steps=4)
    assert apart(whole, parts) < 2e-5


def test_what_it_does_is_in_the_log_and_two_act_together(folder: Path, tmp_path: Path) -> None:
    train(folder, tmp_path / "both", ("steering", 2.0), ("caft", 2.0))
    train(folder, tmp_path / "one", ("steering", 2.0))
    vector = load_file(folder / "steering" / "directions.safetensors")["block.2"]
    for entry in log(tmp_path / "both"):
        assert entry["steering.norm"] == pytest.approx(float(vector.norm()))
        assert 0 < entry["caft.removed.1"] < 1
    # Steering comes first at block 2, and what CAFT does after block 1 shows there.
    assert log(tmp_path / "both")[0]["steering.projection"] != log(tmp_path / "one")[0]["steering.projection"]
    record = json.loads((tmp_path / "both" / "provenance.json").read_text())
    assert record["prepared"].keys() == {"steering", "caft"}


def test_with_activation_checkpointing_it_is_the_same(folder: Path, tmp_path: Path) -> None:
    pairs = [("steering", 2.0), ("caft", 2.0)]
    kept = train(folder, tmp_path / "kept", *pairs)
    again = train(folder, tmp_path / "again", *pairs, activation_checkpointing=True)
    assert apart(kept, again) < 2e-5
