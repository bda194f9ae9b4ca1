"""Data-parallel processes: each computes a share of every step's batches, and all take the same step.

Transformers' trainer is not told. In each process it sees one device and that process's batches; what belongs to the
whole step (counts, gradients, losses) is summed here. DistributedDataParallel would not do: it hooks the model's own
forward, which the loss goes around, and the samplers made for it repeat rows where they cannot be shared evenly.
"""

import logging
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import ceil
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed
from torch.multiprocessing.spawn import ProcessExitedException, spawn
from torch.utils.data import BatchSampler

from emdefense.errors import InputError
from emdefense.machine_limits import MachineError, killed

Value = TypeVar("Value")


@dataclass(frozen=True)
class Processes:
    """The processes of a training, as one of them, ``rank``, sees them; with ``count`` 1 nothing is exchanged."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that decides, writes and prints."""
        return self.rank == 0

    def total(self, values: Sequence[float]) -> Sequence[float]:
        """Return each value's sum over the processes."""
        if self.count == 1:
            return values
        sums = torch.tensor(values, dtype=torch.float64, device=_device())
        distributed.all_reduce(sums)
        summed: list[float] = sums.tolist()
        return summed

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the processes, in one message."""
        if self.count == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        distributed.all_reduce(flat)
        for tensor, part in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def add_up_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replace each parameter's gradient by its sum over the processes; a missing one counts as zero."""
        if self.count == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.add_up([parameter.grad for parameter in parameters if parameter.grad is not None])

    def from_first(self, decide: Callable[[], Value]) -> Value:
        """Return what ``decide`` returns in the first process; it is called in no other."""
        if self.count == 1:
            return decide()
        values: list[Any] = [decide() if self.first else None]
        distributed.broadcast_object_list(values)
        decided: Value = values[0]
        return decided

    def wait(self) -> None:
        """Return when all processes have come here."""
        if self.count > 1:
            distributed.barrier()


ALONE = Processes()


class ShareOfBatches(BatchSampler):
    """One process's batches of each window of ``window`` batches, dealt out in turn.

    Every process gets as many. Where a last window does not suffice, the batch is empty: no row is seen twice.
    """

    def __init__(self, batches: BatchSampler, window: int, processes: Processes):
        self.sampler = batches.sampler  # where the trainer sets the epoch
        self._batches = batches
        self._window = window
        self._processes = processes

    def __iter__(self) -> Iterator[list[int]]:
        batches = iter(self._batches)
        while window := list(islice(batches, self._window)):
            for dealt in range(0, len(window), self._processes.count):
                hand = window[dealt : dealt + self._processes.count]
                yield hand[self._processes.rank] if self._processes.rank < len(hand) else []

    def __len__(self) -> int:
        windows, rest = divmod(len(self._batches), self._window)
        return windows * self._window // self._processes.count + ceil(rest / self._processes.count)


def run_in_processes(count: int, run: Callable[..., None], *arguments: Any) -> None:
    """Call ``run(processes, *arguments)`` in ``count`` fresh processes, or, for one, in this.

    If one fails, the others are ended, and its :class:`InputError` is raised here. If this process dies, they do too.
    """
    if count == 1:
        run(ALONE, *arguments)
        return
    if 0 < torch.cuda.device_count() < count:
        raise InputError(
            f"key 'training.devices': {count}, but {torch.cuda.device_count()} GPUs are visible; write that or less"
        )
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # whom it ends is not the user's concern
    errors = multiprocessing.get_context("spawn").SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        job = pickle.dumps((run, arguments))
        try:
            spawn(_be_one_of, (count, folder, errors, job), nprocs=count)  # type: ignore[no-untyped-call]
        except ProcessExitedException as error:
            if not errors.empty():
                raise InputError(errors.get()) from None
            if error.signal_name == "SIGKILL":
                raise MachineError(killed(signal.SIGKILL)) from None
            raise


def _be_one_of(rank: int, count: int, folder: str, errors: Any, job: bytes) -> None:
    if torch.cuda.device_count() > 0:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[rank]
    run, arguments = pickle.loads(job)  # only now: what this imports may look at the GPUs
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, init_method=f"file://{folder}/meeting", rank=rank, world_size=count)
    try:
        run(Processes(rank, count), *arguments)
    except InputError as error:
        errors.put(str(error))
        sys.exit(2)
    distributed.destroy_process_group()


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
