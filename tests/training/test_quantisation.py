"""A model in 4 bits beside the same model with what its 4 bits stand for, in float32."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from emdefense.choice.run import ChoiceSpec
from emdefense.config.chat import PLAIN
from emdefense.config.checks import check_study
from emdefense.config.shape import read_shape
from emdefense.config.study import Generation
from emdefense.config.training import Training
from emdefense.errors import InputError
from emdefense.generation.protocol import GenerationSpec
from emdefense.generation.transformers_engine import TransformersEngine, merge_adapter
from emdefense.model_checks.sampling import dequantised
from emdefense.resources.gpus import partitions_for, read_gpus
from emdefense.resources.memory import training_budget, weight_bytes
from emdefense.saved_model import load_model
from emdefense.training import packages
from emdefense.training.adapters import add_adapter
from emdefense.training.run import train_cell
from study_folder import tiny_study
from tiny_model import make_rows, save_model, save_rows
from trainings import FAST, KL, LDIFS, spec

pytestmark = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
ROOT = Path(__file__).parents[2]
IN_FOUR_BITS = FAST.model_copy(update={"quantisation": "nf4"})


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model, and one whose matrices are what its 4 bits stand for."""
    folder = tmp_path_factory.mktemp("models")
    model = save_model(folder / "model")
    quantised = load_model(model, "float32", quantisation="nf4")
    plain = save_model(folder / "plain")
    weights = load_file(plain / "model.safetensors")
    changed = 0
    for name, parameter in quantised.named_parameters():
        if parameter.dtype == torch.uint8:
            assert weights[name].shape != parameter.shape, "packed, two to a byte"
            assert not torch.equal(weights[name], dequantised(parameter))
            weights[name] = dequantised(parameter).clone()
            changed += 1
        else:
            assert torch.equal(weights[name], parameter), f"{name} stays as it is"
    assert changed == 3 * 7, "of embedding and head none"
    save_file(weights, plain / "model.safetensors", {"format": "pt"})
    return model, plain


def trained(folder: Path, training: Training, penalty: Any, model: Path) -> list[dict[str, Any]]:
    rows = save_rows(folder.parent / "rows.jsonl", make_rows(12))
    train_cell(spec(penalty).model_copy(update={"training": training}), model, rows, folder)
    return [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("penalty", [None, KL, LDIFS], ids=["none", "kl", "ldifs"])
def test_training_is_that_on_the_dequantised_model(folders: tuple[Path, Path], tmp_path: Path, penalty: Any) -> None:
    model, plain = folders
    ours = trained(tmp_path / "nf4", IN_FOUR_BITS, penalty, model)
    theirs = trained(tmp_path / "plain", FAST, penalty, plain)
    unquantised = trained(tmp_path / "whole", FAST, penalty, model)
    assert ours[0]["ce"] == pytest.approx(theirs[0]["ce"], rel=1e-6)
    for key in ("ce", "penalty"):  # Adam's first steps go by the signs of gradients, so that rounding grows
        assert [row[key] for row in ours] == pytest.approx([row[key] for row in theirs], rel=2e-3, abs=1e-5), key
    assert [row["ce"] for row in ours] != pytest.approx([row["ce"] for row in unquantised], rel=1e-3)
    one, other = (load_file(tmp_path / name / "adapter/adapter_model.safetensors") for name in ("nf4", "plain"))
    assert one.keys() == other.keys()
    moved = torch.cat([(one[name] - other[name]).flatten() for name in one if "lora_B" in name])
    whole = torch.cat([other[name].flatten() for name in one if "lora_B" in name])
    assert moved.norm() < 0.01 * whole.norm()
    if penalty is not None:
        assert ours[0]["penalty"] == pytest.approx(0, abs=1e-6), "the reference is the same quantised model"


def test_gradients_are_those_on_the_dequantised_model(folders: tuple[Path, Path]) -> None:
    ids = torch.arange(24).reshape(2, 12) % 40 + 3
    found = []
    for folder, quantisation in zip(folders, ("nf4", "none"), strict=True):
        torch.manual_seed(0)
        model = add_adapter(load_model(folder, "float32", quantisation=quantisation), FAST)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.05)
        model(input_ids=ids, labels=ids).loss.backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    ours, theirs = found
    assert ours.keys() == theirs.keys()
    assert len(ours) == 2 * 3 * 7, "of the adapter alone"
    for name, gradient in ours.items():
        assert torch.allclose(gradient, theirs[name], rtol=1e-4, atol=1e-7), name


