"""What is recorded of every training step, and what only of some because it costs a backward pass or a forward pass.

Measuring never touches the training: parts of the loss are differentiated on the training's own graph, with the same
dropout, into tensors of their own, and nothing draws random numbers.
"""

import re
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

LOGGED = (
    *("step", "epoch", "ce", "penalty", "loss", "learning_rate"),
    *("grad_norm", "grad_norm_ce", "grad_norm_penalty", "kl"),
)
TIMED = ("step", "tokens_per_second", "memory_mib")  # in a file of their own: no two runs take the same time
MIB = 2**20


@dataclass(frozen=True)
class Parts:
    """The parts of a batch's share of the loss, one by one; all scalars."""

    ce: Tensor  # differentiable
    penalty: Tensor | None  # λ·penalty, differentiable; None in plain fine-tuning
    kl: Tensor  # KL(p_θ‖p_θ0), mean over the step's non-padding tokens, nats


class Telemetry:
    """Adds up an optimiser step's batches, and gives the step's entry in the log.

    Every ``every``-th step, the first and the last are dissected: their entries have the gradient norm of the
    cross-entropy and of λ·penalty (of the whole step's sum, before clipping) and the KL to the reference.
    """

    def __init__(self, parameters: Sequence[Tensor], every: int):
        self._parameters = list(parameters)
        self._every = every
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self.begin(0, 0, 0)

    def begin(self, step: int, last_step: int, tokens: int) -> None:
        """Start a step (counted from 1) whose batches have ``tokens`` tokens together."""
        self.dissects = self._every > 0 and (step % self._every == 0 or step in (1, last_step))
        self._tokens, self._started = tokens, time.perf_counter()
        self._sums = {"ce": 0.0, "penalty": 0.0}
        self._gradients: dict[str, list[Tensor]] = {}
        self._norms: dict[str, float] = {}
        self._notes: dict[str, list[float]] = {}

    def add(self, ce: float, penalty: float, parts: Parts | None) -> None:
        """Count a batch's share of the step's losses in; ``parts`` must still have their graph."""
        self._sums["ce"] += ce
        self._sums["penalty"] += penalty
        if parts is None:
            return
        self._sums["kl"] = self._sums.get("kl", 0.0) + parts.kl.item()
        if parts.penalty is not None:  # else the whole gradient is the cross-entropy's
            self._add_gradient("grad_norm_ce", parts.ce)
            self._add_gradient("grad_norm_penalty", parts.penalty)

    def note(self, name: str, value: float) -> None:
        """Put what an arm records of the step into its entry, as ``arm.name``: the mean of what it says of batches."""
        if self.dissects:
            self._notes.setdefault(name, []).append(value)

    def put_norms(self, ce: Sequence[Tensor], penalty: Sequence[Tensor]) -> None:
        """Take the norms of gradients that were not differentiated on the task's own graph."""
        named = {"grad_norm_ce": ce, "grad_norm_penalty": penalty}
        self._norms = {name: torch.nn.utils.get_total_norm(list(grads)).item() for name, grads in named.items()}

    def entry(self, grad_norm: float) -> dict[str, float]:
        """Return what to log of the step that ends now, whose whole gradient has norm ``grad_norm``."""
        norms = {name: torch.nn.utils.get_total_norm(grads).item() for name, grads in self._gradients.items()}
        norms |= self._norms
        if self.dissects:
            self._sums.setdefault("kl", 0.0)
        if self.dissects and not norms:
            norms = {"grad_norm_ce": grad_norm, "grad_norm_penalty": 0.0}
        seconds = time.perf_counter() - self._started
        return {
            **self._sums,
            **norms,
            **{name: sum(values) / len(values) for name, values in self._notes.items()},
            "tokens_per_second": round(self._tokens / seconds, 1),
            "memory_mib": round(peak_memory() / MIB, 1),
        }

    def _add_gradient(self, name: str, part: Tensor) -> None:
        gradient = torch.autograd.grad(part, self._parameters, retain_graph=True, materialize_grads=True)
        if name in self._gradients:
            torch._foreach_add_(self._gradients[name], gradient)
        else:
            self._gradients[name] = list(gradient)


def peak_memory() -> int:
    """Return the most memory this process has held, in bytes: allocated on CUDA where there is one, else resident.

    A job forked from a warm interpreter starts from what it shares with it.
    """
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    found = status.is_file() and re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE)
    # ru_maxrss, in bytes where there is no /proc, may be that of the process which started this one.
    return int(found[1]) * 1024 if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def logged(entry: Mapping[str, float]) -> dict[str, float | None]:
    """Return what the training log keeps of a step: the same keys of every arm, and what arms recorded themselves."""
    return {key: entry.get(key) for key in LOGGED} | {key: entry[key] for key in sorted(entry) if "." in key}
