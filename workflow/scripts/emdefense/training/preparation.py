"""What an arm prepares for a (model, task, seed), before its settings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError

from emdefense.arms.arguments import Materials
from emdefense.arms.base import Arm, Options
from emdefense.arms.hooks import call, wrong_result
from emdefense.config.chat import PLAIN, TemplateOptions
from emdefense.config.training import Training
from emdefense.errors import InputError
from emdefense.files import folder_written_whole
from emdefense.section import Section, first_problem


class Running(Section):
    """What a preparation that runs the model depends on besides its files and the arm's options."""

    seed: int = 0
    training: Training = Field(default_factory=Training)
    chat: TemplateOptions = PLAIN

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> "Running":
        """Return these parts of a preparation's spec; :class:`InputError` names the key that is wrong."""
        try:
            return cls.model_validate({key: spec[key] for key in cls.model_fields if key in spec})
        except ValidationError as error:
            raise InputError(f"--spec: {first_problem(error)}") from None


def prepare(
    arm: Arm[Any],
    options: Options,
    materials: Mapping[str, Path],
    out: Path,
    threads: int = 1,
    running: Running | None = None,
) -> None:
    """Let an arm write its preparation into ``out``; :class:`InputError` if it fails, or writes nothing."""
    torch.set_num_threads(threads)
    running = running or Running()
    with folder_written_whole(out) as temporary:
        given = Materials(dict(materials), threads, running.seed, running.training, running.chat)
        call(arm, "prepare", given, options, temporary)
        if not any(temporary.iterdir()):
            raise wrong_result(arm, "prepare", "it wrote nothing into the folder that it was given")
