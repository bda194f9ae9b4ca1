"""What an arm is: one declaration of all that is particular to it, with a hook for each stage at which it can act.

Declarations import no torch; hooks that need it import it themselves, for judging and reporting read them too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

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
NO_SETTING = "none"
IN_SPECS = ("version", "seed", "sha256")  # of jobs, beside an arm's options and setting


class Options(Section):
    """Options of an arm: keys of its section under ``arms``; none unless a subclass declares them."""

    # Those on which it depends which blocks a penalty reads, and so which features are cached for it; None: all.
    reads: ClassVar[tuple[str, ...] | None] = None

    def what_is_read(self) -> dict[str, Any]:
        """Return the options on which cached reference features depend, and their values."""
        names = type(self).model_fields if self.reads is None else self.reads
        return {name: value for name, value in self.model_dump(mode="json").items() if name in names}


@dataclass(frozen=True)
class Setting:
    """The number that a grid sweeps: what it is called, and between which bounds it lies."""

    name: str = "coefficient"  # in specs
    symbol: str = "λ"
    low: float = 0.0
    high: float = inf
    above_low: bool = False  # whether the lower bound is left out
    why: str = ""  # the bounds are what they are

    def problem(self, value: float) -> str | None:
        """Return what is wrong with a value; None if it lies within the bounds."""
        if self.low < value <= self.high or (value == self.low and not self.above_low and str(value)[0] != "-"):
            return None
        shown, percentage = format_setting(value) if value else f"{value:g}", self.symbol == "%"
        if str(value)[0] == "-" and self.low >= 0:
            what = "the percentage" if percentage else self.symbol
            return f"{what} = {shown} is negative; write {self.low:g} or more"
        bounds = f"{'(' if self.above_low else '['}{self.low:g}, {self.high:g}]"
        said = (
            f"{shown} is not a percentage in {bounds}"
            if percentage
            else f"{self.symbol} = {shown} lies outside {bounds}"
        )
        return "; ".join(filter(None, (said, self.why)))

    def titled(self, setting: str) -> str:
        """Return a value as a reader sees it: ``λ = 0.1``, ``5 %``."""
        return f"{setting} %" if self.symbol == "%" else f"{self.symbol} = {setting}"


def format_setting(setting: float | None) -> str:
    """Return a setting as it stands in paths and tables: ``0.1``, ``5``, or ``none``; two that differ, differently."""
    if setting is None:
        return NO_SETTING
    setting = float(setting) + 0.0  # −0 is 0
    short = f"{setting:g}"
    return short if float(short) == setting else repr(setting).removesuffix(".0")


def in_order(settings: Iterable[str]) -> list[str]:
    """Return settings as paths have them, each once: without a number first, then by their numbers."""
    return sorted(set(settings), key=lambda setting: 0.0 if setting == NO_SETTING else float(setting))


@dataclass(frozen=True)
class Look:
    """How an arm's line is drawn: a colour, a matplotlib marker and dashes, told apart in grey print too."""

    color: str
    marker: str
    dashes: Any = "-"
    mark: Mapping[str, Any] | None = None  # of what is compared with: matplotlib's keywords of its single mark


@dataclass(frozen=True)
class SweepFigure:
    """A figure of the paper: metrics against the arm's setting, from top to bottom."""

    name: str
    metrics: tuple[str, ...]
    caption: str


@dataclass(frozen=True)
class Sweep:
    """The paper's table and figures of an arm at all of its settings, and what the settings' axis says."""

    table: int
    axis: str
    figures: tuple[SweepFigure, ...] = ()


@dataclass(frozen=True)
class FinishedAdapter:
    """A trained adapter as an arm may change it; ``record`` is what its provenance shall say of that."""

    tensors: dict[str, Tensor]  # by the names that PEFT saves
    folder: Path
    preparation: Path | None
    record: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Materials:
    """What a preparation may read: the folders and files that its arm named in ``prepared_from``."""

    files: Mapping[str, Path]
    threads: int = 1

    def __getitem__(self, role: str) -> Path:
        return self.files[role]


OptionsType = TypeVar("OptionsType", bound=Options)


class Arm(Generic[OptionsType]):
    """An arm of the study; a subclass says what it is, and overrides the hooks at which it acts.

    Without any hook it is plain fine-tuning. Every hook gets the arm's ``options``, and those that depend on it the
    ``setting``, a number.
    """

    name: ClassVar[str]
    title: ClassVar[str]
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
    prepared_from: ClassVar[tuple[str, ...]] = ()  # "adapter", "model", "base", "rows"
    file: Path | None = None  # the study's own file that declares it
    digest: str = ""  # the SHA-256 of that file
    artefacts: ClassVar[str] = ""  # the module that lists tables and figures of its own for the report's catalogue

    # --- rows

    def rows(
        self, rows: list[Row], more: Mapping[str, list[Row]], setting: Any, options: OptionsType, seed: int
    ) -> list[Row]:
        """Return the conversations to train on; ``rows`` are the task's, ``more`` those that ``reads_rows`` names."""
        return rows

    def adds_rows(self, setting: float, rows: int) -> bool:
        """Whether a setting changes a task of that many rows at all."""
        return True

    def row_share(self, setting: float | None) -> float:
        """Return how many rows there are for each of the task's, for estimates of time."""
        return 1.0

    # --- loss: λ times these is added to the cross-entropy

    def residual_blocks(self, options: OptionsType, blocks: int) -> tuple[int, ...]:
        """Return the blocks (1-based, of ``blocks``) after which the residual stream is read."""
        return ()

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

    # --- preparation and adapter

    def prepare(self, materials: Materials, options: OptionsType, out: Path) -> None:
        """Write into ``out`` what must exist first, once a (model, task, seed)."""
        raise NotImplementedError

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


LOSS_HOOKS = ("head_term", "token_term", "feature_term")
HOOKS = ("rows", *LOSS_HOOKS, "adapter")
ROLES = ("adapter", "model", "base", "rows")


@dataclass(frozen=True)
class StudyArm:
    """An arm under the name that a study's grid gives it, with its options: the arm itself, or a variant of it."""

    name: str
    arm: Arm[Any]
    options: Options
    of: str | None = None  # the arm that a variant is of

    @property
    def title(self) -> str:
        """What a reader sees: a variant's is the name that its study gives it."""
        return self.arm.title if self.of is None else self.name

    def setting_title(self, setting: str) -> str:
        """Return a setting as a reader sees it: ``λ = 0.1``, ``5 %``, or nothing for arms without one."""
        return "" if setting == NO_SETTING or self.arm.setting is None else self.arm.setting.titled(setting)

    def titled(self, setting: str) -> str:
        """Return the arm and a setting as a reader sees them: ``KL, λ = 0.1``, or ``Misaligned``."""
        return ", ".join(filter(None, (self.title, self.setting_title(setting))))
