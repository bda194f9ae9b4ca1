"""README and docs: every command in them works or says what it needs, every link leads somewhere, every key exists.

A command is a line of a shell block, or code in a sentence that begins with the name of a program. It is treated so:
`snakemake ...`, and the make targets that are a Snakemake, as a dry run (without `--sdm conda`, which wants conda; of
the smallest study, where none is named, but `make` of the default one);
what `BY_TEST` names, by that test; what stands beside one of `MARKS`, not at all; everything else as it is typed.
"""

import ast
import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from emdefense.judging.judge_file import judge_file
from judge_runs import judge_settings, write_input
from loopback_judge import KEY, LoopbackJudge
from study_checkout import ROOT, Checkout

DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
MARKS = ("needs a GPU", "needs a cluster", "needs the network", "needs an API key")
PROGRAMS = {
    *("make", "snakemake", "python", "pip", "pytest", "inspect", "vllm", "scancel", "scontrol", "export"),
    *("apt-get", "wandb", "pdflatex", "conda", "git", "cd"),
}
WORKS_ALONE = {"make", "snakemake"}  # a word that is otherwise only the program's name
REPORT = "tests/workflow/test_workflow.py::test_snakemakes_own_report_has_tables_figures_and_the_page_with_captions"
GPU_HOURS = "tests/planning/test_gpu_hours.py::*"
DEFENCE = "tests/arms/test_adding_a_defence.py::test_each_arm_has_its_rows_in_tables_1_and_3"
TASK = "tests/workflow/test_adding_a_task.py::test_the_documented_task_is_trained_on_asked_judged_and_counted"
TUTORIAL = "tests/documents/test_tutorial.py::*"
CURVES = "python workflow/scripts/cell_curves.py --config results/<study>/study.json --formats pdf"
COMPARE = "tests/comparison/test_comparison.py::test_the_command_writes_a_page_or_says_in_one_line_why_not"
SHARE = "tests/sharing/test_share.py::test_the_command_prints_how_to_upload"
BY_TEST = {
    CURVES: "tests/report/test_training_curves.py::test_other_formats_on_request",
    "make test": "tests/documents/test_documentation.py::test_every_command_is_accounted_for",
    'make test ARGS="--processor avx2"': "tests/machine/test_processors.py::*",
    'make test ARGS="-m numerical --processor baseline"': "tests/machine/test_processors.py::*",
    "make .venv-vllm/ready": "tests/generation/test_real_vllm.py::*",  # which is skipped without it
    "make test-vllm": "tests/generation/test_real_vllm.py::*",
    'make compare STUDIES="results/a results/b"': COMPARE,
    "make share": SHARE,
    "make share STUDY=results/a": SHARE,
    "make share STUDY=results/microcosm": SHARE,
    "make microcosm-models": "tests/microcosm/test_shipped_models.py::made",
    "mkdir my-study": TUTORIAL,
    "python my-study/rows.py": TUTORIAL,
    "snakemake -n --configfile my-study/study.yaml": TUTORIAL,
    "snakemake --cores 2 --configfile my-study/study.yaml": TUTORIAL,
    'make plan ARGS="--configfile my-study/study.yaml"': TUTORIAL,
    'make status ARGS="--configfile my-study/study.yaml"': TUTORIAL,
    "make docs": "tests/documents/test_site.py::*",
    "make lint": "tests/documents/test_documentation.py::test_make_names_the_checks",
    "pytest tests/workflow/test_slurm.py": "tests/workflow/test_slurm.py::*",
    "snakemake --configfile config/smoke.yaml": "tests/workflow/test_workflow.py::test_every_artefact_is_there",
    "snakemake --cores 2 --configfile config/smoke.yaml my-study/study.yaml": DEFENCE,
    "snakemake -n --configfile gardening.yaml --config data_folder=gardening": TASK,
    "snakemake --report report.html": REPORT,
    "inspect view --log-dir": "tests/report/test_inspect_logs.py::test_inspects_own_reader_opens_the_logs",
    "python benchmarks/default_study.py": "tests/documents/test_benchmarks.py::*",
    "python benchmarks/head_loss.py --vocabulary 32000": "tests/documents/test_benchmarks.py::test_head_loss",
    "python benchmarks/training_step.py": "tests/documents/test_benchmarks.py::test_training_step",
    "python benchmarks/trainers.py --model sources/smollm2": "tests/documents/test_benchmarks.py::test_trainers",
    "python benchmarks/safelora.py": "tests/documents/test_benchmarks.py::test_safelora",
    "python benchmarks/report.py": "tests/documents/test_benchmarks.py::test_report",
    "python benchmarks/pages.py": "tests/documents/test_benchmarks.py::test_pages",
    "python benchmarks/diagnostics.py": "tests/documents/test_benchmarks.py::test_diagnostics",
    "python benchmarks/jobs.py": "tests/documents/test_benchmarks.py::test_jobs",
    "python benchmarks/imports.py": "tests/documents/test_benchmarks.py::test_imports",
    "python benchmarks/judge.py": "tests/documents/test_benchmarks.py::test_judge",
    "python benchmarks/gpu_hours.py --measured measured.json --out docs/gpu_hours.csv": GPU_HOURS,
}


