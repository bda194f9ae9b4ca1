"""What jobs ask a cluster for: the arithmetic against hand counts, real models and what autograd really keeps."""

import dataclasses
from pathlib import Path

import pytest
import torch
import yaml

from emdefense.arms import STANDARD, StudyArm
from emdefense.cells import Cell, Grid
from emdefense.config import Study, load_study
from emdefense.config.shape import ModelShape, read_shape
from emdefense.config.study import Generation
from emdefense.config.training import Training
from emdefense.errors import InputError
from emdefense.resources.duration import generation_seconds, training_seconds
from emdefense.resources.gpus import GIB, Gpu, read_gpus
from emdefense.resources.jobs import Request, Requests
from emdefense.resources.memory import generation_budget, rows_at_once, training_budget
from emdefense.resources.partitions import check_partitions
from emdefense.resources.table import with_budgets
from emdefense.training.adapters import add_adapter
from emdefense.training.costs import training_flop
from emdefense.training.features import FeatureReader
from qwen_shapes import QWEN_7B, QWEN_32B
from study_folder import tiny_study
from tiny_model import make_model, save_model

ROOT = Path(__file__).resolve().parents[2]
GPUS = read_gpus(ROOT / "profiles/slurm/gpus.yaml")
KL = StudyArm("kl", STANDARD["kl"], STANDARD["kl"].options())
LDIFS = StudyArm("ldifs", STANDARD["ldifs"], STANDARD["ldifs"].options())


def paper() -> Study:
    return load_study(ROOT / "config/paper.yaml")


def total(budget: dict[str, int]) -> float:
    return sum(budget.values()) / GIB


def test_parameters_are_those_of_the_published_models() -> None:
    # The sum of the shapes in the repositories' safetensors indexes; the model cards say 7.61 B and 32.5 B.
    assert QWEN_7B.parameters == 7_615_616_512
    assert QWEN_32B.parameters == 32_763_876_352
    # r · (inputs + outputs) of seven projections in 28 and in 64 blocks
    assert QWEN_7B.adapter_parameters(Training()) == 28 * 32 * 90_112 == 80_740_352
    assert QWEN_32B.adapter_parameters(Training()) == 64 * 32 * 131_072 == 268_435_456


def test_parameters_are_those_of_a_real_model(tmp_path: Path) -> None:
    for tied in (True, False):
        folder = save_model(tmp_path / str(tied), tie_word_embeddings=tied)
        model = make_model(tie_word_embeddings=tied)
        shape = read_shape(folder)
        assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
        training = Training(lora_rank=4, target_modules=("q_proj", "v_proj", "down_proj"))
        adapted = [p.numel() for p in add_adapter(model, training).parameters() if p.requires_grad]
        assert shape.adapter_parameters(training) == sum(adapted)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_are_what_autograd_keeps(checkpointing: bool) -> None:
    rows, length = 2, 128
    sizes = {"hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4, "num_key_value_heads": 4}
    model = make_model(layers=6, **sizes).to(torch.bfloat16)
    training = Training(batch_size=rows, max_length=length, activation_checkpointing=checkpointing)
    adapted = add_adapter(model, training)
    adapted.train()
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    ids = torch.randint(3, 250, (rows, length))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids, "row": torch.arange(rows)}
    weights = {p.untyped_storage().data_ptr() for p in [*adapted.parameters(), *adapted.buffers()]}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        # Not the weights, nor the adapter's copies in bfloat16, which are counted with the adapter.
        if tensor.untyped_storage().data_ptr() not in weights and rows * length in (
            tensor.numel() // tensor.shape[-1],
            tensor.numel() // tensor.shape[-1] // 4,  # of each of the four heads
            tensor.numel(),
        ):
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        FeatureReader(adapted).policy(inputs)
    counted = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    shape = ModelShape(**sizes, num_hidden_layers=6, vocab_size=259)
    budget = training_budget(shape, training, None)["activations"]
    if checkpointing:  # what is kept while none is computed again
        budget -= (
            training_budget(shape, training.model_copy(update={"activation_checkpointing": False}), None)["activations"]
            // 6
        )
    final_norm = rows * length * 4 * 256  # counted with the output head
    assert budget == pytest.approx(counted - final_norm, rel=0.03)


