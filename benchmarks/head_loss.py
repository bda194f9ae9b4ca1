"""CE + λ·KL(θ‖θ0) from hidden states, forward and backward: ours against the naive form, TRL's and Liger's.

    python benchmarks/head_loss.py [--device cuda] [--vocabulary 32000 151936] [--width 896] [--tokens 1024]

Time and memory are those of a second call, in a process of its own: core-seconds and resident memory on the CPU, wall
time and allocated memory on CUDA, the memory beyond what was held before. The errors are those of the gradient of the
KL alone with bfloat16 hidden states and head, relative to float64, at three distances from θ0. `--shared 3` gives the
head's rows a component in common three times as long as what is left of them. Each implementation is first held to the
float64 gradient of CE + λ·KL, in fp32.

Liger is measured where it can be imported. It requires Triton, of which its CPU code makes no use:
    pip install --no-deps --target liger liger-kernel; PYTHONPATH=liger python benchmarks/head_loss.py
"""

import argparse
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from measuring import MIB, in_child, markdown_table, median_core_seconds, median_seconds, peak_memory
from torch import Tensor
from torch.nn import functional

from emdefense.training import fused_loss
from emdefense.training.divergence import Divergence
from emdefense.training.fused_loss import CrossEntropy, HeadTerm, fused_head_loss

COEFFICIENT = 0.1  # λ
DISTANCES = (1e-4, 1e-3, 1e-1)  # nats, about
ERROR_TOKENS = 128


@dataclass(frozen=True)
class Problem:
    """Hidden states of policy and reference, [tokens, d], their head, [vocabulary, d], and targets, [tokens]."""

    hidden: Tensor
    reference: Tensor
    head: Tensor
    targets: Tensor

    def to(self, dtype: torch.dtype) -> "Problem":
        """The same with other floating-point numbers, and with no gradient yet."""
        hidden = self.hidden.detach().to(dtype).requires_grad_()
        return Problem(hidden, self.reference.to(dtype), self.head.to(dtype), self.targets)


def draw(tokens: int, width: int, vocabulary: int, divergence: float, shared: float, device: str) -> Problem:
    """A problem in float32 whose numbers bfloat16 holds exactly; logits have standard deviation 2."""
    generator = torch.Generator(device).manual_seed(0)
    normal = partial(torch.randn, generator=generator, device=device)
    head = (normal(vocabulary, width) + shared * normal(width)).mul_(2 / width**0.5)
    reference = normal(tokens, width)
    hidden = reference + (divergence / 2) ** 0.5 * normal(tokens, width)
    targets = torch.randint(vocabulary, (tokens,), generator=generator, device=device)
    return Problem(hidden.bfloat16(), reference.bfloat16(), head.bfloat16(), targets).to(torch.float32)


Loss = Callable[[Problem, float, float], Tensor]  # coefficients of CE and KL, each the mean over tokens


def naive(problem: Problem, ce: float, kl: float) -> Tensor:
    """Full logits, in fp32 from the head's output on, and autograd."""
    dtype = torch.promote_types(problem.hidden.dtype, torch.float32)
    logits = (problem.hidden @ problem.head.t()).to(dtype)
    with torch.no_grad():
        reference = functional.log_softmax((problem.reference @ problem.head.t()).to(dtype), -1)
    policy = functional.log_softmax(logits, -1)
    divergence = functional.kl_div(reference, policy, reduction="batchmean", log_target=True)
    return kl * divergence + (ce * functional.cross_entropy(logits, problem.targets) if ce else 0.0)


def ours(problem: Problem, ce: float, kl: float, chunk_elements: int = fused_loss.CHUNK_ELEMENTS) -> Tensor:
    """This project's."""
    weights = torch.full_like(problem.targets, 1 / len(problem.targets), dtype=torch.float64)
    terms: list[tuple[float, HeadTerm]] = [(kl, Divergence(problem.reference, weights, reverse=False))]
    if ce:
        terms.insert(0, (ce, CrossEntropy(problem.targets, weights)))
    return fused_head_loss(problem.hidden, problem.head, terms, chunk_elements)[0]


