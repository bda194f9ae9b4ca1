"""A study's own arms: Python files beside it, which are code that runs."""

import importlib.util
import sys
import traceback
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from emdefense.arms import STANDARD
from emdefense.arms.base import HOOKS, LOSS_HOOKS, ROLES, Arm, Kind, Look, Options, Setting
from emdefense.errors import InputError
from emdefense.names import NAME_IN_WORDS, is_name
from emdefense.section import first_problem

IN_SPECS = ("version", "seed")  # beside an arm's options and setting
READABLE_ROWS = ("safe", "aligned")
SIDES = ("misaligned", "aligned")


def load_arms(files: Sequence[str]) -> dict[str, Arm[Any]]:
    """Return the arms that some files declare, by name, in their order.

    Loading a file runs it. Raises :class:`InputError` that names the file, and the arm where it is one arm's fault.
    """
    found: dict[str, Arm[Any]] = {}
    for file in files:
        for arm in arms_in(file):
            same = [name for name in (*STANDARD, *found) if name.casefold() == arm.name.casefold()]
            if same:
                where = found[same[0]].file if same[0] in found else "the pipeline"
                raise InputError(f"{file}: arm '{arm.name}': {where} has an arm of that name; give it another")
            found[arm.name] = arm
    return found


def arms_in(file: str) -> tuple[Arm[Any], ...]:
    """Return the arms that a file declares, at least one."""
    try:
        source = Path(file).read_bytes()
    except OSError as error:
        raise InputError(f"key 'arms_from': {file}: {error.strerror or error}; name a Python file") from None
    return _loaded(file, sha256(source).hexdigest())


@lru_cache
def _loaded(file: str, digest: str) -> tuple[Arm[Any], ...]:
    """Run a file as a module of its own, once for each content."""
    name = f"emdefense_own_arms_{digest}"
    had_torch = "torch" in sys.modules
    location = importlib.util.spec_from_file_location(name, file)
    if location is None or location.loader is None:
        raise InputError(f"key 'arms_from': {file}: this is no Python file; its name must end in .py")
    module = importlib.util.module_from_spec(location)
    sys.modules[name] = module
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # no __pycache__ beside the user's study
    try:
        location.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise InputError(f"{file}{_line(error, file)}: {type(error).__name__}: {error}") from None
    finally:
        sys.dont_write_bytecode = writes
    if not had_torch and "torch" in sys.modules:
        raise InputError(
            f"{file}: it imports torch when it is loaded, and reports are made without; do so in the hooks"
        )
    own = [kind for kind in vars(module).values() if isinstance(kind, type) and kind.__module__ == name]
    arms = [kind for kind in own if issubclass(kind, Arm) and hasattr(kind, "name")]
    if not arms:
        raise InputError(f"{file}: it declares no arm; write a class that derives from emdefense.arms.Arm, with a name")
    return tuple(_checked(kind, file) for kind in arms)


def find_arm(name: str, file: str | None = None) -> Arm[Any]:
    """Return the arm of a name, which a study's own ``file`` may declare; :class:`InputError` if there is none."""
    known = STANDARD if file is None else {arm.name: arm for arm in arms_in(file)}
    if name not in known:
        raise InputError(f"{file or 'the pipeline'}: it has no arm '{name}'; write one of {', '.join(known)}")
    return known[name]


def options_of(arm: Arm[Any], spec: Mapping[str, Any] | float) -> tuple[Options, float | None]:
    """Return an arm's options and setting, as a job's spec has them; a number is a setting alone."""
    if not isinstance(spec, Mapping):
        spec = {arm.setting.name: spec} if arm.setting else {}
    given = {key: value for key, value in spec.items() if key not in IN_SPECS}
    setting = given.pop(arm.setting.name, None) if arm.setting else None
    try:
        return arm.options.model_validate(given), setting
    except ValidationError as error:
        raise InputError(f"--spec: {first_problem(error)}") from None


def named(arm: Arm[Any]) -> str:
    """Return an arm as errors name it: with the file that declares it."""
    return f"arm '{arm.name}'" if arm.file is None else f"{arm.file}: arm '{arm.name}'"


def problem_of(arm: Arm[Any], hook: str, error: Exception) -> InputError:
    """Return what to say of an exception in a hook of a study's own arm: one line with its place."""
    return InputError(f"{named(arm)}, hook {hook}{_line(error, str(arm.file))}: {type(error).__name__}: {error}")


def _line(error: BaseException, file: str) -> str:
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f", line {lines[-1]}" if lines else ""


def _checked(kind: type[Arm[Any]], file: str) -> Arm[Any]:
    """Return the declared arm; :class:`InputError` if its declaration is none."""

    def fail(problem: str) -> InputError:
        return InputError(f"{file}: arm '{getattr(kind, 'name', kind.__name__)}': {problem}")

    if not isinstance(kind.name, str) or not is_name(kind.name):
        raise fail(f"name: {NAME_IN_WORDS}")
    if not isinstance(getattr(kind, "title", None), str) or not kind.title.strip():
        raise fail("title: write what tables call it")
    for key, types in (("setting", Setting), ("look", Look)):
        value = getattr(kind, key)
        if value is not None and not isinstance(value, types):
            raise fail(f"{key}: write a {types.__name__}, or leave it out")
    if not (isinstance(kind.options, type) and issubclass(kind.options, Options)):
        raise fail("options: write a class that derives from emdefense.arms.Options")
    for key, allowed in (
        ("kinds", get_args(Kind)),
        ("reads_rows", READABLE_ROWS),
        ("prepared_from", ROLES),
    ):
        value = getattr(kind, key)
        if not isinstance(value, tuple) or not set(value) <= set(allowed):
            raise fail(f"{key}: {value!r} is no tuple of {', '.join(allowed)}")
    if kind.side not in SIDES:
        raise fail(f"side: {kind.side!r} is neither {' nor '.join(SIDES)}")
    if kind.setting and kind.setting.name in (*IN_SPECS, *kind.options.model_fields):
        raise fail(f"setting: an option, or the pipeline, calls something '{kind.setting.name}'; name it otherwise")
    try:
        arm = kind()
        kind.options()
    except Exception as error:
        raise fail(f"{type(error).__name__}: {error}") from None
    arm.file = Path(file)
    if not arm.overrides(*HOOKS):
        raise fail(f"it overrides no hook, so it would be plain fine-tuning; write one of {', '.join(HOOKS)}")
    if arm.overrides("head_term") and arm.overrides("token_term"):
        raise fail("head_term and token_term are two forms of one thing; write one of them")
    if arm.changes_adapter and arm.overrides("rows", *LOSS_HOOKS):
        raise fail("the hook adapter changes what plain fine-tuning made, so no other hook would act; write two arms")
    if arm.has_penalty and arm.setting is None:
        raise fail("setting: a penalty is multiplied by one; write Setting()")
    if bool(arm.preparation) != arm.overrides("prepare"):
        raise fail("preparation names the folder of what the hook prepare makes; write both or neither")
    if arm.preparation and not arm.changes_adapter:
        raise fail("preparation: only the hook adapter reads one")
    return arm