def test_a_budget_counted_by_hand() -> None:
    tokens, d, ff = 4 * 2048, 3584, 18944
    training = Training(activation_checkpointing=True)
    budget = training_budget(QWEN_7B, training, KL)
    adapter = 80_740_352
    block = tokens * (2 * 4 * d + 2 * (6 * d + ff + 7 * 32) + 2 * 4 * d + 2 * 3 * ff)
    assert budget == {
        "weights": 2 * 7_615_616_512,
        "adapter and optimiser": int(adapter * (4 + 4 + 2 + 2.04)),
        "activations": 28 * tokens * 2 * d + block,
        "passing through a block": tokens * 10 * ff,
        "output head": tokens * 12 * d + 5 * 2**26,
        "reference": tokens * 2 * d,
        "diagnostics": 8 * adapter,
    }
    without = training_budget(QWEN_7B, Training(optimiser="adamw_torch", diagnostics_every=0), None)
    assert without["activations"] == 28 * block
    assert without["adapter and optimiser"] == adapter * (4 + 4 + 2 + 8)
    assert without["reference"] == 0
    assert "diagnostics" not in without
    features = training_budget(QWEN_7B, training, LDIFS)["reference"] - budget["reference"]
    assert features == 5 * tokens * 12 * d, "after blocks 5, 10, 15, 20 and 25"


def test_what_arms_keep_in_training_counted_by_hand() -> None:
    training = Training(diagnostics_every=0)
    without = training_budget(QWEN_7B, training, None)
    adapter = QWEN_7B.adapter_parameters(training)

    def more(name: str) -> dict[str, int]:
        arm = StudyArm(name, STANDARD[name], STANDARD[name].options())
        found = training_budget(QWEN_7B, training, arm)
        return {part: size for part, size in found.items() if part not in without}

    assert more("treft") == {"captured outputs": 28 * 4 * 2048 * (512 + 512) * 3 * 2}
    assert more("lisa") == {"gradient as changed": 12 * adapter}
    assert more("safegrad") == {"second stream": 8 * adapter, "gradient as changed": 12 * adapter}
    assert more("inoculation_adapter") == {"frozen adapter": 4 * adapter}


def test_the_cache_of_keys_and_values_counted_by_hand() -> None:
    budget = generation_budget(QWEN_7B, Generation(batch_size=64, max_new_tokens=600))
    assert budget["keys and values"] == 64 * (512 + 600) * 2 * 28 * (4 * 128) * 2
    assert budget["weights"] == 2 * 7_615_616_512


def test_32b_with_kl_fits_80_gb_two_rows_at_a_time_and_not_four() -> None:
    four = Training(activation_checkpointing=True)
    two = four.model_copy(update={"batch_size": 2, "accumulation_steps": 8})
    usable = GPUS["a100"].usable_bytes / GIB
    assert total(training_budget(QWEN_32B, two, KL)) < usable < total(training_budget(QWEN_32B, four, KL)) < 79
    assert total(training_budget(QWEN_32B, two.model_copy(update={"activation_checkpointing": False}), KL)) > 79
    assert total(generation_budget(QWEN_32B, Generation(batch_size=32))) < usable
    assert total(generation_budget(QWEN_32B, Generation(batch_size=64))) > usable


def test_the_papers_jobs_go_where_they_fit() -> None:
    study = paper()
    grid, requests = Grid(study), Requests(study, GPUS)
    requests.check()
    large = {"qwen2.5-7b": ("a100", "a40"), "qwen2.5-32b": ("a100",)}
    for cell in grid.trained:
        request = requests.train(cell)
        assert request.partitions == large[cell.model]
        assert request.gpus == 1
        # A step has 16 rows, as in Table 7, however they are divided.
        assert grid.training(cell).batch_size * grid.training(cell).accumulation_steps == 16
    for cell, question_set in grid.responses:
        assert requests.sample(cell).partitions == large[cell.model]
        assert requests.judge(cell, study.judge.name, question_set).partitions == ()
        assert requests.judge(cell, study.judge.name, question_set).gpus == 0
    assert requests.change("qwen2.5-7b").gpus == 0


