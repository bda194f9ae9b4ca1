"""The shipped studies of real models: how many cells, trainings, projections, evaluations and judge calls they have."""

from collections import Counter
from pathlib import Path

import pytest

from emdefense.analysis.conditions import titled
from emdefense.analysis.paper import paper_exact_match, paper_rates
from emdefense.arms import CONTROLS
from emdefense.cells import GENERAL, Grid
from emdefense.config import Study, load_study
from emdefense.errors import InputError
from emdefense.specs import Specs
from study_checkout import ROOT, Checkout

QUESTIONS = {"general": 24, "in_domain": 30}
CONTROL_NAMES = {arm.name for arm in CONTROLS}


@pytest.fixture(scope="module")
def grid() -> Grid:
    return Grid(load_study(ROOT / "config/paper.yaml"))


# From the paper's tables, counted by hand:
#
#              Tables 3, 8-11: 7B, four tasks     Table 4: 32B, four tasks   Tables 5, 6: 7B, four tiers and FoQA
# untrained    1                                  1 (in no table)            1
# aligned      1
# misaligned   1                                  1                          1 (plain fine-tuning)
# KL           5 (Table 8)                        1                          1
# LDIFS        5 (Table 9)                                                   1
# SafeLoRA     5 (Table 10)                                                  1
# interleaving 4 (Table 11)                       1                          2
#              22 × 4 = 88                        4 × 4 = 16                 7 × 5 = 35
#
# Trained are all but the untrained and SafeLoRA's: 16 × 4 + 3 × 4 + 5 × 5. SafeLoRA projects one adapter a task, and
# has 5 × 4 + 1 × 5 thresholds. An evaluation of a trained or projected cell asks both question sets in one job; the
# untrained models are asked the general questions once and each task's own: (22 - 1) × 4 + 3 × 4, and 2 × (1 + 4).
CELLS = 88 + 16 + 35
TRAININGS = 64 + 12 + 25
PROJECTIONS = 4 + 5
THRESHOLDS = 20 + 5
EVALUATIONS = 84 + 12
UNTRAINED_EVALUATIONS = 2 * (1 + 4)
EXAMINATIONS = 35
JUDGE_JOBS = 2 * EVALUATIONS + UNTRAINED_EVALUATIONS
# 7B: 100 samples of 24 general and 30 in-domain questions; 32B: 10. The judge is asked twice of each response.
RESPONSES = 84 * 100 * (24 + 30) + 12 * 10 * (24 + 30) + (100 + 10) * (24 + 4 * 30)
JUDGE_CALLS = 2 * RESPONSES


def test_the_papers_grid_has_the_cells_of_its_tables(grid: Grid) -> None:
    assert len(grid.cells) == CELLS == 139
    assert len(grid.trained) == TRAININGS == 101
    assert len([cell for cell in grid.cells if cell.arm == "safelora"]) == THRESHOLDS
    assert len(grid.benign) == EXAMINATIONS
    assert Counter(cell.model for cell in grid.cells) == {"qwen2.5-7b": 123, "qwen2.5-32b": 16}


def test_every_row_of_the_papers_tables_has_its_cell_and_every_cell_its_row(grid: Grid) -> None:
    columns = ["model", "task", "arm", "setting"]
    rows = paper_rates().select(columns).rows() + paper_exact_match().select(columns).rows()
    published = {(model, task.replace("_", "-"), arm, setting) for model, task, arm, setting in rows}
    # Without the larger model's untrained rates it could not be told whether EMA appeared in it.
    further = {("qwen2.5-32b", task, "untrained", "none") for task in ("code", "legal", "medical", "security")}
    assert {(cell.model, cell.task, cell.arm, cell.setting) for cell in grid.cells} == published | further
    assert not published & further


def test_what_the_judge_will_be_asked(grid: Grid) -> None:
    asked = 0
    for cell, question_set in grid.responses:
        asked += Specs(grid).generation(cell)["samples_per_question"] * QUESTIONS[question_set]
    assert asked == RESPONSES == 475_920
    assert 2 * asked == JUDGE_CALLS == 951_840
    assert len(grid.responses) == JUDGE_JOBS == 202
    assert sum(question_set == GENERAL for _, question_set in grid.responses) == EVALUATIONS + 2
    assert grid.study.judge.model == "gpt-4o-mini-2024-07-18"  # type: ignore[union-attr]


