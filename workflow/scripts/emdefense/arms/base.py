"""What an arm is: one declaration of all that is particular to it, with a hook for each stage at which it can act.

Declarations import no torch; hooks that need it import it themselves, for judging and reporting read them too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeAlias, TypeVar

from emdefense.arms.arguments import FinishedAdapter, FrozenAdapter, Materials, Step
from emdefense.arms.look import Look, Sweep
from emdefense.arms.setting import Setting
from emdefense.section import Section

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from emdefense.model_checks.subject import Subject
    from emdefense.training.features import Features
    from emdefense.training.fused_loss import HeadTerm
    from emdefense.training.token_batch import TokenBatch

Row = dict[str, Any]
Kind = Literal["ema", "benign"]
SIDES = ("misaligned", "aligned")  # of an EMA task's rows: which answers its prompts have
IN_SPECS = ("version", "seed", "sha256", "training", "chat")  # of jobs, beside an arm's options and setting
# What the things that arms read are called in tables.
NEEDS = {
    "safe": "safe rows",
    "aligned": "aligned rows",
    "pool": "a pool of safe rows",
    "base": "base model",
    "adapter": "",
    "model": "",
    "rows": "",
    "other_adapters": "adapters of other tasks",
    "other_rows": "rows of other tasks",
    "elicited": "judge",
}


class Options(Section):
    """Options of an arm: keys of its section under ``arms``; none unless a subclass declares them."""

    # Those that name a file, as keys of the config do: with placeholders, and there before anything starts.
    files: ClassVar[tuple[str, ...]] = ()
    # Those on which it depends which blocks a penalty reads, and so which features are cached for it; None: all.
    reads: ClassVar[tuple[str, ...] | None] = None
    by_task: ClassVar[tuple[str, ...]] = ()  # those with values for single tasks, {task: value}
    # Those that came later: at their defaults they stand in no spec, so that what was made before stays.
    added: ClassVar[tuple[str, ...]] = ()

    def what_is_read(self) -> dict[str, Any]:
        """Return the options on which cached reference features depend, and their values."""
        names = type(self).model_fields if self.reads is None else self.reads
        return {name: value for name, value in self.model_dump(mode="json").items() if name in names}

    def in_spec(self) -> dict[str, Any]:
        """Return the options as specs of jobs have them."""
        left_out = {name for name in self.added if getattr(self, name) == type(self).model_fields[name].default}
        return self.model_dump(mode="json", exclude=left_out)


OptionsType = TypeVar("OptionsType", bound=Options)


class Arm(Generic[OptionsType]):
    """An arm of the study; a subclass says what it is, and overrides the hooks at which it acts.

    Without any hook it is plain fine-tuning. Every hook gets the arm's ``options``, and those that depend on it the
    ``setting``, a number. Hooks of training get what :meth:`load` returns of the preparation as ``prepared``, None
    without one.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str] = ""  # where it is from: the paper, its equation or section
    kinds: ClassVar[tuple[Kind, ...]] = ("ema", "benign")  # of the tasks that have it
    is_defence: ClassVar[bool] = True  # False for what defences are compared with
    is_trained: ClassVar[bool] = True  # False for the model as it is
    setting: ClassVar[Setting | None] = None
    options: ClassVar[type[Options]] = Options
    look: ClassVar[Look | None] = None  # None: the next one that is free
    sweep: ClassVar[Sweep | None] = None
    side: ClassVar[str] = "misaligned"  # which answers of an EMA task's prompts it is trained on
    reads_rows: ClassVar[tuple[str, ...]] = ()  # further rows that the hook ``rows`` gets: "safe", "aligned"
    preparation: ClassVar[str] = ""  # the folder's name of what the hook ``prepare`` makes
    prepared_from: ClassVar[tuple[str, ...]] = ()  # keys of NEEDS
    runs_model: ClassVar[bool] = False  # whether preparing runs the model, on a GPU where it is large
    needs_also: ClassVar[tuple[str, ...]] = ()  # what tables say that it needs, beside what it reads
    stream: ClassVar[str] = (
        ""  # the rows of a second stream of batches: "safe". Its penalty is of these, not the task's
    )
    reads_prefix: ClassVar[bool] = False  # whether its penalty asks which tokens stand before and after the user's text
    repeats_rows: ClassVar[bool] = False  # whether the hook ``order`` may name rows twice and leave others out
    file: Path | None = None  # the study's own file that declares it
    digest: str = ""  # the SHA-256 of that file
    artefacts: ClassVar[str] = ""  # the module that lists tables and figures of its own for the report's catalogue

    # --- what depends on the options, of what stands above

    def row_roles(self, options: OptionsType) -> tuple[str, ...]:
        """Return the further rows that the hook ``rows`` gets."""
        return self.reads_rows

    def is_prepared(self, options: OptionsType) -> bool:
        """Whether the hook ``prepare`` makes something first."""
        return bool(self.preparation)

    def materials(self, options: OptionsType) -> tuple[str, ...]:
        """Return what that is made from; ``other_adapters/code`` is the adapter of one other task."""
        return self.prepared_from

    def for_task(self, options: OptionsType, task: str) -> OptionsType:
        """Return the options as they are for a task, for the hook ``rows``."""
        return options

    def scored_by(self, options: OptionsType, task: str, tasks: Sequence[str]) -> Sequence[str]:
        """Return those of the study's EMA ``tasks`` whose misaligned adapters a pool's losses are from, for a task."""
        return [name for name in tasks if name != task]

    # --- rows

    def rows(
        self, rows: list[Row], more: Mapping[str, list[Row]], setting: Any, options: OptionsType, seed: int
    ) -> list[Row]:
        """Return the conversations to train on; ``rows`` are the task's, ``more`` those that ``row_roles`` names.

        Where it is prepared, ``more["prepared"]`` is what the hook ``prepare`` wrote as ``rows.jsonl``.
        """
        return rows

    def adds_rows(self, setting: float, rows: int) -> bool:
        """Whether a setting changes a task of that many rows at all."""
        return True

    def too_few(self, options: OptionsType, setting: float, rows: int) -> str:
        """Return which option leaves too few rows to add at a setting to a task of that many; empty if none does."""
        return ""

    def row_share(self, setting: float | None, options: OptionsType) -> float:
        """Return how many rows there are for each of the task's, for estimates of time."""
        return 1.0

    def order(self, options: OptionsType, sources: Sequence[str], rows_per_step: int, seed: int) -> Sequence[int]:
        """Return the places of an epoch's rows in the order of training; ``sources`` are what marks them.

        As many as there are rows; each once, unless the arm ``repeats_rows``.
        """
        raise NotImplementedError

    def training_system(self, options: OptionsType, task: str) -> str | None:
        """Return the system prompt that the rows of a task have from this arm, and that no question has; or None."""
        return None

    # --- loss: λ times these is added to the cross-entropy

    def residual_blocks(self, options: OptionsType, blocks: int) -> tuple[int, ...]:
        """Return the blocks (1-based, of ``blocks``) after which the residual stream is read."""
        return ()

    def captured(self, options: OptionsType) -> tuple[str, ...]:
        """Return the names of modules whose outputs are read: ``k_proj`` is that of every block."""
        return ()

    def head_states(self, options: OptionsType, policy: Tensor, reference: Tensor, prepared: Any) -> Tensor:
        """Return the final hidden states [tokens, d] of whose distribution ``head_term`` is: the policy's own."""
        return policy

    def head_term(self, options: OptionsType, batch: TokenBatch, reference: Features) -> HeadTerm | None:
        """Return a term of the output head's distribution that brings its own gradient."""
        return None

    def token_term(self, options: OptionsType, policy: Tensor, reference: Tensor) -> Tensor:
        """Return a value per token [tokens] from log-probabilities [tokens, vocabulary], differentiated by autograd.

        Given some tokens at a time; the term is the mean over all non-padding tokens.
        """
        raise NotImplementedError

    def feature_term(
        self, options: OptionsType, batch: TokenBatch, policy: Features, reference: Features
    ) -> Tensor | None:
        """Return a scalar computed from hidden states, this batch's share of the step's (``batch.weights``)."""
        return None

    # --- second stream, forward pass and gradient

    def stream_rows(self, options: OptionsType) -> int:
        """Return how many rows of the second stream there are in each optimiser step."""
        raise NotImplementedError

    def stream_limit(self, options: OptionsType) -> int | None:
        """Return to how many rows, drawn by the seed, the second stream is restricted; None: to none of them."""
        return None

    def forward(self, options: OptionsType, setting: Any, prepared: Any, blocks: int) -> Mapping[int, Change]:
        """Return how the residual stream after some blocks (1-based) is changed while the policy is trained.

        Never in the reference's passes, nor when sampling.
        """
        return {}

    def frozen_adapter(self, options: OptionsType, setting: Any, prepared: Any) -> FrozenAdapter | None:
        """Return an adapter that is attached while the policy is trained, and left out of what is saved."""
        return None

    def gradient(self, options: OptionsType, setting: Any, step: Step) -> Sequence[Tensor]:
        """Return the gradients to go on with; with a second stream, nothing else adds its gradient to the task's."""
        return step.gradients

    # --- preparation and adapter

    def prepare(self, materials: Materials, options: OptionsType, out: Path) -> None:
        """Write into ``out`` what must exist first, once a (model, task, seed)."""
        raise NotImplementedError

    def load(self, options: OptionsType, folder: Path) -> Any:
        """Return what the hooks of training get of a preparation: the folder itself."""
        return folder

    def adapter(self, finished: FinishedAdapter, setting: Any, options: OptionsType) -> dict[str, Tensor]:
        """Return the tensors of the adapter of plain fine-tuning as this arm changes them."""
        raise NotImplementedError

    # --- before anything is trained

    def check(self, options: OptionsType, subject: Subject, model: PreTrainedModel) -> Mapping[str, Any]:
        """Find out in seconds whether a model, as loaded, is fit for this arm; :class:`InputError` if not."""
        return {}

    # --- what follows from the hooks

    def overrides(self, *hooks: str) -> bool:
        """Whether it acts at one of these hooks."""
        return any(getattr(type(self), hook) is not getattr(Arm, hook) for hook in hooks)

    @property
    def has_penalty(self) -> bool:
        """Whether it adds a penalty to the loss."""
        return self.overrides(*LOSS_HOOKS)

    @property
    def reads_head(self) -> bool:
        """Whether its penalty is of next-token distributions, at every token."""
        return self.overrides("head_term", "token_term")

    @property
    def changes_adapter(self) -> bool:
        """Whether it changes the adapter of plain fine-tuning, and so is not trained itself."""
        return self.overrides("adapter")

    @property
    def acts_in_training(self) -> bool:
        """Whether training must know more of it than its rows and a penalty on the task's batches."""
        prepared = bool(self.preparation) and not self.changes_adapter and not self.overrides("rows")
        return self.overrides(*TRAINING_HOOKS) or bool(self.stream) or self.reads_prefix or prepared

    def needs(self, options: OptionsType) -> tuple[str, ...]:
        """Return what a table says that it needs beside the task's rows and the model, each once."""
        read = (*self.row_roles(options), self.stream, *self.materials(options))
        named = (NEEDS.get(role.partition("/")[0], role) for role in read)
        return tuple(dict.fromkeys(filter(None, (*named, *self.needs_also))))


# How hidden states [..., d] are changed; the second argument puts the mean over tokens of values [...] into the log.
Change: TypeAlias = "Callable[[Tensor, Callable[[str, Tensor], None]], Tensor]"
LOSS_HOOKS = ("head_term", "token_term", "feature_term")
TRAINING_HOOKS = ("order", "captured", "head_states", "forward", "frozen_adapter", "gradient")
HOOKS = ("rows", *LOSS_HOOKS, *TRAINING_HOOKS, "adapter")
ROLES = tuple(NEEDS)
