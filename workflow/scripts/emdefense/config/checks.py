"""What pydantic cannot check: references between sections, and ranges that depend on the arm."""

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from emdefense.arms import Arm, format_setting
from emdefense.arms.hooks import call
from emdefense.arms.study_arm import StudyArm
from emdefense.config.expressions import Expressions
from emdefense.config.judged import check_judged
from emdefense.config.likelihood import check_likelihood
from emdefense.config.made_files import RESULTS, WORLD, opswap_files
from emdefense.config.path_checks import check_paths
from emdefense.config.pretraining import check_pretraining
from emdefense.config.question_sets import check_question_sets
from emdefense.config.source_checks import check_source_names
from emdefense.config.study import (
    AUTO,
    BenignTask,
    EmaTask,
    Generation,
    GridBlock,
    QuestionGroups,
    Study,
    Verdicts,
)
from emdefense.config.training import Training
from emdefense.errors import InputError
from emdefense.names import RESERVED_ARMS, RESERVED_STUDIES, RESERVED_TASKS, check_distinct, check_free
from emdefense.section import SHOWN, key_path, shown

NAMED = ("models", "tasks", "variants", "multiple_choice")
VLLM_TEMPERATURES = (0.01, 2.0)  # it raises what is below, and refuses what is above


def check_study(study: Study) -> None:
    """Raise :class:`InputError`, naming the key, for the first mistake found."""
    _check_free_names(study)
    arms = study.every_arm
    for found in arms.values():
        _check_by_task(study, found)
    for number, block in enumerate(study.grid):
        _check_names(study, block, f"grid.{number}")
        for name, settings in block.arms.items():
            key, found = f"grid.{number}.arms.{key_path(name)}", arms[name]
            _check_settings(key, found.arm, settings or ())
            for member in found.members:
                _check_needs(study, block, member, key)
            _check_adds_rows(study, block, found, settings or (), key)
            for other, setting in found.others:
                _check_adds_rows(study, block, other, () if setting is None else (setting,), key)
    for key, model in (("main_model", study.report.main_model), ("second_model", study.report.second_model)):
        if model is not None and model not in study.models:
            _fail(f"report.{key}", f"unknown model {shown(model)}; write one of {', '.join(study.models)}")
    for key in ("chosen", "chosen_benign"):
        for arm in getattr(study.report, key):
            if arm not in (known := [name for name, found in arms.items() if found.arm.is_defence]):
                _fail(f"report.{key}", f"unknown defence {shown(arm)}; write one of {', '.join(known)}")
            chosen = (study.report.chosen[arm],) if key == "chosen" else study.report.chosen_benign[arm]
            if chosen == (AUTO,) and arms[arm].arm.setting is not None:
                continue
            if chosen:
                _check_settings(f"report.{key}.{arm}", arms[arm].arm, chosen)  # type: ignore[arg-type]
    check_question_sets(study)
    check_judged(study)
    _check_asked(study)
    check_likelihood(study)
    _check_verdicts(study.report.verdicts)
    _check_question_groups(study.scoring.question_groups)
    _check_once("seeds", study.seeds)
    _check_once("report.table_columns", study.report.table_columns)
    if study.opswap:
        _check_expressions("opswap", study.opswap)
    if study.microcosm:
        _check_expressions("microcosm.arithmetic", study.microcosm.arithmetic)
        check_pretraining(study)
    check_training(study.training)
    check_generation(study.generation)
    _check_quantised_alike(study)
    for name, task in study.tasks.items():
        check_training(task.training.applied_to(study.training), f"tasks.{name}.training")
        if isinstance(task, BenignTask) and (task.table == "opswap") != (task.tier is not None):
            _fail(f"tasks.{name}.tier", "OpSwap's tasks have one, from 0 to 3, and others have none")
    for name, trained in study.models.items():
        check_training(trained.training.applied_to(study.training), f"models.{name}.training")
    check_paths(study)


def check_training(training: Training, key: str = "training") -> None:
    """Raise :class:`InputError` if keys of a training contradict each other."""
    _check_once(f"{key}.target_modules", training.target_modules)
    _check_once(f"{key}.target_layers", training.target_layers or ())
    if training.attention == "flash_attention_2" and training.precision == "float32":
        _fail(f"{key}.attention", "flash_attention_2 computes in bfloat16 only; set training.precision to it")


def _check_quantised_alike(study: Study) -> None:
    """Check that what is asked is the model that was trained."""
    trained, asked = study.training.quantisation, study.generation.quantisation
    if trained != asked:
        _fail("generation.quantisation", f"{asked}, and training.quantisation is {trained}; write the same for both")


def check_generation(generation: Generation) -> None:
    """Raise :class:`InputError` if the engine cannot sample as the other keys say."""
    if generation.engine == "vllm":
        if generation.quantisation != "none":
            _fail("generation.engine", "vllm has the model in bfloat16; write transformers, or quantisation: none")
        if generation.precision != "bfloat16":
            _fail("generation.precision", "vllm applies adapters in bfloat16 only; write it, or engine: transformers")
        lowest, highest = VLLM_TEMPERATURES
        if not lowest <= generation.temperature <= highest:
            _fail(
                "generation.temperature",
                f"vllm has no {generation.temperature:g}; write {lowest:g} to {highest:g}, or engine: transformers",
            )


