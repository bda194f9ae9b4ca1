"""vLLM's own environment: it wants other versions of packages than training does.

A job that samples with vLLM, and was started from an environment without it, starts itself anew in the one that `make
.venv-vllm/ready` makes, or that the study names. Jobs are told of it by a variable, so that they need no option for it.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from emdefense.errors import InputError

if TYPE_CHECKING:  # scripts that only hand a job over import this
    from emdefense.config.study import Generation

VARIABLE = "EMDEFENSE_VLLM"
FOLDER = Path(".venv-vllm")  # beside the Snakefile, where `make` puts it


def environment_of_vllm(generation: "Generation", beside: Path) -> Path | None:
    """Return the folder of the environment that a study names, or of the one in the folder ``beside`` if it has one.

    None if the study does not sample with vLLM. Raises :class:`InputError` if the one that is named has no vLLM.
    """
    named = generation.environment
    if generation.engine != "vllm":
        return None
    if named is None:
        found = beside / FOLDER
        return found if _holds_vllm(found) else None
    if not _holds_vllm(Path(named)):
        raise InputError(
            f"key 'generation.environment': there is no environment with vllm in {named}; write the folder of one, or "
            "make .venv-vllm with `make .venv-vllm/ready` and leave the key out"
        )
    return Path(named)


def enter_environment(engine: str) -> None:
    """Run this process's command line in vLLM's environment instead, if the engine is vLLM and there is none here."""
    folder = os.environ.pop(VARIABLE, None)  # once: what is started anew does not start itself anew
    if engine != "vllm" or folder is None or find_spec("vllm") is not None:
        return
    binaries = Path(folder) / "bin"
    os.environ["PATH"] = f"{binaries}{os.pathsep}{os.environ.get('PATH', '')}"
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(binaries / "python", [str(binaries / "python"), *sys.argv])


def _holds_vllm(folder: Path) -> bool:
    return (folder / "bin/python").exists() and any(folder.glob("lib/python3*/site-packages/vllm/__init__.py"))
