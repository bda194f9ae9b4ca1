"""Each stage imports only what it needs, and the stages' environments pin what the project pins."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "workflow/scripts/emdefense"
HEAVY = {"torch", "transformers", "peft", "trl", "datasets", "accelerate"}
LIGHT = ("config", "judging", "analysis", "report", "resources", "microcosm/oracle.py", "data/opswap.py", "cells.py")


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


def test_the_package_knows_nothing_of_snakemake() -> None:
    importing = [path for path in PACKAGE.rglob("*.py") if "import snakemake" in path.read_text()]
    assert importing == []


def test_environments_pin_the_versions_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    pinned = {*project["dependencies"], *(name for extra in extras for name in extra)}
    for path in sorted((ROOT / "envs").glob("*.yaml")):
        dependencies = yaml.safe_load(path.read_text())["dependencies"]
        packages = next(entry["pip"] for entry in dependencies if isinstance(entry, dict))
        assert set(packages) <= pinned, path.name


def test_every_rule_names_an_environment_that_exists() -> None:
    named = {
        line.split('"')[1]
        for path in (ROOT / "workflow/rules").glob("*.smk")
        for line in path.read_text().splitlines()
        if "envs/" in line
    }
    assert named
    for name in named:
        assert (ROOT / "workflow/rules" / name).resolve().is_file()
