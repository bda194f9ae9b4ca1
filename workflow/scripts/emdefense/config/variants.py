"""Variants: a penalty once more under a name of its own, with other options."""

from pydantic import Field, ValidationError

from emdefense.config.base import Section, key_path, shown
from emdefense.config.training import PENALTIES, Arms, PenaltyOptions
from emdefense.errors import InputError


class Variant(Section):
    """An arm whose penalty has other options than ``arms`` gives it."""

    of: str = Field(description=f"the arm whose penalty it is: {' or '.join(PENALTIES)}")
    options: dict[str, bool | int | float | str] = Field(
        default_factory=dict, description="in place of that arm's; what is absent stays as there"
    )


def variant_options(arms: Arms, variant: Variant, key: str) -> PenaltyOptions:
    """Return the options of a variant's penalty; :class:`InputError` names what is wrong with them."""
    if variant.of not in PENALTIES:
        raise InputError(f"key '{key}.of': {shown(variant.of)} has no penalty; write one of {', '.join(PENALTIES)}")
    standard: PenaltyOptions = getattr(arms, variant.of)
    try:
        return type(standard).model_validate({**standard.model_dump(), **variant.options})
    except ValidationError as error:
        first = error.errors()[0]
        name = key_path(*first["loc"])
        problem = "there is no such option; " if first["type"] == "extra_forbidden" else f"{first['msg']}; "
        known = ", ".join(type(standard).model_fields)
        raise InputError(f"key '{key}.options.{name}': {problem}{variant.of} has {known}") from None
