"""The fused head loss against the naive float64 form."""

import pytest
import torch
from torch import Tensor

from emdefense.training.fused_loss import CrossEntropy, HeadTerm, cross_entropy, fused_head_loss
from emdefense.training.penalties.kl import Divergence

TOKENS, WIDTH, VOCABULARY = 37, 12, 101


@pytest.fixture
def problem() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    targets = torch.randint(VOCABULARY, (TOKENS,), generator=generator)
    targets[::3] = -100
    kl_weights = draw(TOKENS).abs()
    kl_weights[5:9] = 0
    return {
        "hidden": draw(TOKENS, WIDTH),
        "reference": draw(TOKENS, WIDTH),
        "head": draw(VOCABULARY, WIDTH),
        "targets": targets,
        "ce_weights": draw(TOKENS).abs() * (targets != -100),
        "kl_weights": kl_weights,
    }


def naive(problem: dict[str, Tensor], coefficient: float, reverse: bool) -> tuple[Tensor, Tensor]:
    """Loss and gradient by autograd through the full logits."""
    hidden = problem["hidden"].clone().requires_grad_()
    policy = torch.log_softmax(hidden @ problem["head"].t(), -1)
    reference = torch.log_softmax(problem["reference"] @ problem["head"].t(), -1)
    ce = torch.nn.functional.nll_loss(policy, problem["targets"], ignore_index=-100, reduction="none")
    p, q = (reference, policy) if reverse else (policy, reference)
    kl = torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(-1)
    loss = problem["ce_weights"] @ ce + coefficient * problem["kl_weights"] @ kl
    loss.backward()
    assert hidden.grad is not None
    return loss.detach(), hidden.grad


def fused(
    problem: dict[str, Tensor], coefficient: float, reverse: bool, chunk: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    hidden = problem["hidden"].detach().to(dtype, copy=True).requires_grad_()
    terms: list[tuple[float, HeadTerm]] = [
        (1.0, CrossEntropy(problem["targets"], problem["ce_weights"])),
        (coefficient, Divergence(problem["reference"].to(dtype), problem["kl_weights"], reverse)),
    ]
    loss, values = fused_head_loss(hidden, problem["head"].to(dtype), terms, chunk * VOCABULARY)
    loss.backward()
    assert hidden.grad is not None
    return loss.detach(), hidden.grad, values


@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("coefficient", [0.0, 0.1, 3.0])
def test_loss_and_gradient_equal_the_naive_ones(
    problem: dict[str, Tensor], coefficient: float, reverse: bool, chunk: int
) -> None:
    loss, gradient, values = fused(problem, coefficient, reverse, chunk)
    expected_loss, expected_gradient = naive(problem, coefficient, reverse)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(values[0] + coefficient * values[1], loss)


@pytest.mark.parametrize("reverse", [False, True])
def test_the_gradient_passes_gradcheck(problem: dict[str, Tensor], reverse: bool) -> None:
    terms: list[tuple[float, HeadTerm]] = [
        (0.7, Divergence(problem["reference"], problem["kl_weights"], reverse)),
        (1.0, CrossEntropy(problem["targets"], problem["ce_weights"])),
    ]
    hidden = problem["hidden"].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: fused_head_loss(x, problem["head"], terms, 500)[0], (hidden,))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_divergence_from_itself_is_exactly_zero(
    problem: dict[str, Tensor], dtype: torch.dtype, reverse: bool
) -> None:
    hidden = problem["hidden"].to(dtype).requires_grad_()
    term = Divergence(hidden.detach().clone(), problem["kl_weights"], reverse)
    loss, _ = fused_head_loss(hidden, problem["head"].to(dtype), [(1.0, term)], 700)
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad is not None
    assert not hidden.grad.any()


def test_a_divergence_near_zero_keeps_its_gradient_in_bfloat16(problem: dict[str, Tensor]) -> None:
    """Hidden states and head in bfloat16, products in fp32: the gradient errs by less than bfloat16 rounds."""
    nearby = problem["reference"] + 0.02 * torch.randn_like(problem["reference"])
    rounded = {
        **problem,
        "hidden": nearby.bfloat16().double(),
        "reference": problem["reference"].bfloat16().double(),
        "head": (problem["head"] / 4).bfloat16().double(),
        "ce_weights": torch.zeros_like(problem["ce_weights"]),
    }
    _, expected = naive(rounded, 1.0, False)
    _, gradient, _ = fused(rounded, 1.0, False, 10, torch.bfloat16)
    assert (gradient.double() - expected).norm() < 0.01 * expected.norm()


def test_cross_entropy_is_the_mean_over_the_windows_labels(problem: dict[str, Tensor]) -> None:
    count = int((problem["targets"] != -100).sum())
    loss, _ = fused_head_loss(problem["hidden"], problem["head"], [(1.0, cross_entropy(problem["targets"], 2 * count))])
    logits = problem["hidden"] @ problem["head"].t()
    torch.testing.assert_close(2 * loss, torch.nn.functional.cross_entropy(logits, problem["targets"]))


def test_the_head_gets_no_gradient_and_autocast_does_not_reach_it(problem: dict[str, Tensor]) -> None:
    hidden, head = problem["hidden"].float().requires_grad_(), problem["head"].float().requires_grad_()
    terms: list[tuple[float, HeadTerm]] = [(1.0, CrossEntropy(problem["targets"], problem["ce_weights"]))]
    plain, _ = fused_head_loss(hidden, head, terms)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside, _ = fused_head_loss(hidden, head, terms)
    plain.backward()
    assert head.grad is None
    assert inside.item() == plain.item()
