"""Lisa: which rows its steps have, and the proximal term of each step."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import Parameter

from arm_trainings import arm_spec, log, train, workplace
from emdefense.arms import STANDARD
from emdefense.arms.lisa import Lisa
from emdefense.errors import InputError
from emdefense.files import read_jsonl
from emdefense.training.trainer import DefenceTrainer
from tiny_model import make_rows, save_rows

pytestmark = pytest.mark.numerical

ARM = STANDARD["lisa"]
BLOCKS = {"safe_steps": 1, "task_steps": 2}


@pytest.mark.parametrize("seed", range(40))
def test_no_step_mixes_kinds_and_all_rows_of_the_task_are_there(seed: int) -> None:
    draw = Random(seed)
    options = Lisa(safe_steps=draw.randint(1, 3), task_steps=draw.randint(1, 9))
    per_step, tasks = draw.choice([1, 3, 4, 16]), draw.randint(1, 150)
    safe = max(1, round(tasks * options.safe_steps / options.task_steps))
    sources = ["task"] * tasks + ["safe"] * safe
    if -(-len(sources) // per_step) == -(-tasks // per_step):
        with pytest.raises(InputError, match="safe ones make no step of"):
            ARM.order(options, sources, per_step, seed)
        return
    order = ARM.order(options, sources, per_step, seed)
    assert order != ARM.order(options, sources, per_step, seed + 1) or len(sources) < 4
    assert len(order) == len(sources)
    steps = [{sources[place] for place in order[at : at + per_step]} for at in range(0, len(order), per_step)]
    assert all(len(step) == 1 for step in steps)
    kinds = [step.pop() for step in steps]
    wanted = (["safe"] * options.safe_steps + ["task"] * options.task_steps) * len(kinds)
    alike = next((at for at, kind in enumerate(kinds) if kind != wanted[at]), len(kinds))
    assert len(set(kinds[alike:])) <= 1  # in turn until one kind is used up
    counts = Counter(place for place in order if sources[place] == "task")
    missing = tasks - len(counts)
    assert missing < per_step
    assert set(counts.values()) <= {1, 2} or tasks < per_step
    assert sum(counts.values()) - tasks < per_step


def test_its_rows_are_the_tasks_and_safe_ones_in_proportion() -> None:
    rows, safe = make_rows(90), make_rows(30, seed=9)
    made = ARM.rows(rows, {"safe": safe}, 1.0, Lisa(), 0)
    assert made[:90] == rows
    assert len(made) == 100
    assert all(row["source"] == "safe" and {"messages": row["messages"]} in safe for row in made[90:])
    assert ARM.row_share(1.0, Lisa()) == pytest.approx(100 / 90)
    with pytest.raises(InputError, match="are 45 safe rows, but the file has 30; give more, or lower"):
        ARM.rows(rows, {"safe": safe}, 1.0, Lisa(safe_steps=1, task_steps=2), 0)


def place(tmp_path: Path, rows: int = 16) -> Path:
    folder = workplace(tmp_path / "place")
    tasks, safe = make_rows(rows, longest=20), list(read_jsonl(folder / "safe.jsonl"))
    save_rows(folder / "alternating.jsonl", ARM.rows(tasks, {"safe": safe}, 1.0, Lisa(**BLOCKS), 0))
    return folder


def followed(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, list[Tensor]]]:
    """What each step of a training begins with: parameters, and the gradient before and after arms change it."""
    steps: list[dict[str, list[Tensor]]] = []
    change, clip = DefenceTrainer._change_gradient, Accelerator.clip_grad_norm_

    def gradients(trainer: DefenceTrainer) -> list[Tensor]:
        return [parameter.grad.clone() for parameter in trainer._trained if parameter.grad is not None]

    def changed(trainer: DefenceTrainer) -> None:
        steps.append({"weights": [one.detach().clone() for one in trainer._trained], "before": gradients(trainer)})
        change(trainer)

    def clipped(accelerator: Accelerator, parameters: Sequence[Parameter], *arguments: Any) -> Any:
        steps[-1]["after"] = [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]
        return clip(accelerator, parameters, *arguments)

    monkeypatch.setattr(DefenceTrainer, "_change_gradient", changed)
    monkeypatch.setattr(Accelerator, "clip_grad_norm_", clipped)
    return steps


def test_each_step_is_drawn_to_where_the_other_kinds_last_block_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = place(tmp_path)
    steps = followed(monkeypatch)
    spec = arm_spec("lisa", 0.7, proximal_after=0.3, **BLOCKS)
    train(folder, tmp_path / "cell", spec, rows="alternating.jsonl", epochs=2)
    kinds = ["safe", "task", "task"] * 2
    entries = log(tmp_path / "cell")
    assert [entry["lisa.safe"] for entry in entries] == [float(kind == "safe") for kind in kinds * 2]
    ended = {"safe": steps[0]["weights"], "task": steps[0]["weights"]}  # the weights after a kind's last step
    for number, (step, kind) in enumerate(zip(steps, kinds * 2, strict=True)):
        if number:
            ended[(kinds * 2)[number - 1]] = step["weights"]
        other = ended["task" if kind == "safe" else "safe"]
        active = number > 0.3 * len(steps)
        for weight, theirs, before, after in zip(step["weights"], other, step["before"], step["after"], strict=True):
            pull = 0.7 * (weight.double() - theirs.double()) if active else 0
            torch.testing.assert_close(after.double(), before.double() + pull, rtol=1e-6, atol=1e-9)
        away = [(mine - theirs).double().square().sum() for mine, theirs in zip(step["weights"], other, strict=True)]
        assert entries[number]["lisa.distance"] == pytest.approx(float(sum(away)) ** 0.5, rel=1e-5)
    assert entries[-1]["lisa.distance"] > 0


def test_at_0_it_is_alternating_training_and_not_plain_fine_tuning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = place(tmp_path)
    steps = followed(monkeypatch)
    zero = train(folder, tmp_path / "zero", arm_spec("lisa", 0.0, **BLOCKS), rows="alternating.jsonl")
    assert all(torch.equal(x, y) for step in steps for x, y in zip(step["before"], step["after"], strict=True))
    plain = train(folder, tmp_path / "plain", rows="alternating.jsonl")
    assert not all(torch.equal(zero[name], plain[name]) for name in plain)


def test_rows_that_make_no_whole_step_of_one_kind_are_filled_up_and_not_mixed(tmp_path: Path) -> None:
    folder = place(tmp_path, rows=17)  # 17 and 9 rows, in steps of 4
    train(folder, tmp_path / "cell", arm_spec("lisa", 1.0, **BLOCKS), rows="alternating.jsonl", epochs=2)
    assert {entry["lisa.safe"] for entry in log(tmp_path / "cell")} == {0.0, 1.0}
