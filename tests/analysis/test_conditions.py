"""Which arms and settings a study has, in the order in which they are read."""

import pytest

from emdefense.analysis.conditions import arms_like, chosen_arms, ema_arms, titled
from emdefense.config import Study
from study_folder import tiny_study


@pytest.fixture
def study() -> Study:
    grid = [
        {
            "models": ["small"],
            "tasks": ["code", "legal"],
            "arms": {"kl": [0.1, 1.0], "ldifs": [1.0], "misaligned": None, "slow": [1.0], "untrained": None},
        },
        {"models": ["small"], "tasks": ["quiz"], "arms": {"interleave": [5.0], "ldifs": [0.1], "sft": None}},
    ]
    report = {"main_model": "small", "chosen": {"kl": 1.0, "ldifs": 0.1, "interleave": 5}}
    return tiny_study(grid=grid, variants={"slow": {"of": "kl"}, "idle": {"of": "kl"}}, report=report)


def test_arms_stand_in_reading_order_however_the_grid_has_them(study: Study) -> None:
    assert ema_arms(study, "small") == ["untrained", "misaligned", "kl", "slow", "ldifs"]
    assert ema_arms(study, "other") == []
    assert arms_like(study, "kl") == ["kl", "slow", "idle"]


def test_an_arm_is_shown_at_its_chosen_setting_where_the_ema_tasks_have_it(study: Study) -> None:
    # A variant has the setting of what it varies. LDIFS' 0.1 stands in the grid of a benign task alone.
    assert chosen_arms(study, "small") == [("untrained", "none"), ("misaligned", "none"), ("kl", "1"), ("slow", "1")]


def test_titles(study: Study) -> None:
    pairs = [("kl", "0.1"), ("interleave", "5"), ("misaligned", "none"), ("slow", "1")]
    assert [titled(study, *pair) for pair in pairs] == [
        "KL, λ = 0.1",
        "Interleaving, 5 %",
        "Misaligned",
        "slow, λ = 1",
    ]
