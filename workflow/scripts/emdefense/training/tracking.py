"""Sends the training log to an experiment tracker as well, if the study asks for one."""

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from emdefense.errors import InputError

PROJECT = "emdefense"


def check_tracker(name: str) -> None:
    """Raise :class:`InputError` if ``training.report_to`` names a package that is not installed."""
    if name != "none" and find_spec(name) is None:
        raise InputError(
            f"key 'training.report_to': {name} is not installed; install it (pip install {name}), or write none"
        )


@contextmanager
def tracked(name: str) -> Iterator[None]:
    """Close the tracker's run after the block, whatever happens: a forked job ends without its exit handlers."""
    os.environ.setdefault("WANDB_PROJECT", PROJECT)
    failed = True
    try:
        yield
        failed = False
    finally:
        if name == "wandb":  # trackio's integration closes its run by itself
            importlib.import_module("wandb").finish(exit_code=int(failed))
