"""How adapters are trained: Table 7 of the paper."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from emdefense.section import PositiveFloat, PositiveInt, Section

QWEN2_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

Quantisation = Literal["none", "nf4"]

DEVICES = (
    "devices: a training has one GPU, and a study's cells are trained side by side; remove the key, and for a model "
    "that is too large set activation_checkpointing"
)


class Training(Section):
    """Table 7 of the paper; every default is the paper's value unless the comment says otherwise."""

    later_keys = ("target_layers", "quantisation")

    lora_rank: PositiveInt = 32
    lora_alpha: PositiveFloat = 64.0
    rank_stabilised: bool = Field(True, description="rs-LoRA: scale by alpha / sqrt(rank)")
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    target_modules: tuple[str, ...] = Field(QWEN2_PROJECTIONS, min_length=1)
    target_layers: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        None, min_length=1, description="numbers of the blocks whose matrices are adapted, the first is 0; absent: all"
    )
    epochs: PositiveInt = 1
    batch_size: PositiveInt = Field(4, description="rows per forward pass")
    accumulation_steps: PositiveInt = 4
    warmup_steps: Annotated[int, Field(ge=0)] = 5
    learning_rate: PositiveFloat = 1e-4
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    optimiser: Literal["adamw_8bit", "adamw_torch", "adamw_torch_fused"] = Field(
        "adamw_8bit",
        description="AdamW: its state in 8 bits, for GPUs; PyTorch's, a tensor at a time; PyTorch's in one kernel",
    )
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    quantisation: Quantisation = Field(
        "none",
        description="nf4: the model's matrices in 4 bits (bitsandbytes), the adapter beside them as ever; penalties "
        "compare with the same quantised model. Write it under generation too",
    )
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

    @model_validator(mode="before")
    @classmethod
    def _one_device(cls, values: Any) -> Any:
        """Pass over the key of an earlier version at the value that changes nothing."""
        if not isinstance(values, dict) or "devices" not in values:
            return values
        if values["devices"] != 1:
            raise PydanticCustomError("emdefense", DEVICES)
        return {key: value for key, value in values.items() if key != "devices"}


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
