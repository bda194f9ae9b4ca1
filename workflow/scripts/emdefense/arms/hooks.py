"""Calls of an arm's hooks: what goes wrong in one of a study's own is a line with its file, arm, hook and place."""

import traceback
from collections.abc import Callable
from typing import Any

from emdefense.arms.base import Arm
from emdefense.errors import InputError
from emdefense.machine_limits import lack


def call(arm: Arm[Any], hook: str, *arguments: Any, function: Callable[..., Any] | None = None) -> Any:
    """Return what a hook returns, or a ``function`` that it returned.

    An exception in one of a study's own arms becomes an :class:`InputError`, unless the machine lacked something.
    """
    try:
        return (function or getattr(arm, hook))(*arguments)
    except (Exception, SystemExit) as error:
        if arm.file is None or lack(error):
            raise
        said = str(error) if isinstance(error, InputError) else raised(error)
        raise InputError(f"{named(arm)}, hook {hook}{line_in(error, str(arm.file))}: {said}") from error


def wrong_result(arm: Arm[Any], hook: str, problem: str) -> InputError:
    """Return what to say of a hook that returned something else than it should."""
    return InputError(f"{named(arm)}, hook {hook}: {problem}")


def named(arm: Arm[Any]) -> str:
    """Return an arm as errors name it: with the file that declares it."""
    return f"arm '{arm.name}'" if arm.file is None else f"{arm.file}: arm '{arm.name}'"


def raised(error: BaseException) -> str:
    """Return an exception as errors show it: its type and what it says."""
    said = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def line_in(error: BaseException, file: str) -> str:
    """Return ``, line 12``: where in a file an exception comes from; nothing where it does not say."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return f", line {error.lineno}" if error.lineno else ""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f", line {lines[-1]}" if lines else ""
