"""Whether a class of a study's own file declares an arm."""

import math
import re
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from emdefense.arms import STANDARD
from emdefense.arms.base import HOOKS, IN_SPECS, LOSS_HOOKS, ROLES, SIDES, TRAINING_HOOKS, Arm, Kind, Options
from emdefense.arms.hooks import raised
from emdefense.arms.look import Look
from emdefense.arms.setting import NO_SETTING, Setting
from emdefense.errors import InputError
from emdefense.names import NAME_IN_WORDS, is_name
from emdefense.section import first_problem, is_line

READABLE_ROWS = ("safe", "aligned")
TUPLES = {"kinds": get_args(Kind), "reads_rows": READABLE_ROWS, "prepared_from": ROLES}
_COLOR = re.compile("#[0-9A-Fa-f]{6}|0?[.][0-9]+")  # of matplotlib's: all that is the same in print and on a page
_MARKERS = ".,ov^<>1234sp*hH+xDd|_PX8"


def declared(kind: type[Arm[Any]], file: str, digest: str) -> Arm[Any]:
    """Return the arm that a class declares; :class:`InputError` names file and arm if its declaration is none."""
    try:
        arm = _declared(kind)
    except _Problem as problem:
        name = kind.name if isinstance(kind.name, str) else kind.__name__
        raise InputError(f"{file}: arm '{name}': {problem}") from None
    arm.file, arm.digest = Path(file), digest
    # What it inherits from an arm of the pipeline is that one's: the paper's table and figures, further ones, the look.
    kind.sweep, kind.artefacts = None, ""
    if kind.look in [other.look for other in STANDARD.values()]:
        kind.look = None
    return arm


class _Problem(Exception):
    pass


def _declared(kind: type[Arm[Any]]) -> Arm[Any]:
    if not isinstance(kind.name, str) or not is_name(kind.name):
        raise _Problem(f"name: {NAME_IN_WORDS}")
    if not is_line(getattr(kind, "title", None)):
        raise _Problem("title: write what tables call it, on one line")
    _check_setting(kind.setting)
    _check_look(kind.look)
    _check_options(kind.options)
    for key, allowed in TUPLES.items():
        value = getattr(kind, key)
        if not isinstance(value, tuple) or not all(one in allowed for one in value):
            raise _Problem(f"{key}: {value!r} is no tuple of {', '.join(allowed)}")
    if not kind.kinds:
        raise _Problem("kinds: no task would have it; write ('ema',), ('benign',) or both")
    if kind.side not in SIDES:
        raise _Problem(f"side: {kind.side!r} is neither {' nor '.join(SIDES)}")
    if kind.setting and kind.setting.name in (*IN_SPECS, *kind.options.model_fields):
        raise _Problem(f"setting: an option, or the pipeline, calls something '{kind.setting.name}'; name it otherwise")
    for option in kind.options.model_fields:
        if option in IN_SPECS:
            raise _Problem(f"options: the pipeline calls something '{option}'; name it otherwise")
    if not (kind.is_trained and kind.is_defence):
        raise _Problem("is_trained and is_defence are for the pipeline's controls; leave them out")
    try:
        arm = kind()
    except Exception as error:
        raise _Problem(raised(error)) from None
    _check_hooks(arm)
    return arm


def _check_setting(setting: object) -> None:
    if setting is None:
        return
    if not isinstance(setting, Setting):
        raise _Problem("setting: write a Setting, such as Setting(), or leave it out")
    if not isinstance(setting.name, str) or not setting.name.isidentifier():
        raise _Problem(f"setting: name {setting.name!r}; write a word, such as coefficient")
    if not is_line(setting.symbol):
        raise _Problem(f"setting: symbol {setting.symbol!r}; write a letter, or %")
    bounds = (setting.low, setting.high)
    if not all(isinstance(bound, int | float) for bound in bounds) or not -math.inf < setting.low < setting.high:
        raise _Problem(f"setting: no number lies between {setting.low!r} and {setting.high!r}; write the smaller first")


def _check_look(look: object) -> None:
    if look is None:
        return
    if not isinstance(look, Look) or look.mark is not None:
        raise _Problem("look: write Look(color, marker, dashes), or leave it out")
    if not isinstance(look.color, str) or not _COLOR.fullmatch(look.color):
        raise _Problem(f"look: colour {look.color!r}; write one such as '#0072B2', or a grey such as '0.4'")
    if not isinstance(look.marker, str) or len(look.marker) != 1 or look.marker not in _MARKERS:
        raise _Problem(f"look: marker {look.marker!r}; write one of matplotlib's letters, such as 'o' or 's'")
    match look.dashes:
        case "-" | "--" | "-." | ":":
            return
        case (offset, (_, *_) as lengths) if len(lengths) % 2 == 0:
            if all(isinstance(length, int | float) and 0 <= length < math.inf for length in (offset, *lengths)):
                return
    raise _Problem(f"look: dashes {look.dashes!r}; write '-', '--' or, in points, such as (0, (5, 1.5))")


