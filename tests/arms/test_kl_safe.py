"""KL on safe rows: the gradient of a step against the model's own logits."""

from pathlib import Path

import pytest
import torch

from arm_trainings import cross_entropy, divergence, farthest, moved_model, step_gradient, trained_parameters
from emdefense.arms import STANDARD
from emdefense.arms.kl_safe import KLSafe
from emdefense.arms.study_arm import Part
from emdefense.chat.chat import Chat
from emdefense.training.acting import Acting
from emdefense.training.acting_arm import acting_arm
from tiny_model import make_rows, make_tokenizer

pytestmark = pytest.mark.numerical


@pytest.mark.parametrize("reverse", [False, True], ids=["policy", "reference"])
def test_the_divergence_is_of_safe_rows_and_the_cross_entropy_of_the_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reverse: bool
) -> None:
    direction = "reference_to_policy" if reverse else "policy_to_reference"
    options = KLSafe(rows_per_step=3, direction=direction)
    part = Part(STANDARD["kl_safe"], options, 0.7)
    rows, safe = make_rows(4, longest=20), make_rows(8, seed=9, longest=20)
    drawn = Acting([acting_arm(part)], Chat(make_tokenizer()).rows([row["messages"] for row in safe]), 3).stream_rows(1)
    assert len({row["row"] for row in drawn}) == 3
    model = moved_model()
    found = step_gradient(monkeypatch, tmp_path, model, part, rows, safe)
    loss = cross_entropy(model, rows) + 0.7 * divergence(model, [safe[row["row"]] for row in drawn], reverse)
    expected = torch.autograd.grad(loss, trained_parameters(model))
    assert farthest(found, expected) < 1e-12
