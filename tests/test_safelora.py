"""Thin SafeLoRA against the dense form, and the two stages on saved models and adapters."""

import csv
import json
import math
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from emdefense.config.training import Training
from emdefense.errors import InputError
from emdefense.training.adapters import add_adapter, save_adapter
from emdefense.training.safelora import project_adapter, project_matrix, threshold_adapter
from emdefense.training.spec import ProjectionSpec
from tiny_model import make_model, make_tokenizer, save_model

PAPER, IBM = ProjectionSpec(version=1), ProjectionSpec(version=1, normalisation="norm")
ADAPTER = "adapter/adapter_model.safetensors"


def dense(a: Tensor, b: Tensor, v: Tensor, normalisation: str) -> tuple[Tensor, float]:
    """CW and cos(W, CW) with every matrix formed, in float64."""
    a, b, v = a.double(), b.double(), v.double()
    norm = torch.linalg.norm(v)
    projected = (v @ v.t() / (norm**2 if normalisation == "squared_norm" else norm)) @ (b @ a)
    return projected, float(torch.nn.functional.cosine_similarity((b @ a).flatten(), projected.flatten(), dim=0))


@pytest.mark.parametrize("normalisation", ["squared_norm", "norm"])
@pytest.mark.parametrize("shape", [(40, 24, 6), (24, 40, 6), (33, 33, 32)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_thin_equals_dense(shape: tuple[int, int, int], normalisation: str, dtype: torch.dtype) -> None:
    rows, columns, rank = shape
    generator = torch.Generator().manual_seed(0)
    a, b, v = (
        torch.randn(*size, generator=generator, dtype=torch.float64).to(dtype)
        for size in ((rank, columns), (rows, rank), (rows, columns))
    )
    expected, cosine = dense(a, b, v, normalisation)
    thin = project_matrix(a, b, v, normalisation)
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    torch.testing.assert_close(thin.b.double() @ a.double(), expected, rtol=tolerance, atol=tolerance * expected.norm())
    assert thin.cosine == pytest.approx(cosine, rel=tolerance)
    assert thin.norm_before == pytest.approx(float(torch.linalg.norm(b.double() @ a.double())), rel=tolerance)
    assert thin.norm_after == pytest.approx(float(torch.linalg.norm(expected)), rel=tolerance)


def test_an_untrained_matrix_has_cosine_zero() -> None:
    projection = project_matrix(torch.ones(2, 5), torch.zeros(4, 2), torch.ones(4, 5), "squared_norm")
    assert (projection.cosine, projection.norm_before, projection.norm_after) == (0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two untied models, the second in shards, and an adapter whose matrices have moved."""
    root = tmp_path_factory.mktemp("safelora")
    base = save_model(root / "base", seed=1, tie_word_embeddings=False)
    instruct = root / "instruct"
    make_model(0, tie_word_embeddings=False).save_pretrained(instruct, max_shard_size="200KB")
    make_tokenizer().save_pretrained(instruct)
    assert (instruct / "model.safetensors.index.json").is_file()
    model = add_adapter(make_model(0, tie_word_embeddings=False), Training(lora_rank=8))
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.02, generator=generator)
    save_adapter(model, root / "adapter")
    project_adapter(PAPER, root / "adapter", base, instruct, root / "projection")
    return {name: root / name for name in ("base", "instruct", "adapter", "projection")}


def cosines(folder: Path) -> dict[str, float]:
    with (folder / "cosines.csv").open() as file:
        return {row["matrix"]: float(row["cosine"]) for row in csv.DictReader(file)}


def test_peft_loads_what_the_dense_method_gives(folders: dict[str, Path], tmp_path: Path) -> None:
    found = cosines(folders["projection"])
    tau = sorted(found.values())[len(found) // 2]
    threshold_adapter(tau, folders["adapter"], folders["projection"], tmp_path)
    before, after = make_model(1, tie_word_embeddings=False), make_model(0, tie_word_embeddings=False)
    v = {n: after.state_dict()[n].double() - before.state_dict()[n].double() for n in after.state_dict()}
    original = PeftModel.from_pretrained(make_model(0, tie_word_embeddings=False), folders["adapter"])
    projected = PeftModel.from_pretrained(make_model(0, tie_word_embeddings=False), tmp_path / "adapter")
    kept = 0
    for name, cosine in found.items():
        old, new = original.get_base_model().get_submodule(name), projected.get_base_model().get_submodule(name)
        a, b = old.lora_A["default"].weight.detach(), old.lora_B["default"].weight.detach()
        expected, dense_cosine = dense(a, b, v[f"{name}.weight"], "squared_norm")
        assert cosine == pytest.approx(dense_cosine, rel=1e-5)
        if cosine < tau:
            delta = new.get_delta_weight("default").detach().double()
            torch.testing.assert_close(delta, expected * 64 / math.sqrt(8), rtol=1e-4, atol=1e-7)
        else:
            kept += 1
            assert torch.equal(new.get_delta_weight("default"), old.get_delta_weight("default"))
    assert len(found) == 3 * 7
    assert kept == len(found) - len(found) // 2  # the matrix at τ itself is kept: the paper's condition is <
    assert json.loads((tmp_path / "provenance.json").read_text())["projected"] == [n for n in found if found[n] < tau]


def test_normalisations_differ_in_size_and_not_in_cosine(folders: dict[str, Path], tmp_path: Path) -> None:
    project_adapter(IBM, folders["adapter"], folders["base"], folders["instruct"], tmp_path)
    assert cosines(tmp_path) == pytest.approx(cosines(folders["projection"]), rel=1e-6)
    ibm, paper = (
        load_file(tmp_path / "projected.safetensors"),
        load_file(folders["projection"] / "projected.safetensors"),
    )
    name = "model.layers.1.mlp.up_proj"
    v_norm = torch.linalg.norm(
        make_model(0, tie_word_embeddings=False).get_submodule(name).weight
        - make_model(1, tie_word_embeddings=False).get_submodule(name).weight
    )
    torch.testing.assert_close(ibm[name], paper[name] * v_norm)


def test_thresholds_that_select_the_same_matrices_give_the_same_bytes(folders: dict[str, Path], tmp_path: Path) -> None:
    low, high = sorted(cosines(folders["projection"]).values())[:2]
    for number, tau in enumerate((low + (high - low) / 3, low + (high - low) / 2, 0.0)):
        threshold_adapter(tau, folders["adapter"], folders["projection"], tmp_path / str(number))
    first, second, none = ((tmp_path / str(number) / ADAPTER).read_bytes() for number in range(3))
    assert first == second != none
    assert (
        load_file(tmp_path / "2" / ADAPTER).keys() == load_file(folders["adapter"] / "adapter_model.safetensors").keys()
    )
    assert none == (folders["adapter"] / "adapter_model.safetensors").read_bytes()


def test_a_tied_head_is_read_from_the_embedding(tmp_path: Path) -> None:
    width, vocabulary = make_model().lm_head.in_features, make_model().lm_head.out_features
    prefix = "base_model.model.lm_head"
    pair = {f"{prefix}.lora_A.weight": torch.randn(4, width), f"{prefix}.lora_B.weight": torch.randn(vocabulary, 4)}
    (tmp_path / "adapter").mkdir()
    save_file(pair, tmp_path / ADAPTER, metadata={"format": "pt"})
    base, instruct = save_model(tmp_path / "base", seed=1), save_model(tmp_path / "instruct")
    project_adapter(PAPER, tmp_path / "adapter", base, instruct, tmp_path / "out")
    assert list(cosines(tmp_path / "out")) == ["lm_head"]


def test_equal_models_leave_no_direction(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a model before and one after alignment"):
        project_adapter(PAPER, folders["adapter"], folders["instruct"], folders["instruct"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_models_adapter_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    wide = save_model(tmp_path / "wide", tie_word_embeddings=False, hidden_size=128)
    with pytest.raises(InputError, match="name the models that belong to the adapter"):
        project_adapter(PAPER, folders["adapter"], folders["base"], wide, tmp_path / "out")
    shallow = save_model(tmp_path / "shallow", tie_word_embeddings=False, layers=2)
    with pytest.raises(InputError, match=r"the model has no 'model\.layers\.2"):
        project_adapter(PAPER, folders["adapter"], folders["base"], shallow, tmp_path / "out")


def test_a_truncated_shard_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    broken = save_model(tmp_path / "broken", tie_word_embeddings=False)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(InputError, match=r"broken/model\.safetensors: not a whole safetensors file"):
        project_adapter(PAPER, folders["adapter"], folders["base"], broken, tmp_path / "out")


def test_a_projection_of_another_adapter_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    save_adapter(add_adapter(make_model(0), Training(lora_rank=2)), tmp_path / "adapter")
    with pytest.raises(InputError, match="made from another adapter"):
        threshold_adapter(0.3, tmp_path / "adapter", folders["projection"], tmp_path / "cell")
    assert not (tmp_path / "cell").exists()


@pytest.mark.parametrize("tau", [-0.1, 1.5, math.nan])
def test_thresholds_outside_0_to_1_are_refused(folders: dict[str, Path], tmp_path: Path, tau: float) -> None:
    with pytest.raises(InputError, match="outside"):
        threshold_adapter(tau, folders["adapter"], folders["projection"], tmp_path)
