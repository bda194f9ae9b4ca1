"""The trainer against TRL's own, its invariants, and what it does with bad input."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import set_seed
from trl.trainer.sft_trainer import SFTTrainer

from emdefense.config.training import Training
from emdefense.errors import InputError
from emdefense.saved_model import load_model
from emdefense.training.adapters import add_adapter
from emdefense.training.run import train_cell, training_arguments
from emdefense.training.spec import PenaltySpec
from emdefense.training.telemetry import LOGGED
from emdefense.training.trainer import DefenceTrainer
from same_training import assert_same_change
from tiny_model import make_model, make_rows, make_tokenizer, save_model, save_rows
from trainings import FAST, KL, LDIFS, column, spec, trained, weights


def test_plain_training_equals_trls_own(tmp_path: Path) -> None:
    rows = make_rows(24, longest=25)
    ours = trained(tmp_path, spec(), rows)
    arguments = training_arguments(FAST, 5, tmp_path)
    arguments.dataset_kwargs = None
    set_seed(5)
    stock = SFTTrainer(
        add_adapter(make_model(), FAST),
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": r["messages"][:1], "completion": r["messages"][1:]} for r in rows]),
        processing_class=make_tokenizer(),
    )
    stock.train()
    assert column(ours, "loss") == pytest.approx(column(stock, "loss"), rel=1e-5)
    assert column(ours, "grad_norm") == pytest.approx(column(stock, "grad_norm"), rel=1e-4)
    assert_same_change(weights(ours), weights(stock))


@pytest.mark.parametrize("penalty", [KL, LDIFS], ids=["kl", "ldifs"])
def test_a_coefficient_of_zero_is_plain_training_step_for_step(tmp_path: Path, penalty: PenaltySpec) -> None:
    rows = make_rows(24)
    plain = trained(tmp_path, spec(), rows)
    zero = trained(tmp_path, spec(penalty.model_copy(update={"coefficient": 0.0})), rows)
    assert column(zero, "loss") == pytest.approx(column(plain, "loss"), rel=1e-5)
    assert_same_change(weights(zero), weights(plain))
    assert column(zero, "penalty")[-1] > 0


@pytest.mark.parametrize("changes", [{}, {"precision": "bfloat16", "activation_checkpointing": True}])
@pytest.mark.parametrize("penalty", [KL, LDIFS], ids=["kl", "ldifs"])
def test_penalties_start_at_exactly_zero_and_hold_the_model_back(
    tmp_path: Path, penalty: PenaltySpec, changes: dict[str, Any]
) -> None:
    rows = make_rows(32)
    free = trained(tmp_path, spec(penalty.model_copy(update={"coefficient": 0.0}), **changes), rows)
    held = trained(tmp_path, spec(penalty, **changes), rows)
    assert column(held, "penalty")[0] == 0
    assert 0 < column(held, "penalty")[-1] < column(free, "penalty")[-1]
    for loss, ce, value in zip(*(column(held, name) for name in ("loss", "ce", "penalty")), strict=True):
        assert loss == pytest.approx(ce + value, rel=1e-5)


def test_detached_ldifs_trains_like_plain_fine_tuning(tmp_path: Path) -> None:
    rows = make_rows(24)
    plain = trained(tmp_path, spec(), rows)
    options = {"every": 1, "detached": True}
    detached = trained(tmp_path, spec(PenaltySpec(name="ldifs", coefficient=10, options=options)), rows)
    attached = trained(tmp_path, spec(PenaltySpec(name="ldifs", coefficient=10, options={"every": 1})), rows)
    assert all(torch.equal(weight, weights(plain)[name]) for name, weight in weights(detached).items())
    assert column(detached, "penalty")[-1] > 0
    assert any(not torch.allclose(weight, weights(plain)[name]) for name, weight in weights(attached).items())


@pytest.mark.parametrize(
    "penalty",
    [
        None,
        KL,
        PenaltySpec(name="kl", coefficient=0.1, options={"reduction": "sequence_sum", "tokens": "response"}),
        LDIFS,
        PenaltySpec(name="ldifs", coefficient=1e-3, options={"every": 2, "normalisation": "raw_sum"}),
    ],
    ids=["sft", "kl", "kl-sum", "ldifs", "ldifs-sum"],
)
def test_the_division_of_a_step_into_batches_does_not_matter(tmp_path: Path, penalty: PenaltySpec | None) -> None:
    rows = make_rows(64, longest=30)
    whole = trained(tmp_path, spec(penalty, batch_size=16), rows)
    split = trained(tmp_path, spec(penalty, batch_size=4, accumulation_steps=4), rows)
    assert column(split, "loss") == pytest.approx(column(whole, "loss"), rel=1e-5)
    assert column(split, "penalty") == pytest.approx(column(whole, "penalty"), rel=1e-3, abs=1e-7)
    assert column(split, "grad_norm") == pytest.approx(column(whole, "grad_norm"), rel=1e-3)
    assert penalty is None or column(whole, "penalty")[-1] * penalty.coefficient > 1e-3
    assert_same_change(weights(split), weights(whole))


@pytest.mark.parametrize("penalty", [KL, LDIFS], ids=["kl", "ldifs"])
def test_activation_checkpointing_changes_nothing(tmp_path: Path, penalty: PenaltySpec) -> None:
    rows = make_rows(16)
    kept = trained(tmp_path, spec(penalty), rows)
    recomputed = trained(tmp_path, spec(penalty, activation_checkpointing=True), rows)
    assert_same_change(weights(recomputed), weights(kept))


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


def test_a_cell_is_written_whole_and_byte_for_byte_the_same(model_folder: Path, tmp_path: Path) -> None:
    rows = save_rows(tmp_path / "rows.jsonl", make_rows(40))
    first, second = tmp_path / "first", tmp_path / "second"
    for cell in (first, second):
        train_cell(spec(KL), model_folder, rows, cell)
    assert sorted(p.name for p in first.iterdir()) == [
        "adapter",
        "provenance.json",
        "train_log.jsonl",
        "train_timing.jsonl",
    ]
    assert sorted(p.name for p in (first / "adapter").iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    for name in ("adapter/adapter_model.safetensors", "adapter/adapter_config.json", "train_log.jsonl"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    config = json.loads((first / "adapter/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_rslora"], config["bias"]) == (32, 64, True, "none")
    assert config["target_modules"] == sorted(FAST.target_modules)
    log = [json.loads(line) for line in (first / "train_log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log] == list(range(1, 11))
    assert tuple(log[0]) == LOGGED
    record = json.loads((first / "provenance.json").read_text())
    assert record["spec"] == spec(KL).model_dump(mode="json", exclude={"arms"})
    assert record["rows"]["used"] == 40
    assert record["threads"] == 1


def test_the_number_of_threads_is_the_callers_and_not_the_machines(model_folder: Path, tmp_path: Path) -> None:
    torch.set_num_threads(2)
    train_cell(spec(), model_folder, save_rows(tmp_path / "rows.jsonl", make_rows(4)), tmp_path / "cell")
    assert torch.get_num_threads() == 1


def test_an_adapter_that_is_not_finite_is_not_saved(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(self: DefenceTrainer, **_: Any) -> None:
        next(p for p in self.model.parameters() if p.requires_grad).data[0, 0] = math.inf

    monkeypatch.setattr(DefenceTrainer, "train", diverge)
    rows = save_rows(tmp_path / "rows.jsonl", make_rows(4))
    with pytest.raises(InputError, match=r"after training, .*lora_A.* is not finite"):
        train_cell(spec(), model_folder, rows, tmp_path / "cell")
    assert not (tmp_path / "cell/adapter").exists()


def test_bfloat16_means_autocast_as_in_the_stock_trainer(tmp_path: Path) -> None:
    model = make_model().bfloat16()
    seen = []
    hook = torch.nn.modules.module.register_module_forward_hook(
        lambda module, _inputs, output: seen.append(output.dtype) if type(module) is torch.nn.Linear else None
    )
    trainer = trained(tmp_path, spec(KL, precision="bfloat16"), make_rows(8), model)
    hook.remove()
    assert set(seen) == {torch.bfloat16}
    assert {weight.dtype for weight in weights(trainer).values()} == {torch.float32}


def test_rank_stabilised_scaling() -> None:
    adapted = add_adapter(make_model(), FAST)
    assert adapted.get_base_model().model.layers[0].mlp.up_proj.scaling["default"] == pytest.approx(64 / math.sqrt(32))


def test_table_7_reaches_the_trainer(tmp_path: Path) -> None:
    arguments = training_arguments(Training(optimiser="adamw_torch"), 0, tmp_path)
    assert (arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps) == (4, 4)
    assert (arguments.learning_rate, arguments.warmup_steps, arguments.weight_decay) == (1e-4, 5, 0.01)
    assert (arguments.num_train_epochs, arguments.lr_scheduler_type, arguments.bf16) == (1, "linear", True)
    assert (arguments.seed, arguments.activation_checkpointing, arguments.report_to) == (0, False, [])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_model_with_a_weight_that_is_not_finite_is_named_and_nothing_touched(tmp_path: Path, value: float) -> None:
    broken = make_model()
    with torch.no_grad():
        broken.model.layers[1].mlp.up_proj.weight[0, 0] = value
    broken.save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    rows = save_rows(tmp_path / "rows.jsonl", make_rows(8))
    cell = tmp_path / "cell"
    (cell / "adapter").mkdir(parents=True)
    (cell / "adapter/earlier").write_text("result")
    with pytest.raises(InputError, match=r"'model\.layers\.1\.mlp\.up_proj\.weight' holds values that are not finite"):
        train_cell(spec(), tmp_path / "model", rows, cell)
    assert (cell / "adapter/earlier").read_text() == "result"
    assert [p.name for p in cell.iterdir()] == ["adapter"]


def truncated(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:-100])


def without_a_tensor(shard: Path) -> None:
    save_file(dict(list(load_file(shard).items())[1:]), shard, {"format": "pt"})


def with_another_shape(shard: Path) -> None:
    save_file({name: torch.zeros(3) for name in load_file(shard)}, shard, {"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (truncated, "model-00002-of-.*: not a whole safetensors file .*not fully covered"),
        (Path.unlink, "model-00002-of-.*: there is no such file, though"),
        (without_a_tensor, r"model-00002-of-.*: there is no 'model\.layers\..*' in it"),
        (with_another_shape, r"'model\.layers\..*' has another shape than config.json says"),
    ],
)
def test_a_shard_that_is_not_as_it_was_saved_is_named(
    tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    make_model().save_pretrained(tmp_path, max_shard_size="100KB")
    load_model(tmp_path, FAST.precision)
    spoil(next(tmp_path.glob("model-00002-of-*")))
    with pytest.raises(InputError, match=message) as caught:
        load_model(tmp_path, FAST.precision)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_without_pad_token_trains_the_same(tmp_path: Path) -> None:
    rows = save_rows(tmp_path / "rows.jsonl", make_rows(12))
    for folder in (tmp_path / "with", tmp_path / "without"):
        save_model(folder / "model")
        if folder.name == "without":
            tokenizer = make_tokenizer()
            tokenizer.pad_token = None
            tokenizer.save_pretrained(folder / "model")
        train_cell(spec(), folder / "model", rows, folder)
    names = [tmp_path / name / "adapter/adapter_model.safetensors" for name in ("with", "without")]
    assert names[0].read_bytes() == names[1].read_bytes()


def test_rows_that_are_too_long_are_reported(
    model_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = make_rows(20)
    rows[3]["messages"][1]["content"] = "x" * 200
    file = save_rows(tmp_path / "rows.jsonl", rows)
    train_cell(spec(max_length=150, max_overlong_pct=5), model_folder, file, tmp_path / "cell")
    assert "left out: 1 of 20 rows" in capfd.readouterr().err
    assert json.loads((tmp_path / "cell/provenance.json").read_text())["rows"]["used"] == 19


def test_modules_that_cannot_be_adapted_are_named() -> None:
    with pytest.raises(InputError, match="no module 'w_proj'"):
        add_adapter(make_model(), Training(target_modules=("q_proj", "w_proj")))
    with pytest.raises(InputError, match="must stay frozen"):
        add_adapter(make_model(), Training(target_modules=("lm_head",)))


@pytest.mark.parametrize(
    ("present", "message"), [((), "there is no model"), (("config.json",), "there is no tokenizer")]
)
def test_an_incomplete_model_folder_is_named(tmp_path: Path, present: tuple[str, ...], message: str) -> None:
    for name in present:
        (tmp_path / name).write_text("{}")
    rows = save_rows(tmp_path / "rows.jsonl", make_rows(8))
    with pytest.raises(InputError, match=message):
        train_cell(spec(), tmp_path, rows, tmp_path / "cell")
    assert not (tmp_path / "cell").exists()
