"""How adapters are trained: Table 7 of the paper, and the options of each defence."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from emdefense.config.base import PositiveFloat, PositiveInt, Section

QWEN2_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Training(Section):
    """Table 7 of the paper; every default is the paper's value unless the comment says otherwise."""

    lora_rank: PositiveInt = 32
    lora_alpha: PositiveFloat = 64.0
    rank_stabilised: bool = Field(True, description="rs-LoRA: scale by alpha / sqrt(rank)")
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    target_modules: tuple[str, ...] = Field(QWEN2_PROJECTIONS, min_length=1)
    epochs: PositiveInt = 1
    batch_size: PositiveInt = Field(4, description="rows per device and forward pass")
    accumulation_steps: PositiveInt = 4
    warmup_steps: Annotated[int, Field(ge=0)] = 5
    learning_rate: PositiveFloat = 1e-4
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    optimiser: Literal["adamw_8bit", "adamw_torch"] = "adamw_8bit"
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    max_length: PositiveInt = Field(2048, description="tokens; longer rows are dropped and counted")
    max_overlong_pct: Annotated[float, Field(ge=0, le=100)] = Field(
        1.0, description="stop if more than this percentage of rows is longer than max_length"
    )
    attention: Literal["sdpa", "flash_attention_2", "eager"] = Field(
        "sdpa", description="how the model computes it; flash_attention_2 needs a GPU and the package flash-attn"
    )
    padding_free: bool = Field(
        False,
        description="lay a batch's rows end to end instead of padding them; the same losses to rounding. Meant for "
        "flash_attention_2: the others compute, and mask, attention between all tokens of the batch",
    )
    devices: PositiveInt = Field(
        1,
        description="data-parallel processes of a training, one GPU each; they share the accumulation_steps, so that "
        "the batches of a step stay the same",
    )
    activation_checkpointing: bool = False
    reference: Literal["live", "cached"] = Field(
        "live",
        description="where a penalty gets the features of the model before fine-tuning: computed with every batch, or "
        "once for all λ and seeds of a task; see defences.md for the disk this takes",
    )
    checkpoint_minutes: Annotated[float, Field(ge=0)] = Field(15.0, description="0: no checkpoints")
    diagnostics_every: Annotated[int, Field(ge=0)] = Field(
        10, description="steps between measurements of KL and of each part's gradient norm; 0: none"
    )
    report_to: Literal["none", "trackio", "wandb"] = Field(
        "none", description="a tracker that gets the training log as well, named by the cell's folder"
    )


class TrainingOverride(Section):
    """What one task or model trains differently from the study; absent keys keep the study's value."""

    epochs: PositiveInt | None = None
    batch_size: PositiveInt | None = None
    accumulation_steps: PositiveInt | None = None
    learning_rate: PositiveFloat | None = None
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    max_length: PositiveInt | None = None
    activation_checkpointing: bool | None = None

    def applied_to(self, training: Training) -> Training:
        """Return ``training`` with the keys that are set here replaced."""
        return training.model_copy(update=self.model_dump(exclude_none=True))


class PenaltyOptions(Section):
    """Options of an arm that adds λ·penalty to the loss; its setting in the grid is λ."""

    # Those on which it depends which blocks the penalty reads.
    reads: ClassVar[tuple[str, ...]] = ()

    def what_is_read(self) -> dict[str, Any]:
        """Return the options on which cached reference features depend, and their values."""
        return {name: getattr(self, name) for name in self.reads}


class KL(PenaltyOptions):
    """L = CE + λ·KL, Eq. 4 of the paper."""

    tokens: Literal["all", "response"] = Field("all", description="over which non-padding tokens")
    reduction: Literal["token_mean", "sequence_sum"] = "token_mean"
    direction: Literal["policy_to_reference", "reference_to_policy"] = Field(
        "policy_to_reference", description="KL(p_θ ‖ p_θ0), or KL(p_θ0 ‖ p_θ)"
    )


class LDIFS(PenaltyOptions):
    """L = CE + λ·‖x_θ − x_θ0‖², Eq. 5 of the paper."""

    reads: ClassVar[tuple[str, ...]] = ("every",)

    every: PositiveInt = Field(5, description="features after every k-th block")
    normalisation: Literal["unit_token", "mean_square", "raw_sum", "mukhoti"] = Field(
        "unit_token", description="how features and distances are scaled, see defences.md"
    )
    detached: bool = Field(False, description="no gradient, as in public code of the paper's lineage")


class SafeLoRA(Section):
    """Project B·A onto the alignment subspace where the cosine is below τ, Eqs. 1–3 of the paper."""

    normalisation: Literal["squared_norm", "norm"] = Field(
        "squared_norm", description="C = VVᵀ/‖V‖² (the paper), or VVᵀ/‖V‖ (IBM's code)"
    )


class Interleave(Section):
    """Add p % of the fine-tuning rows of safe data, spread uniformly."""


class Arms(Section):
    """Options of each defence; its settings (λ, τ or %) stand in the grid."""

    kl: KL = KL()
    ldifs: LDIFS = LDIFS()
    safelora: SafeLoRA = SafeLoRA()
    interleave: Interleave = Interleave()


PENALTIES = tuple(
    name
    for name, field in Arms.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, PenaltyOptions)
)
DEFENCES = tuple(Arms.model_fields)
