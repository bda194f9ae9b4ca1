"""What an arm prepares for a (model, task, seed), before its settings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from emdefense.arms.arguments import Materials
from emdefense.arms.base import Arm, Options
from emdefense.arms.hooks import call, wrong_result
from emdefense.files import folder_written_whole


def prepare(arm: Arm[Any], options: Options, materials: Mapping[str, Path], out: Path, threads: int = 1) -> None:
    """Let an arm write its preparation into ``out``; :class:`InputError` if it fails, or writes nothing."""
    torch.set_num_threads(threads)
    with folder_written_whole(out) as temporary:
        call(arm, "prepare", Materials(dict(materials), threads), options, temporary)
        if not any(temporary.iterdir()):
            raise wrong_result(arm, "prepare", "it wrote nothing into the folder that it was given")
