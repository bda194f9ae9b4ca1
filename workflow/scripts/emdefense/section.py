"""What every section of the config has in common, and the kinds of values that many of them take."""

import re
from datetime import date
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from emdefense.text_files import check_text

BOUND = 2**32  # no key means anything that large, and what computes with it may not hold it
TOO_LARGE = "too large; write a number below 2³²"
SHOWN = 60  # characters of a wrong value
SECRET_KEYS = {"api_key_variable", "base_url", "url"}  # where users paste keys: their values are never shown
_CONTROL = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029]")

PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=BOUND)]  # what every generator of random numbers takes
FilePath = Annotated[
    str,
    Field(
        description="{results} is the study's results folder, {sources} the sources folder, {data_folder} the key of "
        "that name"
    ),
]


class Section(BaseModel):
    """A section of the config: unknown keys are errors, values never change after loading.

    No value is blank, spreads over lines or lies beyond what arithmetic holds, and true is no number.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    # Keys that a section has not always had: at their defaults they are not written, so that the settings of a job
    # that was done before they came are still the same.
    later_keys: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        for key in self.later_keys:
            if getattr(self, key) == type(self).model_fields[key].default:
                values.pop(key, None)
        return values

    @model_validator(mode="before")
    @classmethod
    def _truth_is_no_number(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        numbers = {name for name, field in cls.model_fields.items() if _takes_numbers_only(field.annotation)}
        return {key: _without_truth(value) if key in numbers else value for key, value in values.items()}

    @field_validator("*", mode="after")
    @classmethod
    def _is_plain(cls, value: Any) -> Any:
        for leaf in _leaves(value):
            if isinstance(leaf, str):
                _check_text(leaf, is_line=not isinstance(value, dict))
            elif isinstance(leaf, int | float) and abs(leaf) >= BOUND:
                raise PydanticCustomError("emdefense", TOO_LARGE)
        return value


def first_problem(error: ValidationError, *under: str, skip: int = 0) -> str:
    """Return the first thing that is wrong and its key: below the keys ``under``, without its first ``skip`` parts."""
    first = error.errors()[0]
    return f"key '{key_path(*under, *first['loc'][skip:])}': {first['msg']}"


def key_path(*parts: str | int) -> str:
    """Return the keys that lead to a value with dots between them, each no longer than can be read."""
    return ".".join(_cut(part if isinstance(part, str) else _written(part)) for part in parts)


def shown(value: Any, key: str = "") -> str:
    """Return a wrong value as an error shows it: cut, or not at all where users paste keys."""
    if key in SECRET_KEYS:
        return "a value that is not shown"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return f"[{_cut(', '.join(map(shown, value)))}]" if all(map(_is_leaf, value)) else "a list"
    if isinstance(value, date):
        return str(value)
    return _cut(_written(value))


def _written(value: Any) -> str:
    try:
        return repr(value)
    except ValueError:
        return "a number of thousands of digits"


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _is_leaf(value: Any) -> bool:
    return not isinstance(value, dict | list | tuple)


def _takes_numbers_only(annotation: Any) -> bool:
    """Whether a key's type, or that of what its list or mapping holds, has numbers and neither truth nor any text."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Annotated, dict):
        return _takes_numbers_only(parts[0 if origin is Annotated else 1])
    named = [part for part in parts if part not in (type(None), Ellipsis) and get_origin(part) is not Literal]
    kinds = [_takes_numbers_only(part) for part in named]
    return all(kinds) if kinds else annotation in (int, float)


def _without_truth(value: Any) -> Any:
    """Return a value with true and false as texts, which are no numbers, where pydantic would take them for 1 and 0."""
    if isinstance(value, dict):
        return {key: _without_truth(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_truth(inner) for inner in value]
    return str(value).lower() if isinstance(value, bool) else value


def _leaves(value: Any) -> list[Any]:
    """Return what lists and mappings hold that is neither; sections check their own."""
    if isinstance(value, dict):
        return [leaf for inner in value.values() for leaf in _leaves(inner)]
    if isinstance(value, list | tuple):
        return [leaf for inner in value for leaf in _leaves(inner)]
    return [value]


def is_line(value: object) -> bool:
    """Whether a value is a text that a line of a table can hold."""
    if not isinstance(value, str):
        return False
    try:
        _check_text(value, is_line=True)
    except PydanticCustomError:
        return False
    return True


def _check_text(text: str, *, is_line: bool) -> None:
    """Check a text; what a mapping holds under names of the user's may be blank or spread over lines."""
    if is_line and not text.strip():
        raise PydanticCustomError("emdefense", "there is nothing in it; write a text, or remove the key")
    if is_line and (found := _CONTROL.search(text)):
        said = "it holds the control character U+{code}; write it on one line, without"
        raise PydanticCustomError("emdefense", said, {"code": f"{ord(found[0]):04X}"})
    try:
        check_text(text)
    except ValueError as error:
        raise PydanticCustomError("emdefense", "{problem}", {"problem": str(error)}) from None