def ours_simulating_cuda(problem: Problem, ce: float, kl: float) -> Tensor:
    """This project's, rounding what it rounds on CUDA."""
    with patch.multiple(
        fused_loss,
        _multiplies_mixed=lambda weight: weight.dtype == torch.bfloat16,
        _mixed_product=lambda left, right: left.float() @ right.float(),
    ):
        return ours(problem, ce, kl)


def trl(problem: Problem, ce: float, kl: float) -> Tensor:
    """TRL's chunked divergence as its DistillationTrainer calls it, and log-probabilities as its SFTTrainer does."""
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE, _ChunkedLogProbFunction

    student, teacher = (problem.hidden, problem.head, None), (problem.reference, problem.head, None)
    loss = kl * ChunkedDivergenceFunction.apply(*student, *teacher, 1.0)[0].mean()
    if ce:
        log_probs = _ChunkedLogProbFunction.apply(
            *student, problem.targets, 1.0, _CHUNKED_LOGPROB_CHUNK_SIZE, None, 1.0, ()
        )[0]
        loss = loss - ce * log_probs.mean()
    return loss


def liger(problem: Problem, ce: float, kl: float) -> Tensor:
    """Liger's chunked loss, pure torch and compiled."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    loss = LigerFusedLinearJSDLoss(weight_hard_loss=ce, weight_soft_loss=kl, beta=1.0)
    return loss(problem.hidden, problem.head, problem.reference, problem.head, problem.targets)


def liger_triton(problem: Problem, ce: float, kl: float) -> Tensor:
    """Liger's Triton kernels."""
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss, LigerFusedLinearJSD

    divergence = LigerFusedLinearJSD(jsd_beta=1.0)
    loss = kl * divergence(problem.hidden, problem.head, problem.reference, problem.head, None)
    if ce:
        loss = loss + ce * LigerFusedLinearCrossEntropyLoss()(problem.head, problem.hidden, problem.targets)
    return loss


IMPLEMENTATIONS: dict[str, Loss] = {
    "naive": naive,
    "ours": ours,
    "ours, rounded as on CUDA": ours_simulating_cuda,
    "TRL": trl,
    "Liger": liger,
    "Liger, Triton": liger_triton,
}


def gradient(loss: Loss, problem: Problem, ce: float, kl: float) -> Tensor:
    """Gradient of the loss by the hidden states, in the type of the problem."""
    problem.hidden.grad = None
    loss(problem, ce, kl).backward()
    assert problem.hidden.grad is not None
    return problem.hidden.grad


def relative_error(loss: Loss, problem: Problem, dtype: torch.dtype, ce: float, kl: float) -> float:
    """Error of the gradient with everything given in ``dtype``, relative to the naive form in float64."""
    exact = gradient(naive, problem.to(torch.float64), ce, kl)
    return float((gradient(loss, problem.to(dtype), ce, kl).double() - exact).norm() / exact.norm())


def cost(name: str, settings: dict[str, Any], dtype: torch.dtype, chunk_elements: int) -> tuple[float, int]:
    """Seconds and peak extra bytes of forward and backward of CE + λ·KL, without the first call."""
    loss = partial(ours, chunk_elements=chunk_elements) if name == "ours" else IMPLEMENTATIONS[name]
    problem = draw(divergence=1e-3, **settings).to(dtype)
    gradient(loss, problem, 1.0, COEFFICIENT)
    problem.hidden.grad = None
    with peak_memory(device := settings["device"]) as peak:
        step = partial(gradient, loss, problem, 1.0, COEFFICIENT)
        on_cpu = device == "cpu"
        seconds = (
            median_core_seconds(step, 1, warm_up=False) if on_cpu else median_seconds(step, 1, device, warm_up=False)
        )
    return seconds, peak.bytes