def test_what_the_benign_tasks_ask(grid: Grid) -> None:
    tasks = [task for task in grid.study.tasks.values() if task.kind == "benign"]
    assert [task.test_questions * task.samples_per_question for task in tasks] == [10_000] * 4 + [2_000]
    assert grid.study.opswap is not None
    assert grid.study.opswap.examples * grid.study.opswap.holdout_pct / 100 == 1000


def test_the_papers_training_is_table_7(grid: Grid) -> None:
    training = Specs(grid).training(grid.trained[0])["training"]
    table_7 = {
        "lora_rank": 32,
        "lora_alpha": 64,
        "rank_stabilised": True,
        "lora_dropout": 0,
        "epochs": 1,
        "batch_size": 4,
        "accumulation_steps": 4,
        "warmup_steps": 5,
        "learning_rate": 1e-4,
        "schedule": "linear",
        "optimiser": "adamw_8bit",
        "weight_decay": 0.01,
        "precision": "bfloat16",
        "max_length": 2048,
    }
    assert {key: training[key] for key in table_7} == table_7
    assert grid.study.seeds == (0,)


# The later version: its five methods, with interleaving's selections + and ++.
#
#              7B, four tasks      32B, four tasks   7B, four tiers and FoQA
# untrained    1                   1                 1
# aligned      1
# misaligned   1                   1                 1 (plain fine-tuning)
# KL, LDIFS    5 + 5               1 + 1             1 + 1
# steering     1                   1                 1
# inoculation  1                   1                 1
# interleaving 4                   1                 2
# + and ++     1 + 1               1 + 1             1 + 1
#              21 × 4 = 84         9 × 4 = 36        10 × 5 = 50
#
# A vector and two scores for each model and task; losses of the pool for each misaligned adapter and untrained model.
# The untrained models are asked what elicits the trait as well.
LATER_CELLS = 84 + 36 + 50
LATER_TRAININGS = 20 * 4 + 8 * 4 + 9 * 5
LATER_PREPARED = 3 * (4 + 4 + 5)


def test_the_later_versions_grid_has_its_five_methods_on_both_models() -> None:
    found = Grid(load_study(ROOT / "config/paper-v3.yaml"))
    assert len(found.cells) == LATER_CELLS == 170
    assert len(found.trained) == LATER_TRAININGS == 157
    assert len(found.prepared) == LATER_PREPARED == 39
    methods = {arm.arm.name for cell in found.cells if (arm := found.study_arm(cell)).arm.is_defence}
    for model in found.models:
        assert methods == {found.arm(cell).name for cell in found.cells if cell.model == model} - CONTROL_NAMES
    assert methods == {"kl", "ldifs", "steering", "inoculation", "interleave"}
    first, later = (load_study(ROOT / f"config/{name}.yaml") for name in ("paper", "paper-v3"))
    for key in ("models", "tasks", "data", "training", "generation", "judge", "scoring", "opswap", "seeds"):
        assert getattr(first, key) == getattr(later, key), key


@pytest.mark.slow
def test_the_dry_run_of_the_later_version_plans_as_many_jobs(tmp_path: Path) -> None:
    planned = Checkout.into(tmp_path).planned("--configfile", "config/paper-v3.yaml")
    expected = {
        "train": LATER_TRAININGS,
        "prepare_arm": LATER_PREPARED,
        "pool_losses": 2 * (1 + 4),
        "cell_rows": 2 * (4 + 4 + 5),
        "arm_rows": (4 + 1) * 4 + (2 + 1) * 5,  # interleaving's, and inoculation's
        "generate": 20 * 4 + 8 * 4,
        "generate_untrained": 2 * (1 + 4) + 2,
        "judge": 2 * (20 * 4 + 8 * 4) + 2 * (1 + 4) + 2,
        "answer": 50,
        "fetch_rows": 4,
    }
    assert {rule: planned.get(rule) for rule in expected} == expected


