"""What one training or one projection depends on besides its input files."""

import json
from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError

from emdefense.config.base import Section, first_problem
from emdefense.config.chat import PLAIN, TemplateOptions
from emdefense.config.training import SafeLoRA, Training
from emdefense.errors import InputError


class PenaltySpec(Section):
    """A penalty of the registry, its λ, and its options as the penalty itself defines them."""

    name: str
    coefficient: Annotated[float, Field(ge=0, description="λ", allow_inf_nan=False)]
    options: dict[str, Any] = Field(default_factory=dict)


class TrainSpec(Section):
    """One training; ``version`` is raised by hand when the stage's meaning changes."""

    version: int
    seed: int
    training: Training
    penalty: PenaltySpec | None = None
    chat: TemplateOptions = PLAIN


class FeaturesSpec(Section):
    """One cache of reference features: what ``penalty`` with ``options`` reads."""

    version: int
    training: Training
    penalty: str
    options: dict[str, Any] = Field(default_factory=dict)
    chat: TemplateOptions = PLAIN


class ProjectionSpec(SafeLoRA):
    """One SafeLoRA projection."""

    version: int


Spec = TypeVar("Spec", bound=Section)


def parse_spec(kind: type[Spec], text: str) -> Spec:
    """Return the JSON object ``text`` as a spec; :class:`InputError` names the key that is wrong."""
    try:
        return kind.model_validate(json.loads(text))
    except ValidationError as error:
        raise InputError(f"--spec: {first_problem(error)}") from None
    except ValueError as error:
        raise InputError(f"--spec: not valid JSON ({error})") from None
