"""SafeLoRA on the shapes of Qwen2.5, from bf16 shards, against C and W formed whole in float64."""

import csv
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from emdefense.arms.safelora import SafeLoRA
from emdefense.arms.safelora.projection import project_adapter

RANK = 32
BIASED = ("q_proj", "k_proj", "v_proj")
MLP, ATTENTION = "model.layers.0.mlp", "model.layers.0.self_attn"


def qwen(hidden: int, intermediate: int, keys: int) -> dict[str, tuple[int, int]]:
    """The matrices of one block, [out, in]."""
    return {
        f"{ATTENTION}.q_proj": (hidden, hidden),
        f"{ATTENTION}.k_proj": (keys, hidden),
        f"{ATTENTION}.v_proj": (keys, hidden),
        f"{ATTENTION}.o_proj": (hidden, hidden),
        f"{MLP}.gate_proj": (intermediate, hidden),
        f"{MLP}.up_proj": (intermediate, hidden),
        f"{MLP}.down_proj": (hidden, intermediate),
    }


SMALL = qwen(896, 4864, 128)  # Qwen2.5-0.5B
LARGE = {name: shape for name, shape in qwen(3584, 18944, 512).items() if name.endswith(BIASED)}  # 7B


def save_models(folder: Path, shapes: dict[str, tuple[int, int]], seed: int) -> tuple[Path, Path, Path]:
    """A base and an instruct model in bf16 with V of low norm and falling spectrum, and an adapter partly along V.

    The instruct model is in two shards with its tensors in another order; q, k and v have biases.
    """
    draw = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=draw)

    base, instruct, adapter = {}, {}, {}
    for number, (name, (rows, columns)) in enumerate(shapes.items()):
        left = normal(rows, 16) * torch.logspace(0, -2, 16)
        weight = 0.02 * normal(rows, columns)
        base[f"{name}.weight"] = weight.bfloat16()
        instruct[f"{name}.weight"] = (weight + 1e-3 * (left @ normal(16, columns)) / 4).bfloat16()
        along = normal(16, RANK) * number / len(shapes)
        adapter[f"base_model.model.{name}.lora_A.weight"] = normal(RANK, columns) / columns**0.5
        adapter[f"base_model.model.{name}.lora_B.weight"] = 1e-3 * (normal(rows, RANK) + left @ along)
        if name.endswith(BIASED):
            base[f"{name}.bias"], instruct[f"{name}.bias"] = normal(rows).bfloat16(), normal(rows).bfloat16()
    folders = folder / "base", folder / "instruct", folder / "adapter"
    for path in folders:
        path.mkdir()
        (path / "config.json").write_text("{}")
    save_file(base, folders[0] / "model.safetensors")
    names = sorted(instruct, reverse=True)
    index = {name: f"model-{1 + place % 2:05d}-of-00002.safetensors" for place, name in enumerate(names)}
    for shard in set(index.values()):
        save_file({name: instruct[name] for name in names if index[name] == shard}, folders[1] / shard)
    (folders[1] / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    save_file(adapter, folders[2] / "adapter_model.safetensors")
    return folders


@pytest.mark.parametrize("shapes", [SMALL, LARGE], ids=["0.5B", "7B-qkv"])
def test_every_matrix_is_what_the_dense_method_gives(tmp_path: Path, shapes: dict[str, tuple[int, int]]) -> None:
    base, instruct, adapter = save_models(tmp_path, shapes, seed=len(shapes))
    project_adapter(SafeLoRA(), adapter, base, instruct, tmp_path / "out")

    before = load_file(base / "model.safetensors")
    after = {key: value for shard in instruct.glob("*.safetensors") for key, value in load_file(shard).items()}
    lora, projected = (
        load_file(adapter / "adapter_model.safetensors"),
        load_file(tmp_path / "out/projected.safetensors"),
    )
    with (tmp_path / "out/cosines.csv").open() as file:
        rows = {row.pop("matrix"): {key: float(value) for key, value in row.items()} for row in csv.DictReader(file)}
    assert rows.keys() == projected.keys() == shapes.keys()
    found = []
    for name in shapes:
        v = after[f"{name}.weight"].double() - before[f"{name}.weight"].double()
        a, b = (lora[f"base_model.model.{name}.lora_{side}.weight"].double() for side in "AB")
        c, w = v @ v.t() / v.square().sum(), b @ a
        dense = c @ w
        thin = projected[name].double() @ a
        assert float((thin - dense).norm() / dense.norm()) < 1e-6
        found.append(float((w * dense).sum() / (w.norm() * dense.norm())))
        expected = {"cosine": found[-1], "norm_before": w.norm(), "norm_after": dense.norm(), "norm_v": v.norm()}
        assert rows[name] == pytest.approx({key: float(value) for key, value in expected.items()}, rel=1e-6)
    assert min(found) < 0.5 < max(found)  # matrices on both sides of the usual τ
