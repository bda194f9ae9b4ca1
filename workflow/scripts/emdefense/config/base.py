"""What every section of the config has in common."""

from pydantic import BaseModel, ConfigDict, ValidationError


class Section(BaseModel):
    """A section of the config: unknown keys are errors, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def first_problem(error: ValidationError, *under: str, skip: int = 0) -> str:
    """Return the first thing that is wrong and its key: below the keys ``under``, without its first ``skip`` parts."""
    first = error.errors()[0]
    return f"key '{'.'.join(map(str, (*under, *first['loc'][skip:])))}': {first['msg']}"