def test_a_judge_asked_in_batches_has_a_day() -> None:
    study = paper()
    batch = study.model_copy(update={"judge": study.judge.model_copy(update={"mode": "batch"})})
    cell, question_set = Grid(study).responses[0]
    minutes = [Requests(each, GPUS).judge(cell, study.judge.name, question_set).minutes for each in (study, batch)]
    assert minutes[0] < 24 * 60 < minutes[1]


def test_rows_and_responses_are_those_of_the_paper() -> None:
    requests = Requests(paper(), GPUS)

    def cell(task: str, arm: str, setting: str = "none", model: str = "qwen2.5-7b") -> Cell:
        return Cell(model, task, arm, setting, 0)

    assert requests.rows(cell("code", "misaligned")) == 5400
    assert requests.rows(cell("code", "interleave", "50")) == 8100
    assert requests.rows(cell("opswap-0", "sft")) == 9000
    assert requests.responses(cell("code", "kl", "0.1")) == 5400
    assert requests.responses(cell("code", "kl", "0.1", "qwen2.5-32b")) == 540
    assert requests.responses(cell("shared", "untrained")) == 3000
    assert requests.responses(cell("opswap-0", "sft")) == 10_000
    assert requests.responses(cell("foqa", "sft")) == 2000


def test_times_counted_by_hand() -> None:
    gpu = Gpu(memory_gib=80, tflops=100, gb_per_s=1000)
    loading = 2 * 7_615_616_512 / 2e8
    flop = training_flop(QWEN_7B, Training(), KL.arm, 512, 1).all
    assert flop == pytest.approx(3 * 2 * 7.6e9, rel=0.1), "forward, backward to the activations, the reference"
    seconds = training_seconds(QWEN_7B, Training(epochs=2), KL, 5400, gpu)
    assert seconds == pytest.approx(loading + 2 * flop * 5400 * 512 / 35e12)
    assert training_seconds(QWEN_7B, Training(activation_checkpointing=True), KL, 5400, gpu) > 0.6 * seconds
    token = 2 * 7_615_616_512 / 0.5e12 + 2 * 7_615_616_512 * 32 / 35e12 + 28 * 4e-4
    sampled = generation_seconds(QWEN_7B, Generation(batch_size=32, max_new_tokens=10), 65, gpu)
    assert sampled == pytest.approx(loading + 3 * 10 * token)


def test_vllm_takes_as_many_rows_as_their_keys_and_values_fit() -> None:
    gpu = Gpu(memory_gib=80, tflops=100, gb_per_s=1000)
    vllm = Generation(engine="vllm", max_new_tokens=600)
    assert rows_at_once(QWEN_7B, Generation(batch_size=32), gpu) == 32
    assert rows_at_once(QWEN_7B, vllm, gpu) == 256, "57 GiB are left, and a row takes 61 MiB"
    left = 0.9 * 80 * GIB - 2 * 32_763_876_352
    assert rows_at_once(QWEN_32B, vllm, gpu) == int(left / (2 * 64 * 8 * 128 * 2 * (512 + 600))) == 40
    token = 2 * 7_615_616_512 / 0.5e12 + 2 * 7_615_616_512 * 256 / 35e12
    seconds = generation_seconds(QWEN_7B, vllm, 5400, gpu)
    assert seconds == pytest.approx(2 * 7_615_616_512 / 2e8 + 60 + 5400 / 256 * 600 * token)


def test_requests_grow_by_attempt_up_to_the_partitions_limit() -> None:
    request = Request(mem_mb=10_000, minutes=500, partitions=("a100",), gpus=1, max_minutes=1440)
    assert [request.memory(attempt) for attempt in (1, 2, 3)] == [10_000, 15_000, 22_500]
    assert [request.runtime(attempt) for attempt in (1, 2, 3)] == [500, 1000, 1440]
    assert dataclasses.replace(request, max_minutes=None).runtime(3) == 1500