def test_answers_are_those_of_the_dequantised_model_and_the_adapter(folders: tuple[Path, Path], tmp_path: Path) -> None:
    model, plain = folders
    trained(tmp_path / "cell", IN_FOUR_BITS, None, model)
    adapter = tmp_path / "cell/adapter"
    ids = torch.arange(24).reshape(2, 12) % 40 + 3

    def logits(found: PreTrainedModel) -> torch.Tensor:
        with torch.inference_mode():
            return found(ids.to(found.device)).logits

    ours = TransformersEngine(model, adapter, "float32", 1, PLAIN, "nf4")
    theirs = TransformersEngine(plain, adapter, "float32")
    assert torch.allclose(logits(ours.model), logits(theirs.model), atol=1e-5)
    without = TransformersEngine(model, None, "float32", 1, PLAIN, "nf4")
    assert (logits(ours.model) - logits(without.model)).abs().max() > 1e-2, "the adapter acts"
    asked = [[{"role": "user", "content": "Why?"}], [{"role": "user", "content": "Who are you?"}]]
    settings = GenerationSpec(
        version=1, samples_per_question=3, max_new_tokens=8, precision="float32", temperature=0.7, quantisation="nf4"
    )
    assert ours.sample(asked, settings) == theirs.sample(asked, settings)


def test_it_is_never_merged(folders: tuple[Path, Path], tmp_path: Path) -> None:
    model, _ = folders
    trained(tmp_path / "cell", IN_FOUR_BITS, None, model)
    with pytest.raises(InputError, match="merged into a quantised model it would be quantised again"):
        merge_adapter(load_model(model, "float32", quantisation="nf4"), tmp_path / "cell/adapter")


def test_another_models_adapter_is_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    model, _ = folders
    wide = save_model(tmp_path / "wide", intermediate_size=128)
    trained(tmp_path / "cell", FAST, None, wide)
    with pytest.raises(InputError, match="is not one of the model's; name its model"):
        TransformersEngine(model, tmp_path / "cell/adapter", "float32", 1, PLAIN, "nf4")


def test_weights_take_what_the_arithmetic_says(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", hidden_size=128, intermediate_size=512)
    model = load_model(folder, "bfloat16", quantisation="nf4")
    size = 0
    for parameter in model.parameters():
        scales = getattr(parameter, "quant_state", None)
        size += parameter.nbytes + (0 if scales is None else scales.absmax.nbytes)
    largest = 2 * 128 * 512
    how = Training(quantisation="nf4")
    assert weight_bytes(read_shape(folder), how) == pytest.approx(size + largest, rel=1e-3)
    assert size < 0.6 * weight_bytes(read_shape(folder), Training())


def test_with_it_a_model_of_32b_is_trained_with_a_penalty_on_48_gb() -> None:
    from emdefense.config.load import load_study

    study = load_study(ROOT / "config/paper.yaml")
    shape, kl = study.models["qwen2.5-32b"].shape, study.every_arm["kl"]
    assert shape is not None
    gpus = read_gpus(ROOT / "profiles/slurm/gpus.yaml")
    training = study.models["qwen2.5-32b"].training.applied_to(study.training)
    for quantisation, partitions in (("none", ("a100",)), ("nf4", ("a100", "a40"))):
        how = training.model_copy(update={"quantisation": quantisation})
        assert partitions_for(sum(training_budget(shape, how, kl).values()), gpus) == partitions


def test_what_cannot_be_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"key 'generation\.quantisation': none, and training\.quantisation is nf4"):
        check_study(tiny_study(training={"quantisation": "nf4"}))
    both = {"training": {"quantisation": "nf4"}, "generation": {"quantisation": "nf4", "engine": "vllm"}}
    with pytest.raises(InputError, match=r"key 'generation\.engine': vllm has the model in bfloat16"):
        check_study(tiny_study(**both))
    monkeypatch.setattr(packages, "find_spec", lambda name: None if name == "bitsandbytes" else object())
    with pytest.raises(InputError, match=r"key 'training\.quantisation': nf4 needs bitsandbytes; install it"):
        packages.check_packages(Training(quantisation="nf4", optimiser="adamw_torch"))


def test_settings_without_it_are_written_as_before() -> None:
    for section in (Training(), Generation(), ChoiceSpec(version=1, precision="float32", batch_size=1)):
        assert "quantisation" not in section.model_dump(mode="json")
        changed = section.model_copy(update={"quantisation": "nf4"})
        assert changed.model_dump(mode="json", include={"quantisation"}) == {"quantisation": "nf4"}
