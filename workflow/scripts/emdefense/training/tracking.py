"""Sends the training log to an experiment tracker as well, if the study asks for one."""

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager

PROJECT = "emdefense"


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
