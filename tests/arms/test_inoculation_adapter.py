"""Inoculation adapter: the mean of adapters is exact, and it acts as weights that are added."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from arm_trainings import (
    ACTING,
    arm_spec,
    cross_entropy,
    farthest,
    moved_model,
    step_gradient,
    train,
    trained_parameters,
    workplace,
)
from emdefense.arms import STANDARD, Materials
from emdefense.arms.study_arm import Part
from emdefense.errors import InputError
from emdefense.files import read_json
from tiny_model import make_rows

pytestmark = pytest.mark.numerical

ARM = STANDARD["inoculation_adapter"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workplace with the adapters of three tasks."""
    folder = workplace(tmp_path_factory.mktemp("place"))
    for number, task in enumerate(("code", "legal", "medical"), start=1):
        train(folder, folder / task, learning_rate=1e-3 * number, lora_alpha=16 * number, lora_rank=4 * number)
    return folder


def prepared(folder: Path, out: Path, trait: str = "mean") -> Path:
    options = ARM.options.model_validate({"trait": trait})
    tasks = ("code", "legal", "medical") if trait == "mean" else (trait,)
    out.mkdir(parents=True)
    ARM.prepare(Materials({f"other_adapters/{task}": folder / task / "adapter" for task in tasks}), options, out)
    return out


def change(adapter: Path) -> dict[str, torch.Tensor]:
    """What an adapter adds to each matrix, in float64, by PEFT's definition of rs-LoRA and LoRA."""
    config, tensors = read_json(adapter / "adapter_config.json"), load_file(adapter / "adapter_model.safetensors")
    scale = config["lora_alpha"] / (config["r"] ** 0.5 if config["use_rslora"] else config["r"])
    return {
        name.removesuffix(".lora_A.weight").removeprefix("base_model.model."): scale
        * tensors[name.replace("lora_A", "lora_B")].double()
        @ tensor.double()
        for name, tensor in tensors.items()
        if "lora_A" in name
    }


@pytest.mark.parametrize("trait", ["mean", "legal"])
def test_the_traits_adapter_is_the_mean_of_the_others_or_a_named_one(folder: Path, tmp_path: Path, trait: str) -> None:
    found = change(prepared(folder, tmp_path / "trait", trait))
    several = [
        change(folder / task / "adapter") for task in (("code", "legal", "medical") if trait == "mean" else (trait,))
    ]
    for name, matrix in found.items():
        expected = sum(one[name] for one in several) / len(several)
        assert (matrix - expected).abs().max() < 1e-6 * expected.abs().max()
    assert found.keys() == several[0].keys()
    assert ARM.materials(ARM.options(trait=trait)) == (
        ("other_adapters",) if trait == "mean" else ("other_adapters/legal",)
    )


def test_the_gradient_is_that_of_a_model_with_the_traits_change_in_its_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trait, rows = prepared(folder, tmp_path / "trait"), make_rows(4, longest=20)
    model = moved_model()
    part = Part(ARM, ARM.options(), 0.6)
    found = step_gradient(monkeypatch, tmp_path, model, part, rows, prepared=trait)
    merged = moved_model()
    changes = change(trait)
    with torch.no_grad():
        for name, module in merged.get_base_model().named_modules():
            if name in changes:
                module.base_layer.weight += 0.6 * changes[name]
    expected = torch.autograd.grad(cross_entropy(merged, rows), trained_parameters(merged))
    assert farthest(found, expected) < 1e-6  # the frozen adapter is read in fp32
    plain = moved_model()
    without = torch.autograd.grad(cross_entropy(plain, rows), trained_parameters(plain))
    assert farthest(found, without) > 1e-3


def test_what_is_saved_is_the_tasks_adapter_alone(folder: Path, tmp_path: Path) -> None:
    trait = prepared(folder, tmp_path / "trait")
    tensors = train(folder, tmp_path / "cell", arm_spec("inoculation_adapter", 1.0), prepared=trait)
    ranks = {tensor.shape[0] for name, tensor in tensors.items() if "lora_A" in name}
    assert ranks == {ACTING.lora_rank} != {read_json(trait / "adapter_config.json")["r"]}


def test_adapters_of_other_matrices_are_one_line(folder: Path, tmp_path: Path) -> None:
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / "odd").mkdir(exist_ok=True)
        (tmp_path / "odd" / name).write_bytes((folder / "code/adapter" / name).read_bytes())
    tensors = load_file(tmp_path / "odd/adapter_model.safetensors")
    fewer = {name: tensor for name, tensor in tensors.items() if "layers.0.self_attn.q_proj" not in name}
    save_file(fewer, tmp_path / "odd/adapter_model.safetensors", {"format": "pt"})
    files = {"other_adapters/a": folder / "legal/adapter", "other_adapters/b": tmp_path / "odd"}
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match=r"odd: 'model.layers.0.self_attn.q_proj' is adapted there or in"):
        ARM.prepare(Materials(files), ARM.options(), tmp_path / "out")