def test_models_made_by_the_study_or_small_ask_for_no_gpu(tmp_path: Path) -> None:
    study = load_study(ROOT / "config.yaml")
    requests = Requests(study, GPUS)
    requests.check()
    for cell in Grid(study).trained:
        assert requests.train(cell).gpus == requests.sample(cell).gpus == 0
        assert requests.train(cell).partitions == ()
    folder = save_model(tmp_path / "model")
    small = tiny_study(models={"small": {"title": "Small", "instruct": str(folder)}})
    Requests(small, GPUS).check()
    assert Requests(small, GPUS).train(Cell("small", "code", "misaligned", "none", 0)).gpus == 0


def test_a_size_is_read_from_a_model_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(QWEN_7B.model_dump_json(exclude_none=True))
    study = tiny_study(models={"large": {"title": "Large", "instruct": str(tmp_path)}})
    request = Requests(study, GPUS).sample(Cell("large", "code", "misaligned", "none", 0))
    assert request.gpus == 1
    assert request.mem_mb > 15_000


def test_what_cannot_be_booked_is_said_in_one_line(tmp_path: Path) -> None:
    absent = tiny_study(models={"small": {"title": "Absent", "instruct": "{sources}/absent"}})
    with pytest.raises(InputError, match=r"key 'models\.small\.shape': \{sources\}/absent is not there yet"):
        Requests(absent, GPUS).check()
    large = tiny_study(models={"small": {"title": "Large", "instruct": "-", "shape": QWEN_32B.model_dump()}})
    with pytest.raises(InputError, match=r"training small/code/misaligned/none/seed0 takes 245\.0 GiB of a GPU, and"):
        Requests(large, GPUS).check()
    path = tmp_path / "gpus.yaml"
    for content, message in (
        ("a100: {memory_gib: 80, tflops: 312}", "key 'a100.gb_per_s': Field required"),
        ("a100: {memory_gib: 80, tflops: 312, gb_per_s: -1}", "key 'a100.gb_per_s'"),
        ("[]", "expected partitions"),
        ("a: [", "not valid YAML"),
    ):
        path.write_text(content)
        with pytest.raises(InputError, match=r"gpus\.yaml: ") as error:
            read_gpus(path)
        assert message in str(error.value)
    with pytest.raises(InputError, match="there is no such file"):
        read_gpus(tmp_path / "none.yaml")


def test_partitions_are_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="there is no `sinfo` here"):
        check_partitions(["cpu"])
    sinfo = tmp_path / "sinfo"
    sinfo.write_text("#!/bin/sh\n/bin/echo a100\n/bin/echo cpu\n")
    sinfo.chmod(0o755)
    check_partitions(["cpu", None, "a100,cpu"])
    with pytest.raises(InputError, match="there is no partition 'a40', only a100, cpu"):
        check_partitions(["cpu", "a100,a40"])
    sinfo.write_text("#!/bin/sh\necho down >&2\nexit 1\n")
    with pytest.raises(InputError, match=r"`sinfo` fails \(down\)"):
        check_partitions(["cpu"])


def test_the_profile_avoids_what_does_not_work() -> None:
    slurm, default = (
        yaml.safe_load((ROOT / f"profiles/{name}/config.yaml").read_text()) for name in ("slurm", "default")
    )
    assert (ROOT / "slurm").readlink() == Path("profiles/slurm"), "where --profile slurm looks"
    assert not set(slurm) & set(default), "profiles/default would go before"
    assert slurm["slurm-status-command"] == "squeue"
    assert "slurm-array-jobs" not in slurm
    assert slurm["retries"] == 1
    assert not any("retries:" in rules.read_text() for rules in (ROOT / "workflow/rules").glob("*.smk"))
    partitions = {slurm["default-resources"]["slurm_partition"], *GPUS}
    assert partitions == {"cpu", "a100", "a40"}


def test_the_documents_tables_are_up_to_date() -> None:
    document = (ROOT / "docs/cluster.md").read_text()
    assert with_budgets(document, paper(), GPUS) == document, "run `make schema`"
