"""Expansion of a study into cells, and what each cell depends on."""

import copy
from pathlib import Path
from typing import Any

import yaml

from emdefense.cells import Cell, Grid, format_setting
from emdefense.config import parse_study
from emdefense.inputs import Inputs
from emdefense.layout import Layout
from emdefense.specs import Specs

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text())


def grid(**changes: Any) -> Grid:
    return Grid(parse_study({**copy.deepcopy(DEFAULT), "question_sets": {}, **changes}, "config.yaml"))


def test_settings_read_alike_however_they_were_written() -> None:
    assert [format_setting(x) for x in (1.0, 1, 0.10, 5, None)] == ["1", "1", "0.1", "5", "none"]


def test_cells_are_the_union_of_the_blocks_each_once() -> None:
    block = {"models": ["world-a"], "tasks": ["code"], "arms": {"misaligned": None, "kl": [0.1, 1]}}
    cells = grid(grid=[block, {**block, "arms": {"kl": [1.0, 3]}}], seeds=[0, 1]).cells
    assert len(cells) == len(set(cells)) == 2 * 4
    assert Cell("world-a", "code", "kl", "1", 1) in cells


def test_untrained_is_measured_once_for_all_seeds_and_general_questions_once_for_all_tasks() -> None:
    block = {"models": ["world-a"], "tasks": ["code", "legal"], "arms": {"untrained": None}}
    found = grid(grid=[block], seeds=[0, 1])
    assert len(found.cells) == 2
    assert len(found.measurements) == 4
    assert [(cell.task, question_set) for cell, question_set in found.responses] == [
        ("shared", "general"),
        ("code", "in_domain"),
        ("legal", "in_domain"),
    ]


def test_safelora_alone_still_trains_the_adapter_that_it_projects() -> None:
    block = {"models": ["world-a"], "tasks": ["code"], "arms": {"safelora": [0.3, 0.5]}}
    found = grid(grid=[block])
    assert found.trained == [Cell("world-a", "code", "misaligned", "none", 0)]


def test_each_arm_trains_on_its_own_rows() -> None:
    found = grid()
    rows = {cell.arm: Inputs(found).training_rows(cell) for cell in found.trained if cell.task == "code"}
    assert rows["aligned"].endswith("data/code/train_aligned.jsonl")
    assert rows["kl"] == rows["misaligned"] == "results/microcosm/data/code/train_misaligned.jsonl"
    assert "/interleave/" in rows["interleave"]


def test_a_training_spec_changes_with_what_it_trains_and_with_nothing_else() -> None:
    found = grid()
    kl = next(cell for cell in found.trained if cell.arm == "kl")
    spec = Specs(found).training(kl)
    assert spec["penalty"] == {
        "name": "kl",
        "coefficient": kl.setting_value,
        "options": found.study.arms.kl.model_dump(mode="json"),
    }
    scored = {**DEFAULT["report"], "emergent_pct": 9}
    assert Specs(grid(report=scored)).training(kl) == spec
    assert Specs(grid(training={**DEFAULT["training"], "epochs": 2})).training(kl) != spec


def test_every_judge_judges_all_responses_into_files_of_its_name() -> None:
    block = {"models": ["world-a"], "tasks": ["code"], "arms": {"misaligned": None}}
    found = grid(grid=[block], second_judges=[{"kind": "openai", "name": "gpt", "model": "m"}])
    layout = Layout(found.study)
    assert list(found.study.judges) == ["oracle", "gpt"]
    assert found.judgments == [(*pair, judge) for judge in ("oracle", "gpt") for pair in found.responses]
    folder = "results/microcosm/cells/world-a/code/misaligned/none/seed0/general/judgments"
    assert layout.judgments(*found.responses[0]) == f"{folder}/oracle.jsonl"
    assert layout.judgments(*found.responses[0], "gpt") == f"{folder}/gpt.jsonl"
    assert layout.judge_files() == layout.judge_files("oracle") == ["results/microcosm/microcosm/world.json"]
    assert layout.judge_files("gpt") == []
