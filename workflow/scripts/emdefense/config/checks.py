"""What pydantic cannot check: references between sections, ranges that depend on the arm, and the user's files."""

import difflib
import re
from pathlib import Path
from typing import NoReturn

from emdefense.config.source_checks import check_reference, check_sources
from emdefense.config.sources import SourceSection
from emdefense.config.study import (
    ARMS,
    BENIGN_ARMS,
    EMA_ARMS,
    PLAIN_ARMS,
    EmaTask,
    Generation,
    GridBlock,
    Study,
    Verdicts,
)
from emdefense.config.training import DEFENCES, PENALTIES, Training
from emdefense.config.variants import variant_options
from emdefense.errors import InputError

VLLM_TEMPERATURES = (0.01, 2.0)  # it raises what is below, and refuses what is above


def check_study(study: Study) -> None:
    """Raise :class:`InputError`, naming the key, for the first mistake found."""
    for name, variant in study.variants.items():
        if name in ARMS:
            _fail(f"variants.{name}", f"'{name}' is an arm already; give the variant another name")
        variant_options(study.arms, variant, f"variants.{name}")
    for number, block in enumerate(study.grid):
        _check_names(study, block, f"grid.{number}")
        for arm, settings in block.arms.items():
            key = f"grid.{number}.arms.{arm}"
            _check_settings(key, study.variants[arm].of if arm in study.variants else arm, settings or ())
            _check_needs(study, block, arm, key)
    for key, model in (("main_model", study.report.main_model), ("second_model", study.report.second_model)):
        if model is not None and model not in study.models:
            _fail(f"report.{key}", f"unknown model '{model}'; write one of {', '.join(study.models)}")
    for key in ("chosen", "chosen_benign"):
        for arm in getattr(study.report, key):
            if arm not in (known := (*DEFENCES, *study.variants)):
                _fail(f"report.{key}", f"unknown defence '{arm}'; write one of {', '.join(known)}")
    _check_verdicts(study.report.verdicts)
    _check_question_groups(study.scoring.question_groups)
    if len(study.judges) != 1 + len(study.second_judges):
        _fail("second_judges", "two judges have the same name, and it names the files of their judgments; rename one")
    if len(set(study.seeds)) != len(study.seeds):
        _fail("seeds", "a seed stands there twice; write each once")
    check_training(study.training)
    check_generation(study.generation)
    for name, task in study.tasks.items():
        check_training(task.training.applied_to(study.training), f"tasks.{name}.training")
    check_sources({name: resolved_source(study, name) for name in study.sources}, Path(study.sources_folder))
    _check_files(study)


def check_training(training: Training, key: str = "training") -> None:
    """Raise :class:`InputError` if keys of a training contradict each other."""
    if training.accumulation_steps % training.devices:
        _fail(
            f"{key}.accumulation_steps",
            f"{training.accumulation_steps} steps cannot be shared by training.devices = {training.devices}; "
            "write a multiple",
        )
    if training.attention == "flash_attention_2" and training.precision == "float32":
        _fail(f"{key}.attention", "flash_attention_2 computes in bfloat16 only; set training.precision to it")


def check_generation(generation: Generation) -> None:
    """Raise :class:`InputError` if the engine cannot sample as the other keys say."""
    if generation.engine == "vllm":
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


def _check_verdicts(verdicts: Verdicts) -> None:
    """Check that what Table 1 calls yes is not less than what it calls partly."""
    for key, (yes, partly) in verdicts.model_dump().items():
        more, less = (partly, yes) if key == "incoherent_pct" else (yes, partly)
        if more < less:
            _fail(f"report.verdicts.{key}", f"[{yes:g}, {partly:g}] leaves no room for ~; write the one for ✓ first")


def _check_question_groups(pattern: str | None) -> None:
    """Check that the pattern of question ids is one, and says which part of an id is the group."""
    if pattern is None:
        return
    key = "scoring.question_groups"
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        _fail(key, f"'{pattern}' is no regular expression ({error}); write for example '^(.*)_[0-9]+$'")
    if groups != 1:
        _fail(key, f"'{pattern}' has {groups} bracketed groups; write one, for example '^(.*)_[0-9]+$'")