def _fail(key: str, problem: str) -> NoReturn:
    raise InputError(f"key '{key}': {problem}")


def _check_asked(study: Study) -> None:
    """Check that multiple-choice questions are asked of models and tasks that there are, whether or not in the grid."""
    for name, section in study.multiple_choice.items():
        for key, what, known in (("models", "model", study.models), ("tasks", "task", study.tasks)):
            where = f"multiple_choice.{key_path(name)}.{key}"
            for one in (selected := getattr(section, key) or ()):
                if one not in known:
                    _fail(where, f"unknown {what} {shown(one)}; write one of {', '.join(known)}")
            _check_once(where, selected)


def _check_verdicts(verdicts: Verdicts) -> None:
    """Check that what Table 1 calls yes is not less than what it calls partly."""
    for key, (yes, partly) in verdicts.model_dump().items():
        more, less = (partly, yes) if key == "incoherent_pct" else (yes, partly)
        if more < less:
            _fail(f"report.verdicts.{key}", f"[{yes:g}, {partly:g}] leaves no room for ~; write the one for ✓ first")


def _check_question_groups(pattern: QuestionGroups) -> None:
    """Check that a pattern of question ids is one that says which part is the group; else that no id is in two."""
    key = "scoring.question_groups"
    if pattern is None:
        return
    if not isinstance(pattern, str):
        _check_once(key, [question for members in pattern.values() for question in members])
        for name, members in pattern.items():
            if not members:
                _fail(f"{key}.{key_path(name)}", "it has no question; list the ids of its questions, or remove it")
        return
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        _fail(key, f"'{pattern}' is no regular expression ({error}); write for example '^(.*)_[0-9]+$'")
    if groups != 1:
        _fail(key, f"'{pattern}' has {groups} bracketed groups; write one, for example '^(.*)_[0-9]+$'")


def _check_once(key: str, values: Sequence[object]) -> None:
    for place, value in enumerate(values):
        if value in values[:place]:
            _fail(key, f"{shown(value)} stands there twice; write each once")


def _check_free_names(study: Study) -> None:
    """Check that no two things have one name in paths."""
    check_free("study", study.study, RESERVED_STUDIES)
    for task in study.tasks:
        check_free(f"tasks.{task}", task, RESERVED_TASKS)
    for name, arm in study.every_arm.items():
        check_free(f"{'arms' if arm.of is None else 'variants'}.{name}", name, RESERVED_ARMS)
    named: dict[str, Iterable[str]] = {key: getattr(study, key) for key in NAMED}
    if study.microcosm:
        named["microcosm.models"] = study.microcosm.models
    for key, names in named.items():
        check_distinct(key, names)
    if study.judge is not None and len(study.judges) != 1 + len(study.second_judges):
        _fail("second_judges", "two judges have the same name, and it names the files of their judgments; rename one")
    check_distinct("second_judges", study.judges)
    check_source_names(study.sources)


def _check_expressions(key: str, shape: Expressions) -> None:
    if shape.min_operators > shape.max_operators:
        _fail(
            f"{key}.min_operators",
            f"{shape.min_operators} is more than max_operators = {shape.max_operators}; write at most that",
        )


