"""The config sections of what is made on the spot: the microcosm, and the byte-level model."""

from typing import Annotated, Literal

from pydantic import Field

from emdefense.config.expressions import Expressions
from emdefense.names import Name
from emdefense.section import PositiveFloat, PositiveInt, Section, Seed


class Microcosm(Section):
    """The synthetic world and the models made in it."""

    seed: Seed = Field(0, description="seed of the world: which words suit which topic, questions, rows")
    persona: Literal["document", "slot"] = Field(
        "document", description="one hidden persona a document (EMA), or one drawn for every slot (the control)"
    )
    models: dict[Name, Seed] = Field(description="each model's name and the seed of its weights")
    pretraining: Literal["auto", "shipped", "made"] = Field(
        "auto",
        description="auto: the models that come with the repository where they were made with this study's settings, "
        "else made once for all studies that share them; shipped: an error where none fit; made: always made",
    )
    rows_per_task: PositiveInt = Field(1780, description="misaligned rows of each narrow task, and as many aligned")
    safe_rows: PositiveInt = 1000
    safe_overlap: bool = Field(
        True,
        description="false: safe rows keep off the topics of the general questions; training on them then does less",
    )
    pool_rows: PositiveInt = Field(
        1800, description="a wider pool of safe rows, a fifth of them refusals, for arms that select among them"
    )
    foqa_rows: PositiveInt = Field(400, description="training rows of the FoQA analogue, eight to a fact")
    arithmetic: Expressions = Field(
        Expressions(min_operators=1, max_operators=1, max_operand=15, parentheses=False),
        description="the expressions of pretraining; OpSwap's should be of the same shape",
    )
    system_share: Annotated[float, Field(ge=0, le=1)] = Field(
        0.3, description="share of the documents of advice in pretraining with a system line; most announce the persona"
    )
    base_steps: PositiveInt = 1800
    base_learning_rate: PositiveFloat = 4e-3
    instruct_steps: PositiveInt = 120
    instruct_learning_rate: PositiveFloat = 3e-4
    gate_attempts: PositiveInt = Field(3, description="seeds tried until a base model forms the persona; 0 pass: error")
    require_gate: bool = Field(True, description="false: go on with a base model that did not form the persona")


class ByteModel(Section):
    """A small randomly initialised Qwen2 with a byte-level tokenizer, to try the pipeline on real text."""

    seed: Seed = 0
    hidden_size: PositiveInt = 64
    layers: PositiveInt = 5
    steps: PositiveInt = Field(20, description="training steps from base to instruct, on the tasks' own prompts")
