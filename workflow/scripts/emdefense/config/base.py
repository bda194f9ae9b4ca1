"""What every section of the config has in common."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A section of the config: unknown keys are errors, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