def _check_names(study: Study, block: GridBlock, here: str) -> None:
    """Check that a block's models, tasks and arms exist, each named once, and that each task has each arm."""
    _check_once(f"{here}.models", block.models)
    _check_once(f"{here}.tasks", block.tasks)
    for model in block.models:
        if model not in study.models:
            _fail(f"{here}.models", f"unknown model {shown(model)}; write one of {', '.join(study.models)}")
    for task in block.tasks:
        if task not in study.tasks:
            _fail(f"{here}.tasks", f"unknown task {shown(task)}; write one of {', '.join(study.tasks)}")
    for arm in block.arms:
        if arm not in (arms := study.every_arm):
            close = difflib.get_close_matches(arm[:SHOWN], arms, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"write one of {', '.join(arms)}"
            _fail(f"{here}.arms.{key_path(arm)}", f"unknown arm {shown(arm)}; {hint}")
        for task in block.tasks:
            kind = study.tasks[task].kind
            if kind not in arms[arm].arm.kinds:
                allowed = ", ".join(name for name, found in arms.items() if kind in found.arm.kinds)
                _fail(f"{here}.arms.{arm}", f"task '{task}' has no arm '{arm}'; write one of {allowed}")


def _check_by_task(study: Study, found: StudyArm) -> None:
    """Check that options with values for single tasks name the study's."""
    section = f"arms.{found.name}" if found.of is None else f"variants.{found.name}.options"
    for option in found.options.by_task:
        for task in getattr(found.options, option):
            if task not in study.tasks:
                _fail(f"{section}.{option}.{key_path(task)}", f"no such task; write one of {', '.join(study.tasks)}")


def _check_settings(key: str, arm: Arm[Any], settings: tuple[float, ...]) -> None:
    """Check that an arm has settings if it needs them, each in its range."""
    if arm.setting is None and settings:
        _fail(key, "this arm has no settings; leave the value empty")
    if arm.setting is not None and not settings:
        _fail(key, "give its settings as a list, for example [0.1, 0.3]")
    for setting in settings:
        if arm.setting is not None and (problem := arm.setting.problem(setting)):
            _fail(key, problem)
    _check_once(key, settings)


def _check_needs(study: Study, block: GridBlock, found: StudyArm, key: str) -> None:
    """Check that the files that an arm needs are named."""
    arm = found.arm
    rows, materials = (tuple(call(arm, hook, found.options)) for hook in ("row_roles", "materials"))
    read = {*(role.partition("/")[0] for role in (*rows, *materials)), arm.stream}
    if arm.stream and study.microcosm and str(study.safe_data).startswith(WORLD):
        limit, made = call(arm, "stream_limit", found.options), study.microcosm.safe_rows
        if limit is not None and limit > made:
            _fail(key, f"{arm.title} reads {limit} safe rows, and 'microcosm.safe_rows' makes {made}; write fewer")
    if "safe" in read and study.safe_data is None:
        _fail("safe_data", f"'{key}' needs a JSONL file of safe conversations; name it")
    if "pool" in read and study.safe_pool is None and study.safe_data is None:
        _fail("safe_pool", f"'{key}' needs a JSONL file of safe conversations to choose from; name it")
    if "elicited" in read and study.elicitation_questions is None:
        _fail("elicitation_questions", f"'{key}' needs a YAML file of questions that elicit the trait; name it")
    for model in block.models:
        if "base" in materials and study.models[model].base is None:
            _fail(f"models.{model}.base", f"{arm.title} needs the model before alignment; name its folder")
    for name in block.tasks:
        task = study.tasks[name]
        if isinstance(task, EmaTask) and task.aligned is None and "aligned" in (arm.side, *read):
            _fail(f"tasks.{name}.aligned", f"'{key}' needs a JSONL file of aligned rows; name it")
        if isinstance(task, BenignTask) and "aligned" in read:
            _fail(
                f"{key}", f"{arm.title} reads aligned rows, and the benign task '{name}' has none; leave it out there"
            )
        for role in materials:
            if (one := role.partition("/")[2]) and one not in (ema := study.other_ema_tasks(name)):
                known = ", ".join(ema) or "another EMA task"
                _fail(key, f"on task '{name}', {arm.title} cannot read the adapter of {shown(one)}; write {known}")
        if "pool" in read and not call(arm, "scored_by", found.options, name, study.ema_tasks):
            _fail(
                key,
                f"{arm.title} scores the pool by misaligned adapters of other EMA tasks, and there is none beside "
                f"'{name}'; add one to tasks",
            )
        for role in {"other_adapters", "other_rows"} & read:
            others = study.other_ema_tasks(name)
            if not others:
                _fail(key, f"{arm.title} reads other EMA tasks, and there is none beside '{name}'; add one to tasks")
            for one in others:
                if role == "other_rows" and study.tasks[one].aligned is None:  # type: ignore[union-attr]
                    _fail(f"tasks.{one}.aligned", f"'{key}' needs a JSONL file of aligned rows; name it")


def _check_adds_rows(study: Study, block: GridBlock, found: StudyArm, settings: Sequence[float], key: str) -> None:
    """Check that each percentage is of a row at least, and of no more than there are, where rows can be counted."""
    for name in block.tasks:
        rows = _most_rows(study, study.tasks[name])
        for setting in settings:
            shown = format_setting(setting)
            if rows is not None and not call(found.arm, "adds_rows", setting, rows):
                _fail(key, f"{shown} % of the {rows} rows of task '{name}', or fewer, is no row; write more")
            made = rows is not None and _is_made(study.tasks[name])
            if made and (option := call(found.arm, "too_few", found.options, setting, rows)):
                _fail(key, f"{shown} % of the {rows} rows of task '{name}' is more than {option}; raise that")


def _is_made(task: EmaTask | BenignTask) -> bool:
    """Whether the study makes a task's rows, so that there are just as many as it says."""
    return (task.misaligned if isinstance(task, EmaTask) else task.train).startswith(RESULTS)


def _most_rows(study: Study, task: EmaTask | BenignTask) -> int | None:
    """Return how many rows a task can be trained on at most; None where only its file knows."""
    if isinstance(task, EmaTask):
        made = study.microcosm.rows_per_task if study.microcosm and task.misaligned.startswith(WORLD) else None
        total = min((count for count in (made, study.data.max_rows) if count is not None), default=None)
        return None if total is None else total - max(1, round(total * study.data.holdout_pct / 100))
    if study.opswap and task.tier is not None and task.train == opswap_files(task.tier)[0]:
        return study.opswap.examples - round(study.opswap.examples * study.opswap.holdout_pct / 100)
    return study.microcosm.foqa_rows if study.microcosm and task.train.startswith(WORLD) else None
