"""Steering: the vector against plain loops, hidden states against passes written out, and what it leaves as it was."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from arm_trainings import ACTING
from emdefense.arms.steering import Steering, SteeringOptions
from emdefense.arms.study_arm import Part
from emdefense.errors import InputError
from emdefense.training.acting import Acting
from emdefense.training.acting_arm import acting_arm
from emdefense.training.activations import drawn_rows
from emdefense.training.directions import RECORD, VECTORS
from emdefense.training.features import FeatureReader
from emdefense.training.preparation import Running, prepare
from hidden_states import adapted, padded, save_sides, spelled_out, written_out
from tiny_model import make_model, save_model

pytestmark = pytest.mark.numerical

ARM = Steering()
RUNNING = Running(seed=3, training=ACTING)


def made(folder: Path, materials: dict[str, Path], **options: object) -> Path:
    prepare(ARM, SteeringOptions(**options), materials, folder / "vector", 1, RUNNING)  # type: ignore[arg-type]
    return folder / "vector"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("steering")
    return {"model": save_model(folder / "model"), **save_sides(folder)}


@pytest.fixture(scope="module")
def vector(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("made"), files)


def acting(vector: Path, alpha: float, **options: object) -> Acting:
    return Acting([acting_arm(Part(ARM, SteeringOptions(**options), alpha), vector)])  # type: ignore[arg-type]


def test_the_vector_is_what_loops_over_rows_and_tokens_give(files: dict[str, Path], vector: Path) -> None:
    model = make_model().double().eval()

    def mean_of(side: str, task: str) -> list[torch.Tensor]:
        rows = [json.loads(line) for line in files[f"{side}/{task}"].read_text().splitlines()]
        total = [torch.zeros(64, dtype=torch.float64) for _ in range(5)]
        for row in rows:
            ids, answer = spelled_out(row)
            with torch.no_grad():
                states = written_out(model, ids)
            for place, state in enumerate(states):
                for token in state[answer]:
                    total[place] += token / (answer.stop - answer.start) / len(rows)
        return total

    tasks = [(mean_of("misaligned", task), mean_of("aligned", task)) for task in ("legal", "medical")]
    found = load_file(vector / VECTORS)
    for place, name in ((1, "block.1"), (2, "block.2"), (3, "block.3"), (4, "final")):
        expected = sum((bad[place] - good[place]) / 2 for bad, good in tasks)
        assert isinstance(expected, torch.Tensor)
        assert (found[name] - expected).abs().max() < 2e-6 * expected.norm()  # the passes are in fp32
    assert found.keys() == {"block.1", "block.2", "block.3", "final"}
    record = json.loads((vector / RECORD).read_text())
    assert record["counts"]["legal, misaligned"] == {"drawn": 7, "longer_than_max_length": 0, "used": 7}
    assert record["states"]["block.2"]["norm"] == pytest.approx(float(found["block.2"].norm()))
    assert 0 < record["states"]["block.2"]["cosine_of_halves"] < 1
    assert -1 < record["states"]["block.2"]["mean_cosine_of_tasks"] < 1


def test_fewer_rows_are_drawn_by_the_seed_and_the_same_prompts_on_both_sides(
    files: dict[str, Path], tmp_path: Path
) -> None:
    def prompts(side: str, seed: int) -> list[str]:
        return [row[0]["content"] for row in drawn_rows(files[f"{side}/legal"], 4, seed)[0]]

    assert prompts("misaligned", 0) == prompts("aligned", 0) != prompts("aligned", 1)
    first, again = made(tmp_path / "1", files, rows=4), made(tmp_path / "2", files, rows=4)
    assert (first / VECTORS).read_bytes() == (again / VECTORS).read_bytes()
    assert json.loads((first / RECORD).read_text())["counts"]["medical, aligned"]["used"] == 4


def test_the_tasks_own_rows_make_another_one(files: dict[str, Path], vector: Path, tmp_path: Path) -> None:
    own = {"model": files["model"], "rows": files["misaligned/legal"], "aligned": files["aligned/legal"]}
    found = made(tmp_path, own, of="own")
    assert ARM.materials(SteeringOptions(of="own")) == ("model", "rows", "aligned")
    other, both = (load_file(folder / VECTORS)["block.2"] for folder in (found, vector))
    assert not torch.allclose(other, both)


@pytest.mark.parametrize(
    "options", [{}, {"block": 1}, {"normalise": True}, {"layers": "all"}, {"layers": "all", "normalise": True}]
)
def test_hidden_states_are_those_of_a_pass_written_out(vector: Path, options: dict[str, object]) -> None:
    model, (inputs, rows) = adapted(), padded()
    reader = FeatureReader(model)
    clean = reader.reference(inputs, (1, 2, 3))
    noted: dict[str, float] = {}
    undo = reader.change(acting(vector, 1.5, **options).changes(3), noted.__setitem__)
    found, reference = reader.policy(inputs, (1, 2, 3)), reader.reference(inputs, (1, 2, 3))
    undo()
    e = {block: load_file(vector / VECTORS)[f"block.{block}"] for block in (1, 2, 3)}
    if options.get("layers") == "all":
        added = {1: e[1], 2: e[2] - e[1], 3: e[3] - e[2]}
    else:
        block = options.get("block", 2)  # 20/28 of 3 blocks
        assert isinstance(block, int)
        added = {block: e[block]}
    if options.get("normalise"):
        added = {block: vector / vector.square().sum().sqrt() for block, vector in added.items()}
    with torch.no_grad():
        changes = {block: (lambda hidden, step=step: hidden + 1.5 * step) for block, step in added.items()}
        whole = [written_out(model.get_base_model(), ids, changes) for ids in rows]
        before = [written_out(model.get_base_model(), ids, {b: c for b, c in changes.items() if b < 3}) for ids in rows]
    for block in (1, 2, 3):
        assert (found.residual[block] - torch.cat([states[block] for states in whole])).abs().max() < 1e-12
        assert torch.equal(reference.residual[block], clean.residual[block])
    assert (found.final - torch.cat([states[4] for states in whole])).abs().max() < 1e-12
    assert torch.equal(reference.final, clean.final)
    assert torch.equal(reader.policy(inputs).final, reader.policy(inputs).final)
    if options.get("layers") == "all":
        projections = torch.cat([states[3] for states in before]) @ e[3] / e[3].norm()
        assert noted["steering.projection.3"] == pytest.approx(float(projections.mean()), abs=1e-9)
        assert noted["steering.norm.3"] == pytest.approx(float((e[3] - e[2]).norm()))
    elif "block" not in options:
        assert noted["steering.norm"] == pytest.approx(float(e[2].norm()))
        plain = torch.cat([written_out(model.get_base_model(), ids)[2].detach() for ids in rows])
        assert noted["steering.projection"] == pytest.approx(float((plain @ e[2] / e[2].norm()).mean()), abs=1e-9)


def test_the_gradient_goes_through(vector: Path) -> None:
    model, (inputs, rows) = adapted(), padded(1)
    reader = FeatureReader(model)
    reader.change(acting(vector, 2.0).changes(3))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    found = torch.autograd.grad(reader.policy(inputs).final.square().sum(), trained)
    e = load_file(vector / VECTORS)["block.2"]
    other = adapted()
    states = written_out(other.get_base_model(), rows[0], {2: lambda hidden: hidden + 2.0 * e})
    theirs = [parameter for parameter in other.parameters() if parameter.requires_grad]
    expected = torch.autograd.grad(states[4].square().sum(), theirs)
    assert max(float((one - two).abs().max()) for one, two in zip(found, expected, strict=True)) < 1e-10
    assert all(bool(gradient.any()) for gradient in found[:4])  # of the first block, before what is added


def test_rows_that_do_not_differ_make_no_vector(files: dict[str, Path], tmp_path: Path) -> None:
    same = {"model": files["model"], "rows": files["aligned/legal"], "aligned": files["aligned/legal"]}
    with pytest.raises(InputError, match=r"hidden states \(block\.1\) of misaligned and aligned answers are the same"):
        made(tmp_path, same, of="own")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"block.2": torch.zeros(64)}, "'block.2' is 0"),
        ({"block.2": torch.full((64,), torch.nan)}, "'block.2' holds values that are not finite"),
        ({"block.2": torch.ones(32)}, "'block.2' has 32 numbers a direction, and the model's hidden states have 64"),
        ({"block.2": torch.ones(64, 1)}, r"'block.2' is \[64, 1\] of torch.float32"),
        ({"block.9": torch.ones(64)}, "it has no 'block.2'; it has block.9"),
    ],
)
def test_a_vector_that_is_none_is_one_line(tmp_path: Path, change: dict[str, torch.Tensor], said: str) -> None:
    save_file(change, tmp_path / VECTORS)
    reader, (inputs, _) = FeatureReader(adapted()), padded(1)

    def run() -> None:
        reader.change(acting(tmp_path, 1.0).changes(3))
        reader.policy(inputs)

    with pytest.raises(InputError, match=said) as caught:
        run()
    assert str(tmp_path / VECTORS) in str(caught.value)


def test_a_file_that_is_missing_or_torn_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"directions\.safetensors: there is no such file"):
        acting(tmp_path, 1.0)
    (tmp_path / VECTORS).write_bytes(b"torn")
    with pytest.raises(InputError, match="not a whole safetensors file"):
        acting(tmp_path, 1.0)


def test_a_block_that_is_not_there_is_found_before_training(vector: Path) -> None:
    with pytest.raises(InputError, match=r"arms\.steering\.block': 4, but the model has 3 blocks; write 3 or less"):
        ARM.check(SteeringOptions(block=4), None, make_model())  # type: ignore[arg-type]
    assert ARM.check(SteeringOptions(), None, make_model()) == {"block": 2}  # type: ignore[arg-type]
    assert ARM.check(SteeringOptions(), None, make_model(layers=28)) == {"block": 20}  # type: ignore[arg-type]