def _check_options(options: object) -> None:
    if not (isinstance(options, type) and issubclass(options, Options)):
        raise _Problem("options: write a class that derives from emdefense.arms.Options")
    unknown = [name for name in options.reads or () if name not in options.model_fields]
    if unknown:
        raise _Problem(f"options: reads names '{unknown[0]}', and there is no such option")
    try:
        default = options()
        if options.model_validate_json(default.model_dump_json()) != default:
            raise _Problem("options: they are not the same once written as JSON and read; write numbers and texts")
    except ValidationError as error:
        raise _Problem(f"options: {first_problem(error)}; give each a default that it takes") from None
    except _Problem:
        raise
    except Exception as error:
        raise _Problem(f"options: {raised(error)}") from None


def _check_hooks(arm: Arm[Any]) -> None:
    if not arm.overrides(*HOOKS):
        raise _Problem(f"it overrides no hook, so it would be plain fine-tuning; write one of {', '.join(HOOKS)}")
    if arm.overrides("head_term") and arm.overrides("token_term"):
        raise _Problem("head_term and token_term are two forms of one thing; write one of them")
    if arm.overrides("residual_blocks") and not arm.overrides("feature_term"):
        raise _Problem("residual_blocks: only the hook feature_term reads what they name; write both or neither")
    if arm.changes_adapter and (arm.overrides("rows", *LOSS_HOOKS, *TRAINING_HOOKS) or arm.stream):
        raise _Problem("adapter changes what plain fine-tuning made, so no other hook would act; write two arms")
    if arm.has_penalty and (arm.setting is None or arm.setting.low < 0):
        raise _Problem("setting: a penalty is multiplied by one that is not negative; write Setting()")
    if arm.overrides("head_states") and not arm.reads_head:
        raise _Problem("head_states: only head_term and token_term are of what it returns; write one of them")
    if arm.overrides("captured") and not arm.overrides("feature_term"):
        raise _Problem("captured: only the hook feature_term reads what it names; write both or neither")
    if arm.stream not in ("", "safe"):
        raise _Problem(f"stream: {arm.stream!r}; write 'safe', or leave it out")
    if bool(arm.stream) != arm.overrides("stream_rows"):
        raise _Problem("stream names the rows of which the hook stream_rows takes some a step; write both or neither")
    if arm.overrides("stream_limit") and not arm.stream:
        raise _Problem("stream_limit: it restricts the rows that stream names; write both or neither")
    if arm.reads_prefix and not arm.overrides("feature_term", "head_term"):
        raise _Problem("reads_prefix: only feature_term and head_term get what stands around users' texts; write one")
    if arm.repeats_rows and not arm.overrides("order"):
        raise _Problem("repeats_rows: only the hook order may repeat rows; write it, or leave this out")
    if arm.stream and not arm.has_penalty:
        raise _Problem(f"stream: only a penalty reads it; write one of {', '.join(LOSS_HOOKS)}")
    if arm.reads_rows and not arm.overrides("rows"):
        raise _Problem("reads_rows: only the hook rows reads them; write it, or leave them out")
    if arm.changes_adapter and arm.side != "misaligned":
        raise _Problem("side: the adapter that it changes was trained on misaligned answers; leave it out")
    if bool(arm.preparation) != arm.overrides("prepare"):
        raise _Problem("preparation names the folder of what the hook prepare makes; write both or neither")
    if arm.prepared_from and not arm.preparation:
        raise _Problem("prepared_from: only the hook prepare reads it; write it, or leave it out")
    if arm.preparation and not arm.overrides("rows", "adapter", *TRAINING_HOOKS):
        raise _Problem(f"preparation: only rows, adapter, {', '.join(TRAINING_HOOKS)} read one")
    if arm.preparation and (not is_name(arm.preparation) or _names_a_setting(arm.preparation)):
        raise _Problem(f"preparation: {NAME_IN_WORDS}, beside settings: no number, not {NO_SETTING}")


def _names_a_setting(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return name == NO_SETTING
    return True
