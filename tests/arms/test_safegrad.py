"""SafeGrad: the projected gradient by hand, its conflict, and how many safe rows it reads."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from arm_trainings import (
    arm_spec,
    cross_entropy,
    divergence,
    farthest,
    log,
    moved_model,
    step_gradient,
    train,
    trained_parameters,
    workplace,
)
from emdefense.arms import STANDARD, Step
from emdefense.arms.safegrad import SafeGrad
from emdefense.arms.study_arm import Part
from emdefense.chat.chat import Chat
from emdefense.errors import InputError
from emdefense.training.acting import Acting
from emdefense.training.acting_arm import acting_arm
from tiny_model import make_rows, make_tokenizer, save_rows

pytestmark = pytest.mark.numerical


def by_hand(task: Any, align: Any, strength: float, rho: float) -> Any:
    """Algorithm 1 on one long vector, in numpy."""
    product = float(np.dot(task, align))
    projected = task - product / float(np.dot(align, align)) * align if product < 0 else task
    return task + strength * (projected + rho * align - task)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("strength", "rho"), [(1.0, 0.0), (1.0, 1.0), (0.4, 0.5)])
def test_a_step_is_projected_where_both_are_in_conflict(sign: int, strength: float, rho: float) -> None:
    draw = np.random.default_rng(4)
    task, align = draw.normal(size=30), draw.normal(size=30)
    align *= sign * np.sign(np.dot(task, align))
    split = (np.s_[:18], np.s_[18:])
    recorded: dict[str, float] = {}
    step = Step(
        1,
        9,
        [torch.zeros(3, 6), torch.zeros(12)],
        [torch.tensor(task[part]) for part in split],
        [torch.tensor(align[part]) for part in split],
        {"task": 4},
        {},
        recorded.__setitem__,
    )
    found = torch.cat(list(STANDARD["safegrad"].gradient(SafeGrad(rho=rho), strength, step))).numpy()
    np.testing.assert_allclose(found, by_hand(task, align, strength, rho), rtol=1e-12)
    cosine = np.dot(task, align) / np.linalg.norm(task) / np.linalg.norm(align)
    assert recorded == pytest.approx(
        {"cosine": cosine, "align_norm": np.linalg.norm(align), "conflicts": float(sign < 0)}, rel=1e-12
    )
    if sign < 0 and (strength, rho) == (1, 0):
        assert abs(np.dot(found, align)) < 1e-12 < abs(np.dot(task, align))


def test_a_trainings_step_is_projected_over_all_parameters_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = Part(STANDARD["safegrad"], SafeGrad(rows=5, rows_per_step=3), 1.0)
    rows, safe = make_rows(4, longest=20), make_rows(9, seed=9, longest=20)
    conflicts = []
    for seed, descents in ((0, 0), (0, 3), (1, 3)):  # the further the task's loss falls, the more both disagree
        model = moved_model(seed, 0.01)
        trained = trained_parameters(model)
        for _ in range(descents):
            downhill = torch.autograd.grad(cross_entropy(model, rows), trained)
            for parameter, gradient in zip(trained, downhill, strict=True):
                parameter.data -= 0.3 * gradient
        tokenised = Chat(make_tokenizer()).rows([row["messages"] for row in safe])
        drawn = Acting([acting_arm(part)], tokenised, 3).stream_rows(1)
        found = step_gradient(monkeypatch, tmp_path, model, part, rows, safe)
        task = torch.autograd.grad(cross_entropy(model, rows), trained)
        align = torch.autograd.grad(divergence(model, [safe[row["row"]] for row in drawn], reverse=True), trained)
        flat_task, flat_align = (torch.cat([one.flatten() for one in of]).numpy() for of in (task, align))
        expected = torch.tensor(by_hand(flat_task, flat_align, 1.0, 1.0))
        assert farthest([torch.cat([one.flatten() for one in found])], [expected]) < 1e-11
        conflicts.append(bool(np.dot(flat_task, flat_align) < 0))
    assert set(conflicts) == {False, True}  # which of them is in conflict depends on how a processor rounds


def test_the_second_stream_is_of_as_many_rows_as_asked_and_fewer_are_among_more() -> None:
    safe = Chat(make_tokenizer()).rows([row["messages"] for row in make_rows(30, seed=9)])

    def drawn(rows: int, seed: int = 3) -> set[int]:
        part = Part(STANDARD["safegrad"], SafeGrad(rows=rows, rows_per_step=4), 1.0)
        acting = Acting([acting_arm(part)], safe, seed)
        return {row["row"] for step in range(1, 12) for row in acting.stream_rows(step)}

    assert [len(drawn(rows)) for rows in (1, 5, 20, 30)] == [1, 5, 20, 30]
    assert drawn(5) < drawn(20)
    assert drawn(5) != drawn(5, seed=4)


def test_its_log_says_how_often_both_are_in_conflict(tmp_path: Path) -> None:
    folder = workplace(tmp_path / "place")
    train(folder, tmp_path / "cell", arm_spec("safegrad", 1.0))
    entries = log(tmp_path / "cell")
    in_conflict = 0
    for number, entry in enumerate(entries, start=1):
        in_conflict += entry["safegrad.cosine"] < 0
        assert entry["safegrad.conflicts"] == pytest.approx(in_conflict / number)
    assert entries[0]["safegrad.align_norm"] == 0 < entries[-1]["safegrad.align_norm"]


def test_fewer_safe_rows_than_asked_for_are_one_line(tmp_path: Path) -> None:
    folder = workplace(tmp_path / "place")
    save_rows(folder / "safe.jsonl", make_rows(19))
    with pytest.raises(InputError, match="to be of 20 rows, and there are 19; ask for fewer, or give more"):
        train(folder, tmp_path / "cell", arm_spec("safegrad", 1.0))
