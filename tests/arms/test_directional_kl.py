"""Directional KL: penalty and gradient against autograd through the model's logits, and what it leaves free."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from arm_trainings import ACTING
from emdefense.arms.directional_kl import DirectionalKL, DirectionalKLOptions
from emdefense.arms.study_arm import Part
from emdefense.errors import InputError
from emdefense.training.acting_arm import acting_arm
from emdefense.training.directions import VECTORS
from emdefense.training.features import FeatureReader
from emdefense.training.loss import DefenceLoss
from emdefense.training.preparation import Running, prepare
from emdefense.training.token_batch import WindowCounts
from hidden_states import adapted, padded, save_sides
from tiny_model import save_model

pytestmark = pytest.mark.numerical

ARM = DirectionalKL()


@pytest.fixture(scope="module")
def direction(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("direction")
    files = {"model": save_model(folder / "model"), **save_sides(folder)}
    prepare(ARM, DirectionalKLOptions(), files, folder / "direction", 1, Running(training=ACTING))
    return folder / "direction"


def loss_of(folder: Path, reader: FeatureReader) -> DefenceLoss:
    arm = acting_arm(Part(ARM, DirectionalKLOptions(), 0.7), folder)
    assert arm.penalty
    return DefenceLoss(reader, more=[(0.7, arm.penalty)])


def counts(inputs: dict[str, Tensor]) -> WindowCounts:
    labels = int((inputs["labels"][:, 1:] != -100).sum())
    return WindowCounts(labels, int(inputs["attention_mask"].sum()), len(inputs["input_ids"]))


def test_penalty_and_gradient_are_autograds_through_the_logits(direction: Path) -> None:
    model, (inputs, _) = adapted(), padded()
    mask = inputs["attention_mask"].bool()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    total = loss_of(direction, FeatureReader(model))(inputs, counts(inputs))
    found = torch.autograd.grad(total.total, trained)

    def states() -> Tensor:
        output: Tensor = model.model.model(inputs["input_ids"], attention_mask=inputs["attention_mask"])[0]
        return output

    e = load_file(direction / VECTORS)["final"]
    e = e / e.square().sum().sqrt()
    with torch.no_grad(), model.disable_adapter():
        before = states()
    now = states()
    along = sum(e[place] * (now - before)[..., place] for place in range(64))
    assert isinstance(along, Tensor)
    moved = before + along[..., None] * e
    head = model.model.lm_head.weight
    policy, reference = (moved @ head.T).log_softmax(-1), (before @ head.T).log_softmax(-1)
    penalty = (policy.exp() * (policy - reference)).sum(-1)[mask].mean()
    logits = (now @ head.T)[:, :-1].flatten(0, 1)
    ce = torch.nn.functional.cross_entropy(logits, inputs["labels"][:, 1:].flatten())
    expected = torch.autograd.grad(ce + 0.7 * penalty, trained)
    assert total.penalty.item() == pytest.approx(penalty.item(), rel=1e-12)
    assert penalty.item() > 1e-6
    assert max(float((one - two).abs().max()) for one, two in zip(found, expected, strict=True)) < 1e-12


def test_its_gradient_by_hidden_states_lies_along_the_direction_and_what_is_orthogonal_is_free(
    direction: Path,
) -> None:
    model, (inputs, _) = adapted(), padded()
    arm = acting_arm(Part(ARM, DirectionalKLOptions(), 1.0), direction)
    assert arm.penalty
    reader = FeatureReader(model)
    reference = reader.reference(inputs).final
    e = load_file(direction / VECTORS)["final"]
    e = e / e.norm()
    policy = (reference + 0.1 * torch.randn(reference.shape, dtype=torch.float64)).requires_grad_()
    states = arm.penalty.head_states(policy, reference)
    (gradient,) = torch.autograd.grad(states.pow(3).sum(), policy)
    assert (gradient - torch.outer(gradient @ e, e)).abs().max() < 1e-12
    orthogonal = policy - torch.outer((policy - reference) @ e, e)
    assert (arm.penalty.head_states(orthogonal, reference) - reference).abs().max() < 1e-12


def test_to_second_order_it_is_the_squared_change_weighted_by_what_the_head_makes_of_it(direction: Path) -> None:
    """As the docstring says: c²/2 · eᵀWᵀ(diag p − ppᵀ)We."""
    model, (inputs, _) = adapted(), padded(1)
    reader, small = FeatureReader(model), 1e-4
    reference = reader.reference(inputs).final
    e = load_file(direction / VECTORS)["final"]
    e = e / e.norm()
    moved = reference + small * e
    arm = acting_arm(Part(ARM, DirectionalKLOptions(), 1.0), direction)
    assert arm.penalty
    head = model.model.lm_head.weight.detach()
    states = arm.penalty.head_states(moved, reference)
    policy, before = (states @ head.T).log_softmax(-1), (reference @ head.T).log_softmax(-1)
    found = (policy.exp() * (policy - before)).sum(-1)
    p, seen = before.exp(), head @ e
    expected = small**2 / 2 * ((p * seen**2).sum(-1) - (p @ seen) ** 2)
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-2)


def test_a_direction_of_another_width_is_one_line(tmp_path: Path) -> None:
    save_file({"final": torch.ones(32)}, tmp_path / VECTORS)
    model, (inputs, _) = adapted(), padded(1)
    loss = loss_of(tmp_path, FeatureReader(model))
    with pytest.raises(InputError, match="'final' has 32 numbers a direction, and the model's hidden states have 64"):
        loss(inputs, counts(inputs))
