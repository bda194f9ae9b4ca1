"""What must hold of every arm that acts by a second stream, the template's tokens, a frozen adapter or the gradient."""

from pathlib import Path
from typing import Any

import pytest

from arm_trainings import arm_spec, log, same, torn, train, workplace
from emdefense.arms import STANDARD
from emdefense.arms.declaration import _check_hooks
from emdefense.files import read_jsonl
from emdefense.training.spec import ArmSpec
from same_training import assert_same_change
from tiny_model import make_rows, save_rows

pytestmark = pytest.mark.numerical

BLOCKS = {"safe_steps": 1, "task_steps": 2}
ARMS: dict[str, tuple[float, dict[str, Any]]] = {
    "kl_safe": (1.0, {"rows_per_step": 3}),
    "safegrad": (1.0, {"rows": 6, "rows_per_step": 3}),
    "treft": (10.0, {}),
    "inoculation_adapter": (1.0, {}),
    "lisa": (1.0, BLOCKS),
}
AT_ZERO = [name for name in ARMS if name != "lisa"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workplace with an adapter of plain fine-tuning, and rows for alternating training."""
    folder = workplace(tmp_path_factory.mktemp("place"))
    safe = list(read_jsonl(folder / "safe.jsonl"))
    arm = STANDARD["lisa"]
    save_rows(
        folder / "alternating.jsonl",
        arm.rows(make_rows(16, longest=20), {"safe": safe}, 1.0, arm.options.model_validate(BLOCKS), 0),
    )
    train(folder, folder / "plain")
    return folder


def given(folder: Path, name: str) -> dict[str, Any]:
    rows = "alternating.jsonl" if name == "lisa" else "rows.jsonl"
    return {"prepared": folder / "plain/adapter", "rows": rows}


def spec(name: str, setting: float | None = None) -> ArmSpec:
    return arm_spec(name, ARMS[name][0] if setting is None else setting, **ARMS[name][1])


@pytest.mark.parametrize("name", AT_ZERO)
def test_at_0_it_is_plain_fine_tuning_bit_for_bit_and_above_it_is_not(folder: Path, tmp_path: Path, name: str) -> None:
    train(folder, tmp_path / "zero", spec(name, 0.0), **given(folder, name))
    assert same(tmp_path / "zero", folder / "plain")
    train(folder, tmp_path / "some", spec(name), **given(folder, name))
    assert not same(tmp_path / "some", folder / "plain")


@pytest.mark.parametrize("changes", [{"batch_size": 4, "accumulation_steps": 1}, {"padding_free": True}], ids=str)
@pytest.mark.parametrize("name", ARMS)
def test_neither_the_division_into_batches_nor_padding_matters(
    folder: Path, tmp_path: Path, name: str, changes: dict[str, Any]
) -> None:
    first = train(folder, tmp_path / "first", spec(name), **given(folder, name))
    second = train(folder, tmp_path / "second", spec(name), **given(folder, name), **changes)
    assert_same_change(second, first)
    for mine, other in zip(log(tmp_path / "second"), log(tmp_path / "first"), strict=True):
        assert {key: mine[key] for key in mine if key != "grad_norm_ce"} == pytest.approx(
            {key: other[key] for key in other if key != "grad_norm_ce"}, rel=2e-3, abs=1e-6
        )


@pytest.mark.parametrize("name", ARMS)
def test_killed_and_resumed_it_ends_with_the_same_bytes(
    folder: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(folder, tmp_path / "whole", spec(name), **given(folder, name), checkpoint_minutes=1e-6)
    torn(monkeypatch, folder, tmp_path / "torn", spec(name), **given(folder, name))
    assert same(tmp_path / "whole", tmp_path / "torn")
    assert log(tmp_path / "whole") == log(tmp_path / "torn")


@pytest.mark.parametrize("name", ARMS)
def test_its_declaration_is_one_that_a_studys_own_arm_might_have(name: str) -> None:
    _check_hooks(STANDARD[name])
    assert STANDARD[name].source
    assert STANDARD[name].look
