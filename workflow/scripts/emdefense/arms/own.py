"""A study's own arms: Python files beside it, which are code that runs."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import Field, ValidationError

from emdefense.arms import STANDARD
from emdefense.arms.base import IN_SPECS, Arm, Options
from emdefense.arms.declaration import declared
from emdefense.arms.hooks import line_in, named, raised
from emdefense.errors import InputError
from emdefense.section import Section, first_problem


def load_arms(files: Sequence[str]) -> dict[str, Arm[Any]]:
    """Return the arms that some files declare, by name, in their order.

    Loading a file runs it. Raises :class:`InputError` that names the file, and the arm where it is one arm's fault.
    """
    found: dict[str, Arm[Any]] = {}
    for place, file in enumerate(files):
        if file in files[:place]:
            raise InputError(f"key 'arms_from': {file} stands there twice; write each once")
        if "{" in file or "}" in file:  # Snakemake would take them for a wildcard
            raise InputError(f"key 'arms_from': {file} has a brace in its name, or its folder's; rename that")
        for arm in arms_in(file):
            for other in (*STANDARD.values(), *found.values()):
                where = other.file or "the pipeline"
                if other.name.casefold() == arm.name.casefold():
                    raise InputError(f"{named(arm)}: {where} has an arm '{other.name}'; give it another name")
                if other.title.casefold() == arm.title.casefold():
                    raise InputError(f"{named(arm)}: {where} has an arm titled '{other.title}'; give it another title")
            found[arm.name] = arm
    return found


def arms_in(file: str) -> tuple[Arm[Any], ...]:
    """Return the arms that a file declares, at least one."""
    try:
        source = Path(file).read_bytes()
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or error
        raise InputError(
            f"key 'arms_from': {file}: {problem}; name a Python file, from the study's folder on"
        ) from None
    if not file.endswith(".py"):
        raise InputError(f"key 'arms_from': {file}: this is no Python file; its name must end in .py")
    return _loaded(file, source)


@lru_cache
def _loaded(file: str, source: bytes) -> tuple[Arm[Any], ...]:
    """Run a file as a module of its own, once for each content."""
    digest = sha256(source).hexdigest()
    module = ModuleType(f"emdefense_own_arms_{digest}")
    module.__file__ = file
    sys.modules[module.__name__] = module  # where pydantic and dataclasses look up annotations
    had_torch = "torch" in sys.modules
    try:
        with redirect_stdout(sys.stderr):  # on stdout, commands write what others read
            exec(compile(source, file, "exec", dont_inherit=True), module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        raise InputError(f"{file}{line_in(error, file)}: {raised(error)}") from None
    if not had_torch and "torch" in sys.modules:
        raise InputError(
            f"{file}: it imports torch when it is loaded, and reports are made without; import it within the hooks"
        )
    own = [kind for kind in vars(module).values() if isinstance(kind, type) and kind.__module__ == module.__name__]
    arms = [kind for kind in dict.fromkeys(own) if issubclass(kind, Arm) and hasattr(kind, "name")]
    if not arms:
        raise InputError(f"{file}: it declares no arm; write a class that derives from emdefense.arms.Arm, with a name")
    return tuple(declared(kind, file, digest) for kind in arms)


def find_arm(name: str, file: str | None = None, digest: str | None = None) -> Arm[Any]:
    """Return the arm of a name, which a study's own ``file`` may declare, with this SHA-256 if one is given.

    Raises :class:`InputError` if there is none, or the file has changed.
    """
    known = STANDARD if file is None else {arm.name: arm for arm in arms_in(file)}
    if digest is not None and digest not in {arm.digest for arm in known.values()}:
        raise InputError(f"{file}: it has changed since this job was planned; run the same command again")
    if name not in known:
        raise InputError(f"{file or 'the pipeline'}: it has no arm '{name}'; write one of {', '.join(known)}")
    return known[name]


class DeclaredArm(Section):
    """An arm as specs name it: by its declaration, with options as the arm itself defines them."""

    name: str
    file: str | None = Field(None, description="a study's own, which declares the arm")
    sha256: str | None = Field(None, description="of that file")
    options: dict[str, Any] = Field(default_factory=dict)

    def find(self) -> tuple[Arm[Any], Any]:
        """Return the arm and its options; :class:`InputError` if there is none of this name, or no such option."""
        arm = find_arm(self.name, self.file, self.sha256)
        try:
            return arm, arm.options.model_validate(self.options)
        except ValidationError as error:
            raise InputError(first_problem(error, "arms", self.name)) from None


def given_arm(name: str, file: str | None, spec: Mapping[str, Any] | float) -> tuple[Arm[Any], Options, float | None]:
    """Return an arm, its options and its setting, as a job's spec has them; a number is a setting alone."""
    values = dict(spec) if isinstance(spec, Mapping) else {}
    arm = find_arm(name, file, values.pop("sha256", None))
    setting = spec if not isinstance(spec, Mapping) and arm.setting else None
    if arm.setting and arm.setting.name in values:
        setting = values.pop(arm.setting.name)
    try:
        options = arm.options.model_validate({key: value for key, value in values.items() if key not in IN_SPECS})
    except ValidationError as error:
        raise InputError(f"--spec: {first_problem(error)}") from None
    return arm, options, setting
