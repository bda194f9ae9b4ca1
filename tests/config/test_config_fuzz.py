"""Configs changed at every key: each is a study, or one line that names a key, and never anything else."""

import copy
import datetime
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, get_args

import pytest

from emdefense.cells import Grid
from emdefense.config import Study, parse_study
from emdefense.config.load import read_config
from emdefense.errors import InputError
from emdefense.inputs import Inputs
from emdefense.layout import Layout
from emdefense.resources.gpus import Gpu, read_gpus
from emdefense.resources.jobs import Requests
from emdefense.section import SECRET_KEYS, Section
from emdefense.specs import Specs
from small_config import SMALL, changed

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ["config.yaml", "config/smoke.yaml", "config/paper.yaml", "config/qwen-0.5b.yaml", "config/sweep-ldifs.yaml"]
SHIPPED_VARIATIONS = 40  # of each
EVERY = 16  # of the variations of the small config, one; each key has many, and each kind stands at many keys
# What a value becomes, and what stands for it in the names of tests that fail.
MUTATIONS: dict[str, Any] = {
    "null": None,
    "list": [],
    "list of lists": [[1, [2]], {"a": [3]}],
    "mapping": {},
    "mapping of mappings": {"a": {"b": {"c": 1}}, "": {"": None}},
    "number as key": {1: 2, None: 3, 2.5: 5, 10**5000: 6},
    "empty": "",
    "blank": " \t",
    "word": "x",
    "unicode": "ᚠ‮\u2028é",
    "lines": "a\nb\r\nc",
    "nul": "a\0b",
    "half a pair": "\ud800",
    "up": "../../x",
    "command": "$(touch PWNED)`touch PWNED`; touch PWNED",
    "braces": "{results}/{wildcards.x}{{}}",
    "open brace": "{results",
    "option": "--help",
    "long": "y" * 5000,
    "0": 0,
    "1": 1,
    "minus": -1,
    "large": 2**32,
    "larger": 2**63,
    "5000 digits": 10**5000,
    "0.5": 0.5,
    "minus 0": -0.0,
    "tiny": 5e-324,
    "1e308": 1e308,
    "nan": float("nan"),
    "inf": float("inf"),
    "true": True,
    "number in a text": "1e999",
    "digits in a text": "9" * 5000,
    "date": datetime.date(2024, 5, 4),
    "bytes": b"\xff",
    "set": {1, 2},
}
NAMES = ["general", "SHARED", "questions", "a b", "a/b", "..", "a.", "-a", "é", "", "a\nb", "z" * 300, 7, None, True]
SECRETS = {  # as they are pasted, and what of them nobody may see
    "sk-proj-4fGh0123456789abcdefABCDEF": "0123456789abc",
    "http://user:hunter2secret@host/v1": "hunter2",
    "http://host/v1?api_key=hunter2secret": "hunter2",
    "hf_AbCdEfGhIjKlMnOp0123456789": "0123456789",
}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A config with every key of every section, in a folder that has its files."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for name in ("rows.jsonl", "foqa.parquet"):
        (tmp_path / "data" / name).touch()
    return Study.model_validate(SMALL).model_dump(mode="json")


def everything(study: Study, gpus: dict[str, Gpu]) -> None:
    """What the Snakefile looks up before a job starts."""
    grid, layout, requests = Grid(study), Layout(study), Requests(study, gpus)
    for cell in grid.cells:
        layout.cell(cell)
        Specs(grid).generation(cell)
        for size in (requests.sample(cell), requests.change(cell.model)):
            assert size.memory(1) > 0
            assert size.runtime(2) > 0
    for cell in grid.trained:
        assert json.dumps(Specs(grid).training(cell))
        assert Inputs(grid).training_rows(cell)
        Inputs(grid).features(cell)
        requests.train(cell)
    for cell, question_set, judge in grid.judgments:
        requests.judge(cell, judge, question_set)
    json.dumps(study.model_dump(mode="json"), allow_nan=False).encode()
    requests.check()