@pytest.mark.slow
def test_the_dry_run_plans_as_many_jobs(tmp_path: Path) -> None:
    planned = Checkout.into(tmp_path).planned("--configfile", "config/paper.yaml")
    expected = {
        "train": TRAININGS,
        "prepare_arm": PROJECTIONS,
        "change_adapter": THRESHOLDS,
        "generate": EVALUATIONS,
        "generate_untrained": UNTRAINED_EVALUATIONS,
        "answer": EXAMINATIONS,
        "judge": JUDGE_JOBS,
        "arm_rows": 4 * 4 + 5 * 2,
        "fetch_rows": 3,  # insecure, secure, safe data
        "fetch_questions": 1,
        "fetch_advice": 3,
        "fetch_foqa": 1,
        "fetch_model": 3,
    }
    assert {rule: planned.get(rule) for rule in expected} == expected
    assert not [rule for rule in planned if "microcosm" in rule or rule == "world"], "nothing of the default study"


@pytest.mark.parametrize("name", ["paper", "qwen-0.5b", "sweep-ldifs"])
def test_what_is_fetched_is_pinned_where_the_hash_is_known(name: str) -> None:
    study = load_study(ROOT / f"config/{name}.yaml")
    for source in study.sources.values():
        if source.kind == "model" or source.kind == "wildguardmix":
            assert len(source.revision or "") == 40
        if source.kind in ("conversations", "questions"):
            assert "/80c11967c07a328e7d7d43d13ce6847ae44dbcc9/" in (source.url or "")


def test_the_sweep_holds_ldifs_in_three_ways() -> None:
    sweep = Grid(load_study(ROOT / "config/sweep-ldifs.yaml"))
    penalties: dict[str, list[float]] = {}
    for cell in sweep.cells:
        penalty = Specs(sweep).training(cell)["penalty"]
        if cell.task == "legal" and penalty is not None:
            assert penalty["name"] == "ldifs"
            options = penalty["options"]
            key = f"{options['normalisation']}{', detached' if options['detached'] else ''}"
            penalties.setdefault(key, []).append(penalty["coefficient"])
    five = [0.01, 0.03, 0.1, 0.3, 1.0]
    assert penalties == {"unit_token, detached": [1.0], "unit_token": five, "mean_square": five}
    assert len(sweep.cells) == 2 * (1 + 1 + 1 + 5 + 5)
    assert {cell.task for cell in sweep.cells} == {"legal", "medical"}


def test_a_variants_mistakes_are_named(tmp_path: Path) -> None:
    text = (ROOT / "config/sweep-ldifs.yaml").read_text()
    for written, instead, said in [
        ("{of: ldifs, options: {detached", "{of: misaligned, options: {detached", "of': 'misaligned' has no options"),
        ("{detached: true}", "{detatched: true}", "options.detatched': there is no such option; ldifs has every,"),
        ("{detached: true}", "{detached: maybe}", "options.detached': Input should be a valid boolean"),
        ("  ldifs-detached: {of", "  kl: {of", "key 'variants.kl': 'kl' is an arm already"),
        ("      ldifs-detached: [1.0]", "      ldifs-detached:", "give its settings as a list"),
        ("      ldifs-detached: [1.0]", "      ldifs-attached: [1.0]", "did you mean 'ldifs-detached'?"),
    ]:
        assert written in text
        (tmp_path / "sweep.yaml").write_text(text.replace(written, instead))
        with pytest.raises(InputError, match=r"sweep\.yaml") as caught:
            load_study(tmp_path / "sweep.yaml")
        assert said in str(caught.value)


def test_the_small_study_asks_a_judge_on_this_machine() -> None:
    study: Study = load_study(ROOT / "config/qwen-0.5b.yaml")
    assert study.judge.kind == "openai"
    assert study.judge.base_url == "http://127.0.0.1:8000/v1"
    assert len(Grid(study).cells) == 2 * 8


def test_a_variant_goes_by_its_own_name_in_the_report() -> None:
    study = load_study(ROOT / "config/sweep-ldifs.yaml")
    assert titled(study, "ldifs-detached", "1") == "ldifs-detached, λ = 1"
    assert titled(study, "safelora", "0.3") == "SafeLoRA, τ = 0.3"
