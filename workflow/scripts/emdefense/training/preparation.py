"""What an arm prepares for a (model, task, seed), before its settings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from emdefense.arms.base import Arm, Materials, Options
from emdefense.arms.own import named, problem_of
from emdefense.errors import InputError


def prepare(arm: Arm[Any], options: Options, materials: Mapping[str, Path], out: Path, threads: int = 1) -> None:
    """Let an arm write its preparation into ``out``; :class:`InputError` if it fails, or writes nothing."""
    torch.set_num_threads(threads)
    try:
        arm.prepare(Materials(dict(materials), threads), options, out)
    except InputError:
        raise
    except Exception as error:
        if arm.file is None:
            raise
        raise problem_of(arm, "prepare", error) from error
    if not out.is_dir() or not any(out.iterdir()):
        raise InputError(f"{named(arm)}, hook prepare: it wrote nothing into {out}")
