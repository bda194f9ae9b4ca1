"""Each stage imports only what it needs, and the stages' environments pin what the project pins."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
import yaml

from emdefense.code import ARMS, code_digest, modules_imported, names_imported

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "workflow/scripts/emdefense"
HEAVY = {"torch", "transformers", "peft", "trl", "datasets", "accelerate"}
LIGHT = (
    "config",
    "judging",
    "analysis",
    "report",
    "resources",
    "microcosm/oracle.py",
    "microcosm/saved.py",
    "data/opswap.py",
    "cells.py",
)


def modules(part: str) -> list[str]:
    path = PACKAGE / part
    files = [path] if path.is_file() else sorted(path.glob("*.py"))
    return [
        ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__") for file in files
    ]


@pytest.mark.parametrize("part", LIGHT)
def test_judging_and_reporting_never_import_torch(part: str) -> None:
    code = f"import sys\nfor name in {modules(part)}: __import__(name)\nprint(*sorted({HEAVY} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_package_knows_nothing_of_snakemake_but_where_it_asks_it() -> None:
    importing = [path.name for path in PACKAGE.rglob("*.py") if "import snakemake" in path.read_text()]
    assert importing == ["snakemake_dag.py"]  # for the scripts that show what it means to do


PINS = {
    path.stem: next(
        entry["pip"] for entry in yaml.safe_load(path.read_text())["dependencies"] if isinstance(entry, dict)
    )
    for path in sorted((ROOT / "envs").glob("*.yaml"))
}
OWN_VERSIONS = {
    "generate-vllm": {"vllm", "transformers"},  # vLLM wants an older transformers than the project has
    "inspect": {"inspect_ai"},
}
# Not imported by name: what transformers' trainer and its reader of GGUF files import, and where the config asks for it
# what quantises.
ASKED_FOR = {"train": {"accelerate", "gguf"}, "generate": {"bitsandbytes"}}
ENGINES = {
    "generate": "transformers_engine",
    "generate-vllm": "vllm_engine",
}  # imported by name, see generation/engines.py


def project() -> dict[str, str]:
    """The project's packages, those of its extras too, and the pin of each."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = [*table["dependencies"], *(pin for extra in table["optional-dependencies"].values() for pin in extra)]
    return {normal(pin.split("==")[0]): pin for pin in pins}


def normal(name: str) -> str:
    """The name of a distribution in the spelling that compares."""
    return name.lower().replace("_", "-")


PROJECT = project()


def test_environments_pin_the_versions_of_the_project() -> None:
    for name, pins in PINS.items():
        assert all(re.fullmatch(r"[\w-]+==[\w.]+", pin) for pin in pins)
        shared = {pin for pin in pins if pin.split("==")[0] not in OWN_VERSIONS.get(name, set())}
        assert shared <= set(PROJECT.values()), name


def rules() -> list[tuple[str, set[str]]]:
    """The environments of each rule that has one, as they stand there, and the scripts that it calls."""
    found = []
    for path in (ROOT / "workflow/rules").glob("*.smk"):
        for rule in re.split(r"^ *(?:use )?rule ", path.read_text(), flags=re.MULTILINE)[1:]:
            if named := re.search(r'conda:\s+("\.\./\.\./envs/([\w-]+)\.yaml"|GENERATE_ENVIRONMENT)\n', rule):
                found.append((named[2] or "", set(re.findall(r"workflow/scripts/(\w+)\.py", rule))))
            else:
                assert "conda:" not in rule
                assert "workflow/scripts" not in rule, "a script runs in an environment"
    return found


def scripts(environment: str) -> set[str]:
    """The scripts that run in an environment."""
    calls = {name: set().union(*(called for other, called in rules() if other == name)) for name, _ in rules()}
    return calls[""] if environment in ENGINES else calls[environment]


def test_every_environment_is_some_rules() -> None:
    assert {name for name, _ in rules() if name} | set(ENGINES) == set(PINS)


