"""Checks of what the config names: files and folders that are there, that a source becomes, or that the study makes."""

import difflib
import re
from pathlib import Path
from typing import Any, NoReturn

from emdefense.arms.base import Options
from emdefense.config.made_files import RESULTS, made_files, made_folders
from emdefense.config.source_checks import check_reference, check_sources
from emdefense.config.sources import SourceSection
from emdefense.config.study import Study
from emdefense.errors import InputError
from emdefense.section import shown
from emdefense.text_files import check_regular

LONGEST_PART, LONGEST_PATH = 200, 2000  # bytes, with room for what is added
PLACEHOLDERS = ("{results}", "{sources}", "{data_folder}")


def check_paths(study: Study) -> None:
    """Raise :class:`InputError`, naming the key, for a path that cannot be used or at which there is nothing."""
    for key in ("data_folder", "sources_folder", "judge_cache"):
        if folder := getattr(study, key):
            _check_written(key, folder, ())
    paths = _named_paths(study)
    for key, path in paths.items():
        _check_written(key, path, PLACEHOLDERS)
    check_sources({name: resolved_source(study, name) for name in study.sources}, Path(study.sources_folder))
    for key, path in paths.items():
        _check_there(study, key, path)


def resolve(study: Study, path: str, key: str = "") -> str:
    """Return ``path`` with its placeholders filled in; :class:`InputError` if {data_folder} is not set."""
    if "{data_folder}" in path and study.data_folder is None:
        _fail(key, f"{path} needs the key 'data_folder'; set it with --config data_folder=PATH")
    folders = {"results": f"results/{study.study}", "sources": study.sources_folder, "data_folder": study.data_folder}
    for name, folder in folders.items():
        path = path.replace(f"{{{name}}}", folder or "")
    return path


def resolved_options(study: Study, options: Options) -> dict[str, Any]:
    """Return an arm's options as JSON has them, the placeholders in paths filled in."""
    found = options.in_spec()
    return found | {key: resolve(study, found[key]) for key in options.files if found.get(key) is not None}


def resolved_source(study: Study, name: str) -> SourceSection:
    """Return a source, the placeholders in its local path filled in."""
    source = study.sources[name]
    path = None if source.path is None else resolve(study, source.path, f"sources.{name}.path")
    return source.model_copy(update={"path": path})


def _fail(key: str, problem: str) -> NoReturn:
    raise InputError(f"key '{key}': {problem}")


def _named_paths(study: Study) -> dict[str, str]:
    """Return each key that names a file or folder, and what it says."""
    paths: dict[str, str | None] = {"general_questions": study.general_questions, "safe_data": study.safe_data}
    for name, model in study.models.items():
        paths |= {f"models.{name}.{key}": getattr(model, key) for key in ("instruct", "base")}
    for name, task in study.tasks.items():
        keys = ("misaligned", "aligned", "questions", "rubrics") if task.kind == "ema" else ("train", "test")
        paths |= {f"tasks.{name}.{key}": getattr(task, key) for key in keys}
    paths |= {f"multiple_choice.{name}.file": asked.file for name, asked in study.multiple_choice.items()}
    judges = {"judge": study.judge, **{f"second_judges.{n}": judge for n, judge in enumerate(study.second_judges)}}
    paths |= {f"{key}.world": judge.world for key, judge in judges.items() if judge and judge.kind == "oracle"}
    paths |= {f"sources.{name}.path": source.path for name, source in study.sources.items()}
    paths |= {key: getattr(study, key) for key in ("safe_pool", "elicitation_questions")}
    paths |= {} if study.likelihood is None else {"likelihood.safe": study.likelihood.safe}
    paths |= {f"question_sets.{name}.file": found.file for name, found in study.question_sets.items()}
    for name, arm in study.every_arm.items():
        under = f"arms.{name}" if arm.of is None else f"variants.{name}.options"
        paths |= {f"{under}.{key}": getattr(arm.options, key) for key in arm.options.files}
    return {key: path for key, path in paths.items() if path is not None}


def _check_written(key: str, path: str, placeholders: tuple[str, ...]) -> None:
    """Check what no path may hold: other placeholders, and what a command takes for an option."""
    if unknown := [found for found in re.findall(r"\{[^{}]*\}?|\}", path) if found not in placeholders]:
        known = f"write one of {', '.join(placeholders)}" if placeholders else "this path has none"
        _fail(key, f"{shown(unknown[0])} in the path is no placeholder; {known}, and no other braces")
    if path.startswith("-"):
        _fail(key, f"{shown(path)} looks like an option; write a path that does not begin with '-'")
    if len(path.encode()) > LONGEST_PATH or max(len(part.encode()) for part in path.split("/")) > LONGEST_PART:
        _fail(key, f"{shown(path)} is longer than a file system takes; write a shorter path")


def _check_there(study: Study, key: str, named: str) -> None:
    """Check that a file or model is there, unless a job makes it."""
    is_model = key.startswith("models.")
    made = made_folders(study) if is_model else made_files(study)
    if "{sources}" in named:
        check_reference(study.sources, key, named)
    elif named not in made:
        path = Path(resolve(study, named, key))
        try:
            _check_model(key, path) if is_model else _check_file(key, path)
        except OSError as error:
            _fail(key, f"{shown(str(path))} cannot be read ({error.strerror}); correct the path")
        except InputError:
            if RESULTS in named and not path.exists():
                close = difflib.get_close_matches(named, made, n=1)
                hint = f"did you mean {close[0]}?" if close else "name a file of yours, or add what makes it"
                _fail(key, f"nothing makes {named}; {hint}")
            raise


def _check_file(key: str, path: Path) -> None:
    if not path.exists() and not path.is_symlink():
        _fail(key, f"{path} does not exist; correct the path or fetch the file")
    if path.is_dir() and key.startswith("sources."):
        return
    try:
        check_regular(path)
    except InputError as error:
        _fail(key, str(error))


def _check_model(key: str, path: Path) -> None:
    if not path.exists():
        _fail(key, f"{path} does not exist; correct the path or fetch the file")
    if not (path / "config.json").is_file():
        _fail(key, f"{path} has no config.json; name a folder with a saved model")
    if key.endswith(".instruct") and not (path / "tokenizer_config.json").is_file():
        _fail(key, f"{path} has no tokenizer (tokenizer_config.json); save it with the model")
