"""Hooks of a study's own arms: each is tried before anything is trained, and what it does wrong is one line."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from emdefense.arms.own import find_arm, given_arm
from emdefense.data.arm_rows import arm_rows
from emdefense.errors import InputError
from emdefense.files import file_digest, read_json
from emdefense.machine_limits import lack
from emdefense.model_checks.losses import check_losses
from emdefense.model_checks.subject import CheckSpec, Subject
from emdefense.training.adapter_files import read_tensors
from emdefense.training.changed_adapter import change_adapter
from emdefense.training.preparation import prepare
from emdefense.training.reference_features import cache_features
from emdefense.training.run import train_cell
from emdefense.training.spec import FeaturesSpec, TrainSpec
from same_training import assert_same_change
from tiny_model import make_rows, save_model, save_rows
from trainings import FAST

HEAD = """
from pathlib import Path

from emdefense.arms import Arm, Options, Setting

class Mine(Arm[Options]):
    name = "mine"
    title = "Mine"
    setting = Setting()
"""
TOKEN = """
    def token_term(self, options, policy, reference):
        return (policy.exp() * (policy - reference)).sum(-1)
"""
FEATURE = """
    def residual_blocks(self, options, blocks):
        return (1, blocks)

    def feature_term(self, options, batch, policy, reference):
        distances = sum((policy.residual[b] - reference.residual[b]).square().sum(-1) for b in policy.residual)
        return batch.weights("all", "token_mean").to(distances) @ distances
"""
HEAD_TERM = """
    def head_term(self, options, batch, reference):
        from emdefense.training.divergence import Divergence

        return Divergence(reference.final, batch.weights("all", "token_mean"), False)
"""
ADAPTER = """
    preparation = "made"
    prepared_from = ("adapter", "model", "rows")

    def prepare(self, materials, options, out):
        assert materials["rows"].is_file() and (materials["model"] / "config.json").is_file()
        (out / "scale").write_text("0.5")

    def adapter(self, finished, setting, options):
        from safetensors.torch import load_file
        scale = float((finished.preparation / "scale").read_text())
        finished.record["scaled"] = scale
        return {name: scale * x if "lora_B" in name else x for name, x in finished.tensors.items()}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    save_model(folder / "model")
    save_rows(folder / "rows.jsonl", make_rows(6))
    return folder


def tried(model: Path, file: Path, source: str, **spec: Any) -> None:
    """Have the model's check try an arm."""
    file.write_text(source)
    arm = {"name": "mine", "file": str(file), "sha256": file_digest(file), "setting": 0.5}
    training = FAST.model_dump(mode="json")
    checked = CheckSpec(version=1, generation={}, training=training, arms=[arm], **spec)
    check_losses(Subject(checked, model / "model", (model / "rows.jsonl",)))