def paths(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path to every value of a config."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in inner:
        yield (*at, key)
        yield from paths(below, (*at, key))


def without(config: dict[str, Any], path: tuple[Any, ...], renamed: Any = ...) -> dict[str, Any]:
    """The config without a key, or with it under another name."""
    found = copy.deepcopy(config)
    section: Any = found
    for key in path[:-1]:
        section = section[key]
    value = section.pop(path[-1])
    if renamed is not ...:
        section[renamed] = value
    return found


def variations(config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every change of a config, named."""
    for path in paths(config):
        where = ".".join(map(str, path))
        yield f"{where} removed", without(config, path)
        for name, value in MUTATIONS.items():
            yield f"{where} = {name}", changed(config, path, value)
        if isinstance(path[-1], str):
            for key in NAMES:
                yield f"{where} called {key!r:.20}", without(config, path, key)
        yield f"{where} in a list", changed(config, path, [at(config, path)])
        yield f"{where} twice in a list", changed(config, path, [at(config, path)] * 2)


def at(config: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        config = config[key]
    return config


def outcome(config: dict[str, Any], gpus: dict[str, Gpu]) -> str:
    """The line with which a config is refused, or nothing; anything else is raised."""
    try:
        everything(parse_study(config, "study.yaml"), gpus)
    except InputError as error:
        line = str(error)
        assert line.splitlines() == [line]
        assert "key '" in line
        assert len(line) < 700
        return line
    return ""


@pytest.fixture(scope="module")
def gpus() -> dict[str, Gpu]:
    return read_gpus(ROOT / "profiles/slurm/gpus.yaml")


def check(named: Iterable[tuple[str, dict[str, Any]]], gpus: dict[str, Gpu]) -> dict[str, int]:
    """How many of these configs are refused, and how many are studies; fails for one that is neither."""
    counts = {"refused": 0, "studies": 0}
    for name, variation in named:
        try:
            counts["refused" if outcome(variation, gpus) else "studies"] += 1
        except Exception as error:
            pytest.fail(f"{name}: {type(error).__name__}: {error!s:.300}")
    return counts


def sections(annotation: Any) -> set[type[Section]]:
    """The sections that a key's type is made of, and those in them."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return {annotation}.union(*(sections(field.annotation) for field in annotation.model_fields.values()))
    return set().union(*map(sections, get_args(annotation)))


def test_the_config_has_every_key(config: dict[str, Any], gpus: dict[str, Gpu]) -> None:
    assert outcome(config, gpus) == ""
    there = {path[-1] for path in paths(config)}
    config_modules = "emdefense.config."
    known = {
        key
        for section in sections(Section)
        if section.__module__.startswith(config_modules)
        for key in section.model_fields
    }
    assert known - there == set()


def test_a_changed_config_is_a_study_or_one_line_that_names_a_key(config: dict[str, Any], gpus: dict[str, Gpu]) -> None:
    counts = check(islice(variations(config), 0, None, EVERY), gpus)
    assert counts["refused"] > 900
    assert counts["studies"] > 40


def test_keys_and_passwords_are_not_shown(config: dict[str, Any], gpus: dict[str, Gpu]) -> None:
    for path in paths(config):
        if path[0] in ("judge", "second_judges", "sources", "general_questions", "data_folder"):
            for secret, part in SECRETS.items():
                for value in (secret, [secret], {secret: secret}):
                    line = outcome(changed(config, path, value), gpus)
                    assert part not in line, path
                    assert line or path[-1] not in SECRET_KEYS, path


@pytest.mark.parametrize("path", SHIPPED)
def test_a_changed_shipped_config_is_one_too(
    path: str, gpus: dict[str, Gpu], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = read_config(ROOT / path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").symlink_to(ROOT / "config")
    named = list(variations(shipped))
    assert sum(check(Random(path).sample(named, SHIPPED_VARIATIONS), gpus).values()) == SHIPPED_VARIATIONS