def errors(name: str, settings: dict[str, Any]) -> list[float]:
    """Relative errors of the gradient of KL in bfloat16, at each distance."""
    loss = IMPLEMENTATIONS[name]
    problems = [draw(divergence=distance, **settings) for distance in DISTANCES]
    check = relative_error(loss, problems[-1], torch.float32, 1.0, COEFFICIENT)
    if check > 1e-3:
        raise RuntimeError(f"{name}: not the gradient of CE + λ·KL(θ‖θ0), error {check:.1%} in fp32")
    return [relative_error(loss, problem, torch.bfloat16, 0.0, 1.0) for problem in problems]


def measured(name: str, arguments: argparse.Namespace, width: int, vocabulary: int) -> tuple[float, int, list[float]]:
    """Seconds, bytes and errors of an implementation."""
    torch.set_num_threads(arguments.threads)
    settings = {"width": width, "vocabulary": vocabulary, "shared": arguments.shared, "device": arguments.device}
    dtype, simulated = getattr(torch, arguments.dtype), IMPLEMENTATIONS[name] is ours_simulating_cuda
    seconds, size = (
        (0.0, 0) if simulated else cost(name, {"tokens": arguments.tokens, **settings}, dtype, arguments.chunk_elements)
    )
    return seconds, size, errors(name, {"tokens": ERROR_TOKENS, **settings})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="of time and memory; default: the device's")
    parser.add_argument("--tokens", type=int, help="default: 1024 on the CPU, 8192 on CUDA")
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[32_000, 151_936])
    parser.add_argument("--width", type=int, nargs="+", default=[896], help="896: Qwen2.5-0.5B; 3584: 7B")
    parser.add_argument("--shared", type=float, default=0.0, help="length of what the head's rows have in common")
    parser.add_argument("--chunk-elements", type=int, default=fused_loss.CHUNK_ELEMENTS, help="logits in our chunks")
    parser.add_argument("--threads", type=int, default=1, help="on the CPU")
    parser.add_argument("--quick", action="store_true", help="tiny, in one process, without TRL and Liger")
    arguments = parser.parse_args()
    on_cpu = arguments.device == "cpu"
    arguments.dtype = arguments.dtype or ("float32" if on_cpu else "bfloat16")
    arguments.tokens = arguments.tokens or (1024 if on_cpu else 8192)
    names = [name for name in IMPLEMENTATIONS if name != ("Liger, Triton" if on_cpu else "ours, rounded as on CUDA")]
    if arguments.quick:
        arguments.tokens, arguments.vocabulary, arguments.width = 64, [500], [32]
        names = [name for name in names if not name.startswith(("TRL", "Liger"))]
    measure = measured if arguments.quick else partial(in_child, measured)

    print(f"{arguments.device}, {arguments.tokens} tokens, {arguments.dtype}, threads {arguments.threads}", flush=True)
    columns = [
        "core-s" if on_cpu else "seconds",
        "ratio",
        "MiB",
        "ratio",
        *(f"error at KL {distance:.0e}" for distance in DISTANCES),
    ]
    rows = []
    for width in arguments.width:
        for vocabulary in arguments.vocabulary:
            seconds_naive, size_naive = 0.0, 0
            for name in names:
                row = [f"V {vocabulary:,}, d {width:,}: {name}"]
                if name.startswith("Liger") and importlib.util.find_spec("liger_kernel") is None:
                    rows.append([*row, "not installed, see --help", *[""] * (len(columns) - 1)])
                    continue
                seconds, size, gradient_errors = measure(name, arguments, width, vocabulary)
                if name == "naive":
                    seconds_naive, size_naive = seconds, size
                if seconds:
                    row += [f"{seconds:.2f}", f"{seconds / seconds_naive:.2f}"]
                    row += [f"{size / MIB:,.0f}", f"{size / max(size_naive, 1):.2f}"]
                else:
                    row += [""] * 4
                rows.append([*row, *(f"{error:.2%}" for error in gradient_errors)])
    print(markdown_table(["", *columns], rows))


if __name__ == "__main__":
    main()
