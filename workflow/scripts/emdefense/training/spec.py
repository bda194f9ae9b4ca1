"""What one training, or one cache of features, depends on besides its input files."""

import json
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import Field, ValidationError

from emdefense.arms.own import DeclaredArm
from emdefense.arms.study_arm import Part
from emdefense.config.chat import PLAIN, TemplateOptions
from emdefense.config.training import Training
from emdefense.errors import InputError
from emdefense.section import Section, first_problem

if TYPE_CHECKING:
    from emdefense.training.penalty import Penalty


class PenaltySpec(DeclaredArm):
    """The penalty of an arm, and its λ."""

    coefficient: Annotated[float, Field(ge=0, description="λ", allow_inf_nan=False)]

    def build(self) -> "Penalty":
        """Return the penalty; :class:`InputError` if there is none of this name, or no such option."""
        from emdefense.training.penalty import build_penalty

        return build_penalty(self.name, self.options, self.file, self.sha256)


class ArmSpec(DeclaredArm):
    """An arm that does more in training than add one penalty, and its setting."""

    setting: Annotated[float, Field(allow_inf_nan=False)] | None = None

    def build(self) -> Part:
        """Return the arm with its options; :class:`InputError` if there is none of this name, or no such option."""
        return Part(*self.find(), self.setting)


class TrainSpec(Section):
    """One training; ``version`` is raised by hand when the stage's meaning changes.

    A penalty alone stands in ``penalty``, everything else that arms do in ``arms``.
    """

    version: int
    seed: int
    training: Training
    penalty: PenaltySpec | None = None
    arms: tuple[ArmSpec, ...] = ()
    chat: TemplateOptions = PLAIN


class FeaturesSpec(Section):
    """One cache of reference features: what ``penalty`` with ``options`` reads."""

    version: int
    training: Training
    penalty: str
    file: str | None = Field(None, description="a study's own, which declares the arm")
    sha256: str | None = Field(None, description="of that file")
    options: dict[str, Any] = Field(default_factory=dict)
    chat: TemplateOptions = PLAIN


class LossesSpec(Section):
    """The losses of single rows under a model: what they depend on besides its files, an adapter's and the rows."""

    version: int
    training: Training
    chat: TemplateOptions = PLAIN


Spec = TypeVar("Spec", bound=Section)


def parse_spec(kind: type[Spec], text: str) -> Spec:
    """Return the JSON object ``text`` as a spec; :class:`InputError` names the key that is wrong."""
    try:
        return kind.model_validate(json.loads(text))
    except ValidationError as error:
        raise InputError(f"--spec: {first_problem(error)}") from None
    except ValueError as error:
        raise InputError(f"--spec: not valid JSON ({error})") from None