@pytest.mark.parametrize("hooks", [TOKEN, FEATURE, HEAD_TERM, ADAPTER], ids=["token", "feature", "head", "adapter"])
def test_a_right_hook_passes(hooks: str, model: Path, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    tried(model, tmp_path / "mine.py", HEAD + hooks)
    assert torch.equal(torch.get_rng_state(), state)


SUM = ".sum(-1)\n"
WRONG = [
    (
        TOKEN,
        "policy.exp()",
        "policy.xep()",
        "hook token_term, line 12: AttributeError: 'Tensor' object has no attribute",
    ),
    (TOKEN, SUM, ".sum()\n", "hook token_term: it returned a tensor of shape [], and ["),
    (TOKEN, SUM, "\n", "hook token_term: it returned a tensor of shape ["),
    (TOKEN, "return", "return None and", "hook token_term: it returned NoneType, and ["),
    (TOKEN, SUM, ".sum(-1).detach()\n", "hook token_term: no gradient reaches the model through what it returned"),
    (TOKEN, SUM, ".sum(-1).sqrt()\n", "on a row of data its penalty, or the gradient, is not finite"),
    (TOKEN, "options, policy, reference", "policy", "hook token_term: TypeError: "),
    (TOKEN, "        return", "        exit(1)\n        return", "hook token_term, line 12: SystemExit: 1"),
    (FEATURE, "return (1, blocks)", "return [1]", "hook residual_blocks: [1] is no tuple of numbers from 1 to 3"),
    (FEATURE, "return (1, blocks)", "return (0,)", "hook residual_blocks: (0,) is no tuple of numbers from 1 to 3"),
    (FEATURE, "return (1, blocks)", "return (4,)", "hook residual_blocks: (4,) is no tuple of numbers from 1 to 3"),
    (FEATURE, "return (1, blocks)", "return (True,)", "hook residual_blocks: (True,) is no tuple"),
    (FEATURE, "return (1, blocks)", "return blocks[0]", "hook residual_blocks, line 12: TypeError"),
    (FEATURE, " @ distances", "", "hook feature_term: it returned a tensor of shape ["),
    (FEATURE, " @ distances", " @ distances.detach()", "hook feature_term: no gradient reaches the model"),
    (FEATURE, "return batch", "batch", "hook feature_term: it returned NoneType, and a scalar tensor is needed"),
    (FEATURE, "residual[b] -", "residual[9] -", "hook feature_term, line 15: KeyError: 9"),
    (FEATURE, ".square().sum(-1)", ".norm(dim=-1) / 0", "on a row of data its penalty, or the gradient, is not finite"),
    (FEATURE, "        distances", "        policy.final.mul_(2)\n        distances", "changes hidden states in place"),
    (HEAD_TERM, "return Divergence", "return 3, Divergence", "hook head_term: it returned tuple, and weights ["),
    (HEAD_TERM, '"all", "token_mean")', '"all", "token_mean")[:-1]', "hook head_term: it returned Divergence, and"),
    (HEAD_TERM, "reference.final", "None", "hook head_term"),
    (ADAPTER, "(out / ", "(out / 'x' / ", "hook prepare, line 16: FileNotFoundError"),
    (ADAPTER, '(out / "scale").write_text("0.5")', "pass", "hook prepare: it wrote nothing into the folder"),
    (ADAPTER, 'materials["rows"]', 'materials["base"]', "hook prepare, line 15: KeyError: 'base'"),
    (ADAPTER, "return {name", "return {name + 'x'", "the tensors that it returned are not the adapter's: 'base_model."),
    (ADAPTER, "return {", "{", "hook adapter: it returned NoneType, and a dict of tensors is needed"),
    (ADAPTER, "scale * x if", "x[:1] if", "is no tensor of shape ["),
    (ADAPTER, "scale * x if", "x.double() if", "and type torch.float32"),
    (ADAPTER, "scale * x if", "x / 0 if", "is not finite"),
    (ADAPTER, "scale * x if", "3 if", "is no tensor of shape ["),
    (ADAPTER, '["scaled"] = scale', '["scaled"] = finished', "hook adapter: record holds what JSON does not"),
    (
        TOKEN,
        "\n    def",
        "\n    def check(self, *_): return None\n\n    def",
        "hook check: it returned no mapping that JSON holds",
    ),
    (
        TOKEN,
        "\n    def",
        "\n    def check(self, *_): return {1: {2}}\n\n    def",
        "hook check: it returned no mapping that",
    ),
    (TOKEN, "\n    def", "\n    def check(self, *_): 1 / 0\n\n    def", "hook check, line 11: ZeroDivisionError"),
    (ADAPTER, 'finished.preparation / "scale"', 'finished.preparation / "sale"', "hook adapter, line 20: FileNotFound"),
]


@pytest.mark.parametrize(("hooks", "old", "new", "said"), WRONG)
def test_a_wrong_hook_is_one_line(hooks: str, old: str, new: str, said: str, model: Path, tmp_path: Path) -> None:
    assert old in hooks
    file = tmp_path / "mine.py"
    with pytest.raises(InputError) as error:
        tried(model, file, HEAD + hooks.replace(old, new, 1))
    line = str(error.value)
    assert "\n" not in line
    assert line.startswith(f"{file}: arm 'mine'")
    assert said in line


def test_a_hooks_own_refusal_names_file_and_arm_and_want_of_memory_stays_one(model: Path, tmp_path: Path) -> None:
    raised = "        from emdefense.errors import InputError\n        raise InputError('too few blocks')\n"
    with pytest.raises(InputError, match=r"mine\.py: arm 'mine', hook residual_blocks, line 13: too few blocks$"):
        tried(model, tmp_path / "mine.py", HEAD + FEATURE.replace("        return (1", raised + "        return (1"))
    with pytest.raises(MemoryError) as error:
        tried(
            model,
            tmp_path / "mine.py",
            HEAD + TOKEN.replace("        return", "        raise MemoryError\n        return"),
        )
    assert lack(error.value)


ROWS = """
    def rows(self, rows, more, setting, options, seed):
        return rows[: round(len(rows) * setting)]
"""
TASK = [{"messages": [{"role": "user", "content": str(n)}, {"role": "assistant", "content": "a"}]} for n in range(4)]


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ("None", "it returned no rows; return a list of conversations"),
        ("[]", "it returned no rows"),
        ("iter(rows)", "it returned no rows"),
        ("[*rows, 'a']", "row 5 of what it returned: it is a str, and no conversation"),
        ("[{}]", "row 1 of what it returned: expected"),
        ("[{'messages': rows[0]['messages'][:1]}]", "row 1 of what it returned: the row has no answer"),
        ("[{**rows[0], 'x': {1}}]", "row 1 of what it returned: Object of type set is not JSON serializable"),
        ("more['safe']", ", line 12: KeyError: 'safe'"),
        ("rows[9]", ", line 12: IndexError: list index out of range"),
    ],
)
def test_rows_that_are_none_are_one_line(returned: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(HEAD + ROWS.replace("rows[: round(len(rows) * setting)]", returned))
    arm = find_arm("mine", str(file))
    with pytest.raises(InputError) as error:
        arm_rows(arm, list(TASK), {}, 0.5, arm.options(), 0)
    assert str(error.value).startswith(f"{file}: arm 'mine', hook rows")
    assert said in str(error.value)


def test_rows_are_what_the_hook_makes_of_them(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(HEAD + ROWS)
    arm, options, setting = given_arm("mine", str(file), {"version": 1, "seed": 0, "coefficient": 0.5})
    assert arm_rows(arm, list(TASK), {}, setting, options, 0) == TASK[:2]


def test_a_job_does_not_run_another_file_than_was_planned(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(HEAD + ROWS)
    spec = {"version": 1, "seed": 0, "coefficient": 0.5, "sha256": file_digest(file)}
    given_arm("mine", str(file), spec)
    file.write_text(HEAD + ROWS + "# changed\n")
    with pytest.raises(InputError, match=r"mine\.py: it has changed since this job was planned; run the same command"):
        given_arm("mine", str(file), spec)
    penalty = {"name": "mine", "file": str(file), "sha256": spec["sha256"], "coefficient": 1}
    with pytest.raises(InputError, match="has changed since"):
        TrainSpec(version=1, seed=0, training=FAST, penalty=penalty).penalty.build()


def train(model: Path, cell: Path, file: Path | None, reference: str = "live") -> dict[str, Tensor]:
    """Return an adapter's tensors, trained with an arm of a file, or plainly."""
    training = FAST.model_copy(update={"reference": reference, "epochs": 3})
    named = file and {"name": "mine", "file": str(file), "sha256": file_digest(file), "coefficient": 30.0}
    features = None
    if file and reference == "cached":
        features = cell / "features"
        asked = {"penalty": "mine", "file": str(file), "sha256": file_digest(file)}
        cache_features(
            FeaturesSpec(version=1, training=training, **asked), model / "model", model / "rows.jsonl", features
        )
    spec = TrainSpec(version=1, seed=0, training=training, penalty=named)
    train_cell(spec, model / "model", model / "rows.jsonl", cell, features=features)
    tensors: dict[str, Tensor] = load_file(cell / "adapter/adapter_model.safetensors")
    return tensors


def test_a_token_term_by_autograd_trains_as_the_pipelines_fused_one(model: Path, tmp_path: Path) -> None:
    trained = {}
    for name, hooks in (("token", TOKEN), ("head", HEAD_TERM), ("feature", FEATURE)):
        file = tmp_path / f"{name}.py"
        file.write_text(HEAD + hooks)
        trained[name] = train(model, tmp_path / name, file)
    plain = train(model, tmp_path / "plain", None)
    trained["cached"] = train(model, tmp_path / "cached", tmp_path / "feature.py", "cached")
    for one, same in (("token", "head"), ("feature", "cached")):
        assert_same_change(trained[one], trained[same])
        with pytest.raises(AssertionError, match="apart after a way"):
            assert_same_change(trained[one], plain)
    record = read_json(tmp_path / "token/provenance.json")["spec"]["penalty"]
    assert (record["file"], record["sha256"]) == (str(tmp_path / "token.py"), file_digest(tmp_path / "token.py"))


def test_an_adapter_is_changed_as_the_hook_says(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    # B of one shape are one tensor: safetensors saves none that share memory.
    shared = ADAPTER.replace("        return {", "        shared = {}\n        return {")
    shared = shared.replace("scale * x if", "shared.setdefault(x.shape, x * 0 + scale) if")
    file.write_text(HEAD + shared)
    train(model, tmp_path / "plain", None)
    arm, options, setting = given_arm("mine", str(file), {"coefficient": 0.5, "sha256": file_digest(file)})
    adapter, rows = tmp_path / "plain/adapter", model / "rows.jsonl"
    prepare(arm, options, {"adapter": adapter, "model": model / "model", "rows": rows}, tmp_path / "made")
    change_adapter(arm, options, setting, adapter, tmp_path / "made", tmp_path / "cell")
    before, after = (
        read_tensors(folder / "adapter_model.safetensors") for folder in (adapter, tmp_path / "cell/adapter")
    )
    assert all(
        (after[name] == 0.5).all() if "lora_B" in name else torch.equal(after[name], before[name]) for name in before
    )
    record = read_json(tmp_path / "cell/provenance.json")
    assert (record["scaled"], record["coefficient"]) == (0.5, 0.5)
    assert record["arm"] == {"file": str(file), "sha256": file_digest(file)}
