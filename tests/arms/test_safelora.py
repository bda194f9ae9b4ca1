"""Thin SafeLoRA against the dense form, and the two stages on saved models and adapters."""

import csv
import json
import math
import os
import shutil
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from emdefense.arms.safelora import ProjectedAdapter, SafeLoRA
from emdefense.arms.safelora.projection import project_adapter, project_matrix
from emdefense.chat.chat import load_chat
from emdefense.config.chat import TemplateOptions
from emdefense.config.training import Training
from emdefense.errors import InputError
from emdefense.files import write_json
from emdefense.generation import transformers_engine
from emdefense.generation.protocol import Completion, GenerationSpec
from emdefense.generation.reuse import ReuseStore
from emdefense.generation.run import generate
from emdefense.training.adapters import add_adapter, save_adapter
from emdefense.training.changed_adapter import change_adapter
from emdefense.training.weights import SavedWeights
from hub_cache import COMMIT, cache_model
from tiny_model import make_model, make_tokenizer, save_model

SCRIPTS = Path(__file__).parents[2] / "workflow/scripts"


def thresholded(tau: float, adapter: Path, projection: Path, cell: Path) -> None:
    """What the rule does for one τ."""
    change_adapter(ProjectedAdapter(), SafeLoRA(), tau, adapter, projection, cell)


PAPER, IBM = SafeLoRA(), SafeLoRA(normalisation="norm")
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
    assert thin.norm_v == pytest.approx(float(torch.linalg.norm(v.double())), rel=tolerance)


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
    thresholded(tau, folders["adapter"], folders["projection"], tmp_path)
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
        thresholded(tau, folders["adapter"], folders["projection"], tmp_path / str(number))
    first, second, none = ((tmp_path / str(number) / ADAPTER).read_bytes() for number in range(3))
    assert first == second != none
    assert (
        load_file(tmp_path / "2" / ADAPTER).keys() == load_file(folders["adapter"] / "adapter_model.safetensors").keys()
    )
    assert none == (folders["adapter"] / "adapter_model.safetensors").read_bytes()


class CountingEngine:
    """Stands in for a model: answers with its adapter's path, and counts how often it is loaded."""

    loaded = 0
    positions = None

    def __init__(
        self, model: Path, adapter: Path, precision: str, threads: int, template: TemplateOptions, quantisation: str
    ):
        CountingEngine.loaded += 1
        self.chat = load_chat(model, template)
        self.adapter = adapter

    def sample(self, conversations: list[object], spec: GenerationSpec) -> list[list[Completion]]:
        return [[Completion(str(self.adapter), "stop")] * spec.samples_per_question for _ in conversations]


def test_adapters_of_thresholds_that_select_the_same_matrices_are_asked_once(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformers_engine, "TransformersEngine", CountingEngine)
    CountingEngine.loaded = 0
    low, high = sorted(cosines(folders["projection"]).values())[:2]
    write_json(tmp_path / "questions.json", [{"id": "q", "prompt": "Hi", "system": None}])

    def ask(name: str, tau: float) -> bytes:
        cell = tmp_path / name
        thresholded(tau, folders["adapter"], folders["projection"], cell)
        pairs = [(tmp_path / "questions.json", cell / "responses.jsonl")]
        settings = {"version": 1, "samples_per_question": 2}
        generate(settings, folders["instruct"], cell / "adapter", pairs, ReuseStore(tmp_path / "reuse"))
        return (cell / "responses.jsonl").read_bytes()

    assert ask("a", low + (high - low) / 3) == ask("b", low + (high - low) / 2)
    assert CountingEngine.loaded == 1
    assert ask("c", high + 1e-9) != ask("b", low + (high - low) / 2)
    assert CountingEngine.loaded == 2


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


