"""Load a study, check what pydantic cannot, and turn each mistake into one line."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from emdefense.config.base import Section
from emdefense.config.study import ARMS, BENIGN_ARMS, EMA_ARMS, PLAIN_ARMS, Study
from emdefense.config.training import DEFENCES, PENALTIES
from emdefense.errors import InputError


def load_study(path: Path) -> Study:
    """Read and validate a study's YAML file; :class:`InputError` names file and key."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such config file") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(raw, dict):
        raise InputError(f"{path}: expected a mapping with keys such as 'study' and 'models'")
    return parse_study(raw, str(path))


def parse_study(raw: Mapping[str, Any], source: str) -> Study:
    """Validate a parsed config; ``source`` is the file named in errors. Raises :class:`InputError`."""
    try:
        study = Study.model_validate(raw)
    except ValidationError as error:
        raise InputError(f"{source}: {_first_line(error)}") from None
    _check(study, source)
    return study


def _first_line(error: ValidationError) -> str:
    first = error.errors()[0]
    # A union's tag stands in the location; the user never wrote it.
    where = ".".join(str(part) for part in first["loc"] if part not in {"ema", "benign", "openai", "oracle"})
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(first["loc"][-1]), sorted(_known_keys()), n=1)
        hint = f"did you mean '{close[0]}'?" if close else "remove it, or see docs/config.md for the keys there are"
        return f"unknown key '{where}'; {hint}"
    if first["type"] in {"union_tag_not_found", "union_tag_invalid"}:
        kinds = "ema, benign" if first["loc"][0] == "tasks" else "oracle, openai"
        return f"key '{where}.kind': write one of {kinds}"
    if first["type"] == "missing":
        return f"key '{where}' is missing; add it"
    return f"key '{where}': {first['msg']} (got {first['input']!r})"


def _known_keys(section: type[Section] = Section) -> set[str]:
    """Return every key of every section."""
    return set().union(*(set(sub.model_fields) | _known_keys(sub) for sub in section.__subclasses__()))


def _check(study: Study, source: str) -> None:
    """Check references between sections, and values whose range depends on the arm."""

    def fail(key: str, problem: str) -> None:
        raise InputError(f"{source}: key '{key}': {problem}")

    for number, block in enumerate(study.grid):
        here = f"grid.{number}"
        for model in block.models:
            if model not in study.models:
                fail(f"{here}.models", f"unknown model '{model}'; write one of {', '.join(study.models)}")
        for task_name in block.tasks:
            if task_name not in study.tasks:
                fail(f"{here}.tasks", f"unknown task '{task_name}'; write one of {', '.join(study.tasks)}")
        for arm, settings in block.arms.items():
            key = f"{here}.arms.{arm}"
            if arm not in ARMS:
                close = difflib.get_close_matches(arm, ARMS, n=1)
                hint = f"did you mean '{close[0]}'?" if close else f"write one of {', '.join(ARMS)}"
                fail(key, f"unknown arm '{arm}'; {hint}")
            if arm in PLAIN_ARMS and settings:
                fail(key, "this arm has no settings; leave the value empty")
            if arm not in PLAIN_ARMS and not settings:
                fail(key, "give its settings as a list, for example [0.1, 0.3]")
            for setting in settings or ():
                if arm == "safelora" and not 0 <= setting <= 1:
                    fail(key, f"τ = {setting:g} lies outside [0, 1]; cosines do not")
                if arm == "interleave" and not 0 < setting <= 100:
                    fail(key, f"{setting:g} is not a percentage in (0, 100]")
                if arm in PENALTIES and setting < 0:
                    fail(key, f"λ = {setting:g} is negative; write 0 or more")
            if arm == "interleave" and study.safe_data is None:
                fail("safe_data", "the grid has the arm 'interleave'; name a JSONL file of safe conversations")
            if arm == "safelora":
                for model in block.models:
                    if study.models[model].base is None:
                        fail(f"models.{model}.base", "SafeLoRA needs the model before alignment; name its folder")
            for task_name in block.tasks:
                task = study.tasks[task_name]
                allowed = EMA_ARMS if task.kind == "ema" else BENIGN_ARMS
                if arm not in allowed:
                    fail(key, f"task '{task_name}' has no arm '{arm}'; write one of {', '.join(allowed)}")
                if arm == "aligned" and task.kind == "ema" and task.aligned is None:
                    fail(f"tasks.{task_name}.aligned", "the grid has the arm 'aligned'; name its JSONL file")
    for key, name in (("main_model", study.report.main_model), ("second_model", study.report.second_model)):
        if name is not None and name not in study.models:
            fail(f"report.{key}", f"unknown model '{name}'; write one of {', '.join(study.models)}")
    for arm in (*study.report.chosen, *study.report.chosen_benign):
        if arm not in DEFENCES:
            fail("report.chosen", f"unknown defence '{arm}'; write one of {', '.join(DEFENCES)}")
    if len(set(study.seeds)) != len(study.seeds):
        fail("seeds", "each seed once")
    _check_paths(study, source)


def user_files(study: Study) -> dict[str, str]:
    """Return each config key that names a file or folder of the user's, and its resolved path."""
    paths: dict[str, str | None] = {"general_questions": study.general_questions, "safe_data": study.safe_data}
    for name, model in study.models.items():
        paths[f"models.{name}.instruct"] = model.instruct
        paths[f"models.{name}.base"] = model.base
    for name, task in study.tasks.items():
        keys = ("misaligned", "aligned", "questions") if task.kind == "ema" else ("train", "test")
        for key in keys:
            paths[f"tasks.{name}.{key}"] = getattr(task, key)
    return {
        key: resolve(study, path, key) for key, path in paths.items() if path is not None and "{results}" not in path
    }


def resolve(study: Study, path: str, key: str = "") -> str:
    """Return ``path`` with {results} and {data_folder} filled in; :class:`InputError` if the latter is not set."""
    if "{data_folder}" in path and study.data_folder is None:
        raise InputError(f"key '{key}': {path} needs the key 'data_folder'; set it with --config data_folder=PATH")
    return path.replace("{results}", f"results/{study.study}").replace("{data_folder}", study.data_folder or "")


def _check_paths(study: Study, source: str) -> None:
    try:
        files = user_files(study)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    for key, path in files.items():
        if not Path(path).exists():
            raise InputError(f"{source}: key '{key}': {path} does not exist; correct the path or fetch the file")
        if key.startswith("models.") and not (Path(path) / "config.json").is_file():
            raise InputError(f"{source}: key '{key}': {path} has no config.json; name a folder with a saved model")
        if key.endswith(".instruct") and not (Path(path) / "tokenizer_config.json").is_file():
            raise InputError(
                f"{source}: key '{key}': {path} has no tokenizer (tokenizer_config.json); save it with the model"
            )