def _check_names(study: Study, block: GridBlock, here: str) -> None:
    """Check that a block's models, tasks and arms exist, and that each task has each arm."""
    for model in block.models:
        if model not in study.models:
            _fail(f"{here}.models", f"unknown model '{model}'; write one of {', '.join(study.models)}")
    for task in block.tasks:
        if task not in study.tasks:
            _fail(f"{here}.tasks", f"unknown task '{task}'; write one of {', '.join(study.tasks)}")
    for arm in block.arms:
        if arm not in (arms := (*ARMS, *study.variants)):
            close = difflib.get_close_matches(arm, arms, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"write one of {', '.join(arms)}"
            _fail(f"{here}.arms.{arm}", f"unknown arm '{arm}'; {hint}")
        for task in block.tasks:
            allowed = (*(EMA_ARMS if study.tasks[task].kind == "ema" else BENIGN_ARMS), *study.variants)
            if arm not in allowed:
                _fail(f"{here}.arms.{arm}", f"task '{task}' has no arm '{arm}'; write one of {', '.join(allowed)}")


def _check_settings(key: str, arm: str, settings: tuple[float, ...]) -> None:
    """Check that an arm has settings if it needs them, each in its range."""
    if arm in PLAIN_ARMS and settings:
        _fail(key, "this arm has no settings; leave the value empty")
    if arm not in PLAIN_ARMS and not settings:
        _fail(key, "give its settings as a list, for example [0.1, 0.3]")
    for setting in settings:
        if arm == "safelora" and not 0 <= setting <= 1:
            _fail(key, f"τ = {setting:g} lies outside [0, 1]; cosines do not")
        if arm == "interleave" and not 0 < setting <= 100:
            _fail(key, f"{setting:g} is not a percentage in (0, 100]")
        if arm in PENALTIES and setting < 0:
            _fail(key, f"λ = {setting:g} is negative; write 0 or more")


def _check_needs(study: Study, block: GridBlock, arm: str, key: str) -> None:
    """Check that the files that an arm needs are named."""
    if arm == "interleave" and study.safe_data is None:
        _fail("safe_data", f"'{key}' needs a JSONL file of safe conversations; name it")
    for model in block.models:
        if arm == "safelora" and study.models[model].base is None:
            _fail(f"models.{model}.base", "SafeLoRA needs the model before alignment; name its folder")
    for name in block.tasks:
        task = study.tasks[name]
        if arm == "aligned" and isinstance(task, EmaTask) and task.aligned is None:
            _fail(f"tasks.{name}.aligned", f"'{key}' needs a JSONL file of aligned rows; name it")


def resolve(study: Study, path: str, key: str = "") -> str:
    """Return ``path`` with its placeholders filled in; :class:`InputError` if {data_folder} is not set."""
    if "{data_folder}" in path and study.data_folder is None:
        _fail(key, f"{path} needs the key 'data_folder'; set it with --config data_folder=PATH")
    folders = {"results": f"results/{study.study}", "sources": study.sources_folder, "data_folder": study.data_folder}
    for name, folder in folders.items():
        path = path.replace(f"{{{name}}}", folder or "")
    return path


def resolved_source(study: Study, name: str) -> SourceSection:
    """Return a source, the placeholders in its local path filled in."""
    source = study.sources[name]
    path = None if source.path is None else resolve(study, source.path, f"sources.{name}.path")
    return source.model_copy(update={"path": path})


def _named_paths(study: Study) -> dict[str, str | None]:
    """Return each key that names a file or folder, and what it says."""
    paths: dict[str, str | None] = {"general_questions": study.general_questions, "safe_data": study.safe_data}
    for name, model in study.models.items():
        paths |= {f"models.{name}.{key}": getattr(model, key) for key in ("instruct", "base")}
    for name, task in study.tasks.items():
        keys = ("misaligned", "aligned", "questions", "rubrics") if task.kind == "ema" else ("train", "test")
        paths |= {f"tasks.{name}.{key}": getattr(task, key) for key in keys}
    return paths | {f"sources.{name}.path": source.path for name, source in study.sources.items()}


def _check_files(study: Study) -> None:
    """Check that files and models that no job makes are there."""
    for key, named in _named_paths(study).items():
        if named is None or "{results}" in named:
            continue
        if "{sources}" in named:
            check_reference(study.sources, key, named)
            continue
        path = Path(resolve(study, named, key))
        if not path.exists():
            _fail(key, f"{path} does not exist; correct the path or fetch the file")
        if key.startswith("models.") and not (path / "config.json").is_file():
            _fail(key, f"{path} has no config.json; name a folder with a saved model")
        if key.endswith(".instruct") and not (path / "tokenizer_config.json").is_file():
            _fail(key, f"{path} has no tokenizer (tokenizer_config.json); save it with the model")
