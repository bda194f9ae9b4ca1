"""What must hold of every arm that acts by a second stream, the template's tokens, a frozen adapter or the gradient."""

from pathlib import Path
from typing import Any

import pytest

from arm_trainings import AT_EVERY_STEP, arm_spec, log, same, torn, train, workplace
from emdefense.arms import STANDARD
from emdefense.arms.declaration import _check_hooks
from emdefense.cells import Grid
from emdefense.config import Study
from emdefense.config.checks import check_study
from emdefense.errors import InputError
from emdefense.files import read_jsonl
from emdefense.inputs import Inputs
from emdefense.model_checks.losses import check_losses
from emdefense.model_checks.subject import ArmTried, CheckSpec, Subject
from emdefense.specs import Specs
from emdefense.training.spec import ArmSpec
from same_training import assert_same_change
from study_folder import CONFIG, tiny_study
from tiny_model import make_rows, save_rows
from trainings import FAST

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
    into = tmp_path / "torn"
    torn(monkeypatch, into, lambda: train(folder, into, spec(name), **AT_EVERY_STEP, **given(folder, name)))
    assert same(tmp_path / "whole", tmp_path / "torn")
    assert log(tmp_path / "whole") == log(tmp_path / "torn")


@pytest.mark.parametrize("name", ARMS)
def test_its_declaration_is_one_that_a_studys_own_arm_might_have(name: str) -> None:
    _check_hooks(STANDARD[name])
    assert STANDARD[name].source
    assert STANDARD[name].look


REPORT = {"main_model": "small", "chosen": {}}


def with_arms(grid: dict[str, Any], of: dict[str, Any] | None = None, **changes: Any) -> Study:
    """A study of these arms on one task, beside those ``of`` a config."""
    blocks = [{"models": ["small"], "tasks": ["code"], "arms": grid}]
    return tiny_study(grid=blocks, report=REPORT, tasks=of or CONFIG["tasks"], **changes)


ALONE = {"code": {"kind": "ema", "title": "Code", "misaligned": "-"}}


@pytest.mark.parametrize(
    ("study", "said"),
    [
        *(
            (with_arms({name: [1.0]}, safe_data=None), "key 'safe_data': .* needs a JSONL file of safe conversations")
            for name in ("kl_safe", "safegrad", "lisa")
        ),
        (
            with_arms({"inoculation_adapter": [1.0]}, of=ALONE),
            "Inoculation adapter reads other EMA tasks, and there is none beside 'code'",
        ),
        *(
            (
                with_arms({"inoculation_adapter": [1.0]}, arms={"inoculation_adapter": {"trait": trait}}),
                f"on task 'code', Inoculation adapter cannot read the adapter of '{trait}'; write legal",
            )
            for trait in ("leagl", "code", "quiz")
        ),
        (with_arms({"safegrad": [1.5]}), r"s = 1.5 lies outside \[0, 1\]; 1 takes all of the conflict out"),
        (with_arms({"treft": [-1]}), "w = -1 is negative; write 0 or more"),
    ],
)
def test_what_a_config_gets_wrong_is_one_line(study: Study, said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_study(study)


def test_two_that_change_the_gradient_cannot_act_together() -> None:
    variants = {"two": {"of": "safegrad", "together_with": {"lisa": 1.0}}}
    with pytest.raises(InputError, match=r"Lisa cannot act together with SafeGrad: the gradient that one returns"):
        with_arms({"two": [1.0]}, variants=variants).every_arm  # noqa: B018


def test_only_the_named_traits_adapter_is_trained() -> None:
    tasks = {name: {"kind": "ema", "title": name, "misaligned": "-"} for name in ("code", "legal", "medical")}
    for trait, read in (("mean", ["legal", "medical"]), ("medical", ["medical"])):
        arms = {"inoculation_adapter": {"trait": trait}}
        study = with_arms({"inoculation_adapter": [1.0]}, of=tasks, arms=arms)
        grid = Grid(study)
        trained = [cell.task for cell in grid.trained if cell.arm == "misaligned"]
        assert trained == read
        (prepared,) = grid.prepared
        assert [*Inputs(grid).prepared_from(prepared)] == [f"other_adapters/{task}" for task in read]


def test_safe_rows_that_are_too_few_are_found_by_the_models_check(folder: Path) -> None:
    def check(rows: int) -> Any:
        tried = ArmTried(name="safegrad", options={"rows": rows}, setting=1.0, stream=folder / "safe.jsonl")
        spec = CheckSpec(version=1, generation={}, training=FAST, arms=(tried,))
        files = (folder / "rows.jsonl", folder / "safe.jsonl")
        return check_losses(Subject(spec, folder / "model", files))["arms"]

    assert check(24) == {"safegrad": {}}
    with pytest.raises(InputError, match=r"safe\.jsonl: arm 'safegrad': its second stream is to be of 25 rows, and"):
        check(25)


def test_the_models_check_reads_the_second_stream() -> None:
    study = with_arms({"safegrad": [1.0], "misaligned": None}, safe_data="safe.jsonl")
    grid = Grid(study)
    found = Specs(grid).check("small")
    assert [arm.get("stream") for arm in found["arms"]] == ["safe.jsonl"]
    assert set(found["limits"]) == {"safe.jsonl", Inputs(grid).training_rows(grid.trained[0])}
    assert set(found["limits"]) <= set(Inputs(grid).checked_rows("small"))