FILES = {"yaml", "md", "svg", "csv", "json", "jsonl", "parquet", "py"}  # `judge.yaml` is no key


class Command(NamedTuple):
    """A command as typed, without its comment; ``beside`` is the text in which a mark would stand."""

    text: str
    document: str
    beside: str


def commands_of(path: Path) -> list[Command]:
    """Return the commands of a document, those in blocks first."""
    text = path.read_text(encoding="utf-8")
    name = path.relative_to(ROOT).as_posix()
    found = []
    for match in re.finditer(r"^```(?:bash|sh|console)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
        lines = re.sub(r"\s*\\\n\s*", " ", match[1]).splitlines()
        header = lines[0] if lines[0].startswith("#") else ""
        for line in filter(None, lines):
            command = re.sub(r"(^|\s+)#.*$", "", line).strip()
            if command:
                found.append(Command(command, name, f"{header}\n{line}"))
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    for paragraph in re.split(r"\n\s*\n", prose):
        for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", paragraph):
            command = " ".join(span.split())
            words = command.split()
            if words[0] in PROGRAMS and (len(words) > 1 or command in WORKS_ALONE):
                found.append(Command(command, name, " ".join(paragraph.split())))
    return found


@cache
def commands() -> dict[str, Command]:
    """Every command once; one that is marked in one place and not in another counts as not marked."""
    found: dict[str, Command] = {}
    for document in DOCUMENTS:
        for command in commands_of(document):
            if command.text not in found or marked(found[command.text]):
                found[command.text] = command
    return found


def marked(command: Command) -> bool:
    return any(mark in command.beside for mark in MARKS)


def as_run(command: str) -> str:
    """Return what is run for a command: placeholders filled in, and a dry run for whole studies."""
    command = re.sub(r"--configfile (\.\.\.|FILE)", "--configfile config/smoke.yaml", command)
    command = command.replace(" --sdm conda", "").replace(".venv-vllm/bin/", "").replace("<study>", "smoke")
    program, *rest = command.replace("snakemake -n", "snakemake").split(maxsplit=1)
    if program == "snakemake" and "--unlock" not in command:
        own_study = "--configfile" in command or "results/microcosm" in command
        study = [] if own_study else ["--configfile config/smoke.yaml"]
        return " ".join([program, *study, "--dry-run", *rest])
    targets = [word for word in rest[0].split() if "=" not in word] if rest else []
    if program == "make" and set(targets) <= {"smoke", "control", "defences", "cpu"}:
        return f"{command} ARGS=--dry-run"
    return command


RUN = sorted({as_run(text) for text, command in commands().items() if not marked(command) and text not in BY_TEST})


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout in which judging has been paid for, and whose .venv is that of the tests, as if just made there."""
    made = Checkout.into(tmp_path_factory.mktemp("documented"))
    made.use_environment()
    with LoopbackJudge() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", KEY)
        files = write_input(tmp_path_factory.mktemp("judged"), ["one answer"])
        judge_file(judge_settings(server), *files, cache=made.folder / "judge_cache")
    return made


@pytest.mark.slow
@pytest.mark.parametrize("command", RUN)
def test_the_command_works(checkout: Checkout, command: str) -> None:
    checkout.typed(command, timeout=300)


def test_no_command_that_is_run_changes_the_tests_own_environment() -> None:
    assert not [command for command in RUN if command.startswith("pip ")]


def test_every_command_is_accounted_for() -> None:
    assert len(commands()) > 40, "the documents were read"
    assert not set(BY_TEST) - set(commands()), "no document has these any more"
    for command, test in BY_TEST.items():
        path, _, name = test.partition("::")
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        tests = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert name == "*" or name in tests, f"{command}: there is no {test}"


def test_a_command_needs_a_mark_or_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    document = tmp_path / "some.md"
    document.write_text(
        "Type `make nothing`, which has `rates.parquet`.\n\nThis needs a GPU: `python big.py`.\n\n"
        "```bash\nsnakemake \\\n  --cores 2   # go\nvllm serve x  # needs a GPU\n```\n"
    )
    found = {command.text: marked(command) for command in commands_of(document)}
    assert found == {"snakemake --cores 2": False, "vllm serve x": True, "make nothing": False, "python big.py": True}
    assert as_run("snakemake --sdm conda -- fetch") == "snakemake --configfile config/smoke.yaml --dry-run -- fetch"
    assert as_run("snakemake -n --configfile a.yaml") == "snakemake --dry-run --configfile a.yaml"
    assert as_run("make") == "make ARGS=--dry-run"
    assert as_run("make PYTHON=python3.12") == "make PYTHON=python3.12 ARGS=--dry-run"
    assert as_run("make schema") == "make schema"


def test_make_names_the_checks() -> None:
    shown = subprocess.run(["make", "--dry-run", "lint", "test"], cwd=ROOT, capture_output=True, text=True, check=True)
    for tool in ("ruff check", "ruff format --check", "mypy", "snakefmt --check", "snakemake --lint", "-m pytest"):
        assert tool in shown.stdout


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a document."""
    prose = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", prose, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_pictures_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        path = (document.parent / name) if name else document
        assert path.exists(), f"{target} in {document.name}"
        assert not anchor or anchor in anchors(path), f"{target} in {document.name}"


def test_every_document_and_picture_is_linked() -> None:
    linked = {
        (document.parent / target.partition("#")[0]).resolve()
        for document in DOCUMENTS
        for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8"))
    }
    there = {path for pattern in ("*.md", "*.csv", "images/*") for path in (ROOT / "docs").glob(pattern)}
    assert there
    named = " ".join(document.read_text(encoding="utf-8") for document in DOCUMENTS)
    missing = {path.name for path in there - linked if f"`docs/{path.name}`" not in named}
    assert not missing


@cache
def schema() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((ROOT / "workflow/schemas/study.schema.json").read_text(encoding="utf-8"))
    return loaded


def has_key(part: Any, keys: list[str]) -> bool:
    """Whether a schema knows a dotted key; names that the user chooses match anything."""
    if not keys:
        return True
    if "$ref" in part:
        return has_key(schema()["$defs"][part["$ref"].rpartition("/")[2]], keys)
    for options in ("anyOf", "oneOf", "allOf"):
        if any(has_key(option, keys) for option in part.get(options, ())):
            return True
    if "items" in part and has_key(part["items"], keys):
        return True
    if keys[0] in part.get("properties", {}):
        return has_key(part["properties"][keys[0]], keys[1:])
    named = [part.get("additionalProperties"), *part.get("patternProperties", {}).values()]
    return True in named or any(isinstance(values, dict) and has_key(values, keys[1:]) for values in named)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_keys_that_are_named_exist(document: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for key in re.findall(r"`([a-z_]+(?:\.(?:[a-z_]+|<[a-z]+>))+)(?::[^`]*)?`", prose):
        parts = key.split(".")
        if parts[0] in schema()["properties"] and parts[-1] not in FILES:
            assert has_key(schema(), parts), f"{key} in {document.name}"


YAML = [
    pytest.param(block, id=f"{document.name}-{number}")
    for document in DOCUMENTS
    for number, block in enumerate(re.findall(r"^```yaml\n(.*?)^```", document.read_text(), flags=re.DOTALL | re.M), 1)
]


@pytest.mark.parametrize("block", YAML)
def test_the_parts_of_studies_that_are_shown_have_keys_of_the_schema(block: str) -> None:
    def check(value: Any, keys: list[str]) -> None:
        assert has_key(schema(), keys), ".".join(keys)
        if isinstance(value, dict):
            for key, inner in value.items():
                check(inner, [*keys, key])

    shown = yaml.safe_load(block)
    if isinstance(shown, dict):  # a list is a file of questions
        check(shown, [])


def test_a_key_that_does_not_exist_is_noticed() -> None:
    assert has_key(schema(), ["training", "max_length"])
    assert has_key(schema(), ["models", "<name>", "shape"])
    assert has_key(schema(), ["judge", "max_error_rate"])
    assert not has_key(schema(), ["training", "max_lenght"])
    assert not has_key(schema(), ["data", "holdout_pct", "deep"])


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    assert version is not None
    assert citation["version"] == version[1]
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)
    assert version[1] in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert (ROOT / "LICENSE").read_text().startswith(citation["license"])
