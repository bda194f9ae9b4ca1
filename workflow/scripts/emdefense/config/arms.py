"""Options of the arms, and variants: an arm once more under a name of its own, with other options."""

from typing import Any

from pydantic import ConfigDict, Field, JsonValue, ValidationError, create_model

from emdefense.arms import CONTROLS, DEFENCES, STANDARD
from emdefense.arms.base import Arm, Options
from emdefense.arms.combination import combined
from emdefense.arms.hooks import line_in, named, raised
from emdefense.arms.study_arm import StudyArm
from emdefense.errors import InputError
from emdefense.section import Section, key_path, shown


class _Arms(Section):
    """Options of each defence, a study's own ones included; its settings (λ, τ or %) stand in the grid."""

    model_config = ConfigDict(extra="allow")


Arms: type[_Arms] = create_model(
    "Arms",
    __base__=_Arms,
    __doc__=_Arms.__doc__,
    **{arm.name: (arm.options, arm.options()) for arm in DEFENCES},  # type: ignore[call-overload]
)


class Variant(Section):
    """An arm with other options than ``arms`` gives it."""

    of: str = Field(description="an arm; without `together_with`, one that has options")
    title: str | None = Field(None, min_length=1, description="in tables, figures and on the page; its name if absent")
    options: dict[str, JsonValue] = Field(
        default_factory=dict, description="in place of that arm's; what is absent stays as there"
    )
    together_with: dict[str, float | None] = Field(
        default_factory=dict,
        description="other arms that act in the same training, each at this setting (nothing for one without)",
    )


def every_arm(arms: Section, own: dict[str, Arm[Any]], variants: dict[str, Variant]) -> dict[str, StudyArm]:
    """Return all arms that a study's grid can name, by name, in the order of tables: each followed by its variants.

    Raises :class:`InputError` for options that an arm does not have, and for variants of what is no arm with options.
    """
    given = dict(arms.__pydantic_extra__ or {})
    found: dict[str, StudyArm] = {}
    declared = (*CONTROLS, *DEFENCES, *own.values())
    taken = {arm.name.casefold() for arm in declared}
    for name in variants:
        if name.casefold() in taken:
            raise InputError(f"key 'variants.{name}': '{name}' is an arm already; give the variant another name")
    for arm in declared:
        if arm.name in STANDARD:
            options = getattr(arms, arm.name, None) or arm.options()
        else:
            options = _options(arm, given.pop(arm.name, {}), f"arms.{arm.name}")
        found[arm.name] = StudyArm(arm.name, arm, options)
        for name, variant in variants.items():
            if variant.of == arm.name:
                if not arm.options.model_fields and not variant.together_with:
                    raise InputError(f"key 'variants.{name}.of': {shown(arm.name)} has no options that could differ")
                changed = {**options.model_dump(), **variant.options}
                differing = _options(arm, changed, f"variants.{name}.options")
                found[name] = StudyArm(name, arm, differing, of=arm.name, called=variant.title)
    if given:
        raise InputError(
            f"unknown key '{key_path('arms', *list(given)[:1])}'; write one of {', '.join(with_options(found))}"
        )
    for name, variant in variants.items():
        if name not in found:
            known = ", ".join(with_options(found))
            raise InputError(
                f"key 'variants.{name}.of': {shown(variant.of)} is no arm with options; write one of {known}"
            )
    _check_titles(found)
    together = {name: variant.together_with for name, variant in variants.items() if variant.together_with}
    return {name: combined(found, name, together[name]) if name in together else arm for name, arm in found.items()}


def _check_titles(arms: dict[str, StudyArm]) -> None:
    """Raise :class:`InputError` for a variant that readers could not tell from another arm."""
    named: dict[str, str] = {}
    for name, arm in sorted(arms.items(), key=lambda item: item[1].of is not None):
        other = named.setdefault(arm.title.casefold(), name)
        if other != name and arm.called is not None:
            said = f"'{other}' is called {arm.title!r} too; give it another title"
            raise InputError(f"key 'variants.{name}.title': {said}")


def with_options(arms: dict[str, StudyArm]) -> list[str]:
    """Return the names of the arms that have options."""
    return [name for name, arm in arms.items() if arm.of is None and arm.arm.options.model_fields]


def _options(arm: Arm[Any], given: Any, key: str) -> Options:
    try:
        return arm.options.model_validate(given)
    except Exception as error:  # validators of a study's own arm are the user's code
        if not isinstance(error, ValidationError):
            if arm.file is None:
                raise
            raise InputError(f"key '{key}': {named(arm)}{line_in(error, str(arm.file))}: {raised(error)}") from None
        first = error.errors()[0]
        name = key_path(*first["loc"])
        problem = "there is no such option; " if first["type"] == "extra_forbidden" else f"{first['msg']}; "
        known = ", ".join(arm.options.model_fields) or "no options"
        raise InputError(f"key '{'.'.join(filter(None, (key, name)))}': {problem}{arm.name} has {known}") from None