@pytest.mark.parametrize("environment", sorted(PINS))
def test_environments_hold_what_their_scripts_import_and_nothing_else(environment: str) -> None:
    files = {PACKAGE.parent / f"{script}.py" for script in scripts(environment)}
    if environment in ENGINES:
        files.add(PACKAGE / f"generation/{ENGINES[environment]}.py")
    modules = {name.split(".")[0] for file in files | modules_imported(*files) for name in names_of(file, files)}
    imported = {distribution(name) for name in modules - set(sys.stdlib_module_names) - {"emdefense"}}
    pinned = {normal(pin.split("==")[0]) for pin in PINS[environment]}
    assert imported - pinned <= brought(pinned) - PROJECT.keys(), "missing"
    assert pinned - imported == ASKED_FOR.get(environment, set()), "superfluous"


def names_of(file: Path, roots: set[Path]) -> set[str]:
    """What a stage with these roots imports in a file; an arm's hooks run in few stages."""
    return names_imported(file, in_functions=file in roots or not file.is_relative_to(ARMS))


def distribution(module: str) -> str:
    """The distribution that a top-level module is from; the module's own name where it is not installed."""
    return normal(packages_distributions().get(module, [module])[0])


def brought(packages: set[str]) -> set[str]:
    """The distributions that these, and what they need, come with."""
    found: set[str] = set()
    waiting = set(packages)
    while waiting:
        package = waiting.pop()
        try:
            needed = [entry for entry in requires(package) or [] if "extra ==" not in entry]
        except ModuleNotFoundError:  # not installed here, so that nothing is taken for granted
            needed = []
        names = {normal(re.match(r"[\w.-]+", entry)[0]) for entry in needed}  # type: ignore[index]
        waiting |= names - found
        found |= names
    return found


def test_the_code_of_a_stage_is_what_it_imports() -> None:
    files = modules_imported(PACKAGE / "training/changed_adapter.py", PACKAGE / "arms/safelora/__init__.py")
    names = {path.relative_to(PACKAGE).as_posix() for path in files}
    assert {"arms/safelora/projection.py", "training/weights.py", "training/__init__.py", "files.py"} <= names
    assert "arms/safelora/projection.py" not in {
        path.relative_to(PACKAGE).as_posix() for path in modules_imported(PACKAGE / "judging/judge_file.py")
    }
    assert not {"training/trainer.py", "report/page/index.py", "judging/judge_file.py"} & names


def test_the_digest_of_a_stage_changes_with_its_code_alone(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "emdefense", ignore=shutil.ignore_patterns("__pycache__"))

    def digest(module: str) -> str:
        command = f"from emdefense.code import code_digest; print(code_digest('emdefense.{module}'), end='')"
        run = [sys.executable, "-c", command]
        return subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    judging, training = digest("judging.judge_file"), digest("training.run")
    assert judging == code_digest("emdefense.judging.judge_file") != training
    with (tmp_path / "emdefense/judging/scoring.py").open("a") as source:
        source.write("# another\n")
    assert digest("judging.judge_file") != judging
    assert digest("training.run") == training


def test_a_digest_is_of_what_the_process_imported_and_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = code_digest("emdefense.judging.judge_file")
    monkeypatch.setattr("emdefense.code.modules_imported", lambda *roots: pytest.fail("its files are read again"))
    assert code_digest("emdefense.judging.judge_file") == first


def test_a_file_is_parsed_once_and_again_when_it_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = []
    monkeypatch.setattr(
        "emdefense.code.ast.parse", lambda source, real=ast.parse: parsed.append(source) or real(source)
    )
    path = tmp_path / "one.py"
    path.write_text(f"import torch  # {tmp_path}\n")
    assert names_imported(path) == names_imported(path) == {"torch"}
    assert len(parsed) == 1
    path.write_text(f"import numpy  # {tmp_path}\n")
    assert (names_imported(path), len(parsed)) == ({"numpy"}, 2)
