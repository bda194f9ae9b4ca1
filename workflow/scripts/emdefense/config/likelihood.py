"""The config's judge-free measure: which held-out answers are read, and under whose models."""

from typing import TYPE_CHECKING, Literal, NoReturn

from pydantic import Field

from emdefense.arms.hooks import call
from emdefense.errors import InputError
from emdefense.section import FilePath, PositiveInt, Section, Seed, shown

if TYPE_CHECKING:
    from emdefense.config.study import Study

TRAINED_ON = {"safe": "safe_data", "pool": "safe_pool"}


class Likelihood(Section):
    """How likely held-out answers of the EMA tasks are to each model, a token, without a judge.

    Read are the cells of the grid on EMA tasks, and each of their models once a task as it is.
    """

    rows: PositiveInt = Field(
        200,
        description="of each side, seeded: misaligned answers of the hold-out, aligned ones with prompts that are not "
        "trained on, safe rows; all where there are fewer",
    )
    safe: FilePath | None = Field(
        None, description="JSONL of safe conversations that nothing is trained on; absent: no safe rows are read"
    )
    seed: Seed = Field(0, description="of the draw")
    models: tuple[str, ...] | None = Field(None, min_length=1, description="whose cells; absent: all of the grid")
    tasks: tuple[str, ...] | None = Field(None, min_length=1, description="whose cells; absent: all EMA tasks")
    settings: Literal["all", "chosen"] = Field(
        "chosen",
        description="chosen: of arms with settings, the one that the report chose, and all where the data choose; all: "
        "every cell",
    )


def check_likelihood(study: "Study") -> None:
    """Raise :class:`InputError`, naming the key, for models and tasks that there are not, and safe rows trained on."""
    section = study.likelihood
    if section is None:
        return
    for key, what, known in (("models", "model", list(study.models)), ("tasks", "EMA task", study.ema_tasks)):
        selected = getattr(section, key) or ()
        for place, one in enumerate(selected):
            if one not in known:
                _fail(key, f"unknown {what} {shown(one)}; write one of {', '.join(known)}")
            if one in selected[:place]:
                _fail(key, f"{shown(one)} stands there twice; write each once")
    for arm, role in _safe_readers(study):
        if section.safe is not None and section.safe == _file(study, role):
            _fail("safe", f"'{arm}' is trained on {TRAINED_ON[role]}, which is the same file; name one of other rows")


def _safe_readers(study: "Study") -> list[tuple[str, str]]:
    """Return the arms of the grid that read safe rows, or the pool, each with what it reads."""
    found = []
    for name in dict.fromkeys(name for block in study.grid for name in block.arms):
        for member in study.every_arm[name].members:
            read = {*call(member.arm, "row_roles", member.options), *call(member.arm, "materials", member.options)}
            found += [(name, role) for role in TRAINED_ON if role in {*read, member.arm.stream}]
    return found


def _file(study: "Study", role: str) -> str | None:
    return study.safe_data if role == "safe" else study.safe_pool or study.safe_data


def _fail(key: str, problem: str) -> NoReturn:
    raise InputError(f"key 'likelihood.{key}': {problem}")
