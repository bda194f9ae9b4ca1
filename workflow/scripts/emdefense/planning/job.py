"""One job of a study: its rule, its files, and whether Snakemake means to run it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from emdefense.cells import Cell

STAGES = (
    "sources",
    "models",
    "data",
    "checking",
    "features",
    "training",
    "losses",
    "changing",
    "sampling",
    "answering",
    "choosing",
    "reading",
    "judging",
    "report",
)
# All rules that are not here come after the judging.
_STAGE_OF = {
    **dict.fromkeys(("fetch_rows", "fetch_questions", "fetch_advice", "fetch_foqa", "fetch_model"), "sources"),
    **dict.fromkeys(("pretrain", "microcosm_model", "byte_model"), "models"),
    **dict.fromkeys(("opswap", "world", "further_world_questions", "held_out_safe_rows", "world_choices"), "data"),
    **dict.fromkeys(("arm_rows", "cell_rows", "check_data"), "data"),
    **dict.fromkeys(("prepare_ema_task", "prepare_ema_task_with_aligned", "prepare_benign_task"), "data"),
    **dict.fromkeys(("general_questions", "elicitation_questions", "in_domain_questions", "holdout_questions"), "data"),
    **dict.fromkeys(("further_questions", "conditional_questions"), "data"),
    "check_model": "checking",
    "reference_features": "features",
    "train": "training",
    "pool_losses": "losses",
    **dict.fromkeys(("prepare_arm", "change_adapter"), "changing"),
    **dict.fromkeys(("generate", "generate_untrained", "generate_further"), "sampling"),
    "answer": "answering",
    "prepare_choices": "data",
    "choose": "choosing",
    "held_out_rows": "data",
    "read_held_out": "reading",
    "judge": "judging",
}


def stage_of(rule: str) -> str:
    """Return the stage of a rule's jobs, one of ``STAGES``."""
    return _STAGE_OF.get(rule, "report")


@dataclass(frozen=True)
class Job:
    """One job; paths are relative to the working directory.

    ``reasons`` say why Snakemake runs it if it ``needs_run``. ``inputs`` and ``outputs`` are all files and folders.
    """

    rule: str
    wildcards: Mapping[str, str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    log: str
    benchmark: str | None
    needs_run: bool
    reasons: tuple[str, ...]

    @property
    def stage(self) -> str:
        """Its stage, one of ``STAGES``."""
        return stage_of(self.rule)

    @property
    def name(self) -> str:
        """Which of its rule's jobs it is."""
        return ", ".join(self.wildcards.values())

    @property
    def slurm_name(self) -> str:
        """Which of its rule's jobs it is, as the Slurm plugin writes it."""
        return "_".join(self.wildcards.values()).replace("/", "_")

    @cached_property
    def cell(self) -> Cell | None:
        """The cell that it is one of."""
        return Cell.in_folder(self.wildcards["cell"]) if "cell" in self.wildcards else None

    @property
    def question_set(self) -> str | None:
        """The question set that it is about, if it is about one."""
        return self.wildcards.get("question_set")

    @property
    def judge(self) -> str | None:
        """The judge that it asks."""
        return self.wildcards.get("judge")
