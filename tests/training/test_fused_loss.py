"""The fused head loss against the naive float64 form."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from emdefense.training import fused_loss
from emdefense.training.divergence import Divergence
from emdefense.training.fused_loss import CrossEntropy, HeadTerm, cross_entropy, fused_head_loss

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


@pytest.fixture
def mixed_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Multiply as on CUDA: bfloat16 matrices, fp32 result."""

    def product(left: Tensor, right: Tensor) -> Tensor:
        assert left.dtype == right.dtype == torch.bfloat16
        return left.float() @ right.float()

    monkeypatch.setattr(fused_loss, "_multiplies_mixed", lambda weight: weight.dtype == torch.bfloat16)
    monkeypatch.setattr(fused_loss, "_mixed_product", product)


def bfloat16_error(divergence: float, reverse: bool, device: str = "cpu") -> float:
    """Relative error of the gradient of a mean KL of about ``divergence``, before it is rounded to bfloat16."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    reference, width, vocabulary = draw(40, 64), 64, 2000
    head = (2 * (draw(vocabulary, width) + draw(width)) / width**0.5).bfloat16().double()
    problem = {
        "hidden": (reference + (divergence / 2) ** 0.5 * draw(40, width)).bfloat16().double(),
        "reference": reference.bfloat16().double(),
        "head": head,
        "targets": torch.zeros(40, dtype=torch.int64),
        "ce_weights": torch.zeros(40, dtype=torch.float64),
        "kl_weights": torch.full((40,), 1 / 40, dtype=torch.float64),
    }
    value, expected = naive(problem, 1.0, reverse)
    assert divergence / 2 < value < divergence * 2
    term = Divergence(problem["reference"].bfloat16().to(device), problem["kl_weights"].to(device), reverse)
    hidden, weight = problem["hidden"].bfloat16().to(device), head.bfloat16().to(device)
    product = fused_loss._HeadProduct(weight, hidden.dtype)
    rows = torch.arange(40, device=device)
    _, logits_gradient = term.evaluate(rows, torch.log_softmax(product.logits(hidden), -1), product.logits)
    gradient = product.hidden_gradient(logits_gradient / 40)
    assert gradient.dtype == torch.float32
    return ((gradient.double().cpu() - expected).norm() / expected.norm()).item()


DISTANCES = pytest.mark.parametrize("divergence", [1e-5, 1e-4, 1e-3, 1e-2, 1e-1])


@DISTANCES
@pytest.mark.parametrize("reverse", [False, True])
def test_bfloat16_does_not_blur_the_gradient_near_the_reference(divergence: float, reverse: bool) -> None:
    assert bfloat16_error(divergence, reverse) < 0.0005


@DISTANCES
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.usefixtures("mixed_products")
def test_products_of_bfloat16_matrices_blur_it_by_less_than_bfloat16_rounds(divergence: float, reverse: bool) -> None:
    assert 0.0005 < bfloat16_error(divergence, reverse) < 0.004


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("reverse", [False, True])
def test_cuda_multiplies_as_its_stand_in_does(reverse: bool) -> None:
    assert 0.0005 < bfloat16_error(1e-3, reverse, "cuda") < 0.004


@pytest.mark.usefixtures("mixed_products")
def test_hidden_states_are_never_rounded_to_the_heads_type(problem: dict[str, Tensor]) -> None:
    head = problem["head"].bfloat16()
    logits = fused_loss._HeadProduct(head, torch.float32).logits(problem["hidden"].float())
    torch.testing.assert_close(logits.double(), problem["hidden"] @ head.double().t(), rtol=1e-5, atol=1e-5)


class LiveMemory(TorchDispatchMode):
    """Follows the bytes of all tensors made inside it, whose storages still live."""

    def __init__(self, *inputs: Tensor) -> None:
        super().__init__()
        self.peak = 0
        self._inputs = {tensor.untyped_storage()._cdata for tensor in inputs}
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for storage in [leaf.untyped_storage() for leaf in tree_leaves(made) if isinstance(leaf, Tensor)]:
            if storage._cdata not in self._inputs:
                self._live[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self._live = {key: entry for key, entry in self._live.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._live.values()))
        return made


def peak_bytes(tokens: int, width: int, vocabulary: int, chunk_elements: int, kl: bool, reverse: bool) -> int:
    hidden = torch.randn(tokens, width, requires_grad=True)
    reference, head, weights = torch.randn(tokens, width), torch.randn(vocabulary, width), torch.ones(tokens)
    targets = torch.randint(vocabulary, (tokens,))
    terms: list[tuple[float, HeadTerm]] = [(1.0, CrossEntropy(targets, weights))]
    terms += [(0.1, Divergence(reference, weights, reverse))] * kl
    with LiveMemory(hidden, reference, head, weights, targets) as memory:
        fused_head_loss(hidden, head, terms, chunk_elements)[0].backward()
    return memory.peak


@pytest.mark.parametrize(("kl", "reverse", "chunks"), [(False, False, 2), (True, False, 5), (True, True, 5)])
def test_memory_is_a_few_chunks_whatever_the_number_of_tokens(kl: bool, reverse: bool, chunks: int) -> None:
    width, vocabulary, chunk_tokens = 4, 5000, 16
    chunk_bytes = 4 * chunk_tokens * vocabulary
    few, many = (peak_bytes(tokens, width, vocabulary, chunk_tokens * vocabulary, kl, reverse) for tokens in (64, 1024))
    assert few < (chunks + 0.5) * chunk_bytes
    # A token costs its gradient, twice in the backward pass, its number and its weights, but never a row of logits.
    assert many - few < (1024 - 64) * (2 * 4 * width + 64)


def test_a_chunk_is_at_least_one_token_wide(problem: dict[str, Tensor]) -> None:
    terms: list[tuple[float, HeadTerm]] = [(1.0, CrossEntropy(problem["targets"], problem["ce_weights"]))]
    alone, _ = fused_head_loss(problem["hidden"], problem["head"], terms, VOCABULARY // 2)
    together, _ = fused_head_loss(problem["hidden"], problem["head"], terms)
    torch.testing.assert_close(alone, together)


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
