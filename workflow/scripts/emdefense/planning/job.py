"""One job of a study: its rule, its outputs and its log."""

from dataclasses import dataclass

from emdefense.cells import Cell

STAGES = (
    "sources",
    "models",
    "data",
    "checking",
    "features",
    "training",
    "projecting",
    "sampling",
    "answering",
    "judging",
    "report",
)


@dataclass(frozen=True)
class Job:
    """One job; paths are relative to the working directory.

    ``name`` says which of its rule's jobs it is, ``cell`` whose it is, and ``wildcards`` how the Slurm plugin names it.
    ``inputs`` are given for jobs before the data are prepared: what other such jobs make.
    """

    stage: str
    rule: str
    name: str
    outputs: tuple[str, ...]
    log: str
    wildcards: str
    cell: Cell | None = None
    question_set: str | None = None
    judge: str | None = None
    benchmark: str | None = None
    inputs: tuple[str, ...] = ()