@pytest.fixture
def broken(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the instruct model, in several shards, to break."""
    return Path(shutil.copytree(folders["instruct"], tmp_path / "broken"))


def never(*_: object) -> Tensor:
    raise AssertionError("a matrix was read")


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_a_broken_shard_is_named_before_any_matrix_is_read(
    folders: dict[str, Path], broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setattr(SavedWeights, "matrix", never)
    shard = sorted(broken.glob("*.safetensors"))[-1]
    if damage == "truncated":
        shard.write_bytes(shard.read_bytes()[:-1000])
    else:
        shard.unlink()
    with pytest.raises(InputError, match=shard.name):
        project_adapter(PAPER, folders["adapter"], folders["base"], broken, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def spoil(path: Path, key: str, value: float) -> None:
    """Overwrite one entry of a tensor in a safetensors file."""
    tensors = load_file(path)
    tensors[key].view(-1)[7] = value
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})


@pytest.mark.parametrize("where", ["model", "adapter"])
def test_nan_leaves_an_earlier_projection_as_it_was(
    folders: dict[str, Path], broken: Path, tmp_path: Path, where: str
) -> None:
    out, adapter = (Path(shutil.copytree(folders[name], tmp_path / name)) for name in ("projection", "adapter"))
    name = "model.layers.2.mlp.up_proj"
    if where == "model":
        index = json.loads((broken / "model.safetensors.index.json").read_text())["weight_map"]
        spoil(broken / index[f"{name}.weight"], f"{name}.weight", math.nan)
    else:
        spoil(adapter / "adapter_model.safetensors", f"base_model.model.{name}.lora_B.weight", math.inf)
    with pytest.raises(InputError, match=f"'{name}[^']*' holds values that are not finite"):
        project_adapter(PAPER, adapter, folders["base"], broken, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in folders["projection"].iterdir()
    }


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"q_proj.lora_A.weight": (4, 64), "q_proj.lora_B.weight": (64, 8)}, "no pair of one rank"),
        ({"q_proj.lora_B.weight": (64, 4)}, "has no .*lora_A"),
        (
            {
                "q_proj.lora_A.weight": (4, 64),
                "q_proj.lora_B.weight": (64, 4),
                "q_proj.lora_magnitude_vector": (64,),
            },
            "not a plain LoRA adapter",
        ),
        ({"q_proj.lora_A.weight": (4, 64), "q_proj.lora_B.weight": (64, 4), "q_proj.bias": (64,)}, "not a plain LoRA"),
        ({}, "it is empty"),
    ],
    ids=["ranks", "half a pair", "DoRA", "bias", "empty"],
)
def test_what_is_no_plain_lora_adapter_is_refused(
    folders: dict[str, Path], tmp_path: Path, tensors: dict[str, tuple[int, ...]], message: str
) -> None:
    prefix = "base_model.model.model.layers.0.self_attn"
    save_file(
        {f"{prefix}.{name}": torch.ones(shape) for name, shape in tensors.items()}, tmp_path / ADAPTER.split("/")[1]
    )
    with pytest.raises(InputError, match=message):
        project_adapter(PAPER, tmp_path, folders["base"], folders["instruct"], tmp_path / "out")


def test_one_matrix_of_each_model_is_held_at_a_time(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[weakref.ref[Tensor]] = []
    most = 0
    read = SavedWeights.matrix

    def counted(weights: SavedWeights, name: str) -> Tensor:
        nonlocal most
        tensor = read(weights, name)
        held.append(weakref.ref(tensor))
        most = max(most, sum(reference() is not None for reference in held))
        return tensor

    monkeypatch.setattr(SavedWeights, "matrix", counted)
    project_adapter(PAPER, folders["adapter"], folders["base"], folders["instruct"], tmp_path)
    assert len(held) == 2 * 3 * 7
    assert most == 2


def test_the_script_reads_models_of_the_hub_cache(folders: dict[str, Path], tmp_path: Path) -> None:
    cache_model(tmp_path / "hub", "org/base", folders["base"])
    cache_model(tmp_path / "hub", "org/instruct", folders["instruct"], branch="v2")
    command = [sys.executable, str(SCRIPTS / "prepare_arm.py"), "--arm", "safelora", "--spec", '{"version": 1}']
    command += ["--from", "base=org/base", "--from", f"adapter={folders['adapter']}", "--out", str(tmp_path / "out")]

    def run(instruct: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "PATH": "", "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [*command, "--from", f"model={instruct}"], cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    wrong = run("org/instruct@v3")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: org/instruct@v3: neither a folder nor a model in ")
    assert wrong.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
    right = run("org/instruct@v2")
    assert right.returncode == 0, right.stderr
    for name in ("projected.safetensors", "cosines.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (folders["projection"] / name).read_bytes()
    assert COMMIT in json.loads((tmp_path / "out/projection.json").read_text())["instruct"]["folder"]


def test_a_projection_of_another_adapter_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    save_adapter(add_adapter(make_model(0), Training(lora_rank=2)), tmp_path / "adapter")
    with pytest.raises(InputError, match="made from another adapter"):
        thresholded(0.3, tmp_path / "adapter", folders["projection"], tmp_path / "cell")
    assert not (tmp_path / "cell").exists()


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_an_adapter_folder_that_lacks_a_file_leaves_the_cell_alone(
    folders: dict[str, Path], tmp_path: Path, name: str
) -> None:
    adapter = Path(shutil.copytree(folders["adapter"], tmp_path / "adapter"))
    (adapter / name).unlink()
    thresholded(0.3, folders["adapter"], folders["projection"], tmp_path / "cell")
    before = (tmp_path / "cell" / ADAPTER).read_bytes()
    with pytest.raises(InputError, match=f"{name}: there is no such file"):
        thresholded(0.9, adapter, folders["projection"], tmp_path / "cell")
    assert (tmp_path / "cell" / ADAPTER).read_bytes() == before


@pytest.mark.parametrize("tau", [-0.1, 1.5, math.nan])
def test_thresholds_outside_0_to_1_are_refused(folders: dict[str, Path], tmp_path: Path, tau: float) -> None:
    with pytest.raises(InputError, match=r"outside|negative"):
        thresholded(tau, folders["adapter"], folders["projection"], tmp_path)
