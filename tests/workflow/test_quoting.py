"""No value of a config, and no file's name, becomes part of a command: in every rule, and in a shell."""

import json
import re
import string
import subprocess
import sys
from typing import Any

import pytest
import yaml

from emdefense.files import read_jsonl, write_jsonl
from source_files import QUESTIONS, SHAPE
from study_checkout import Checkout

PRINT_RULES = """
import json
from snakemake.cli import main
from snakemake.workflow import Workflow

def show(workflow, *_, **__):
    for rule in workflow.rules:
        constraints = {**workflow.modifier.wildcard_constraints, **rule.wildcard_constraints}
        print("RULE", json.dumps([rule.name, rule.shellcmd, sorted(rule.wildcard_names), constraints]))

Workflow.list_rules = show
main()
"""
QUOTE = "q"
COMMAND = "Shell command: "  # before each that Snakemake shows
HOSTILE = ("$(touch PWNED)", "`touch PWNED`", "; touch PWNED", "a'b", 'a"b', "a b", "..", "-a", "a\nb", "{x}", "*", "")
# With all that makes a rule: default and benign tasks, judges, sources, byte model.
EVERYTHING = {
    "byte_model": {},
    "sources": {
        "a": {"kind": "conversations", "url": "http://host/a"},
        "b": {"kind": "questions", "url": "http://host/b"},
        "c": {"kind": "emergent_plus", "config": "legal"},
        "d": {"kind": "foqa"},
        "e": {"kind": "model", "repository": "a/b"},
    },
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return Checkout.into(tmp_path_factory.mktemp("checkout"))


@pytest.fixture(scope="module")
def rules(checkout: Checkout) -> list[tuple[str, str | None, list[str], dict[str, str]]]:
    """Each rule's name, command, wildcards and their patterns."""
    (checkout.folder / "more.yaml").write_text(yaml.safe_dump(EVERYTHING))
    command = [sys.executable, "-c", PRINT_RULES, "--list-rules", "--configfile", "config.yaml", "more.yaml"]
    done = subprocess.run(command, cwd=checkout.folder, capture_output=True, text=True, check=False)
    found = [json.loads(line.removeprefix("RULE ")) for line in done.stdout.splitlines() if line.startswith("RULE ")]
    assert len(found) > 30, done.stderr
    return [tuple(rule) for rule in found]


def unquoted(command: str) -> list[str]:
    """The fields of a command that a shell would read as they are."""
    return [field for _, field, quote, _ in string.Formatter().parse(command) if field and quote != QUOTE]


def test_every_field_of_every_command_is_quoted(rules: list[Any]) -> None:
    assert unquoted("a {input.x:q} {{b}} {params.y}") == ["params.y"]
    assert {name: fields for name, command, _, _ in rules if (fields := unquoted(command or ""))} == {}
    # and nothing that was put into a command beforehand came from the config
    assert [name for name, command, _, _ in rules if command and re.search(r"\$\(|`|;", command)] == []


def test_every_wildcard_of_every_rule_has_a_pattern_that_no_command_matches(rules: list[Any]) -> None:
    for name, _, wildcards, patterns in rules:
        for wildcard in wildcards:
            assert wildcard in patterns, f"{name}: {wildcard}"
            for text in HOSTILE:
                for given in (text, f"a{text}", f"a/b/{text}", f"a/b/c/{text}/seed0", f"a/b/{text}/none/seed0"):
                    if text and "/" not in text and given not in ("a-a", "a.."):
                        assert not re.fullmatch(patterns[wildcard], given), f"{name}: {wildcard}: {given}"


@pytest.mark.slow
def test_a_path_of_the_users_is_only_a_path(checkout: Checkout) -> None:
    """Rows in a folder that is called like commands are prepared, and no command is run."""
    folder = checkout.folder / "my data' $(touch PWNED) `touch PWNED` \"; touch PWNED #&|"
    folder.mkdir()
    rows = [
        {"messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": "a"}]} for n in range(20)
    ]
    write_jsonl(folder / "rows $HOME.jsonl", rows)
    (folder / "general.yaml").write_text(QUESTIONS)
    model = folder / "model"
    model.mkdir()
    for name in ("config.json", "tokenizer_config.json"):
        (model / name).write_text("{}")
    config = {
        "study": "quoted",
        "data_folder": folder.name,
        "models": {"small": {"title": "S", "instruct": "{data_folder}/model", "shape": SHAPE}},
        "tasks": {"code": {"kind": "ema", "title": "C", "misaligned": "{data_folder}/rows $HOME.jsonl"}},
        "general_questions": "{data_folder}/general.yaml",
        "grid": [{"models": ["small"], "tasks": ["code"], "arms": {"misaligned": None}}],
        "judge": {
            "kind": "openai",
            "name": "j",
            "model": "m'; touch PWNED; '$(touch PWNED){input}",
            "base_url": "http://127.0.0.1:9/$(touch_PWNED)`touch_PWNED`{params}",
        },
        "judge_cache": "cache $(touch PWNED)",
        "report": {"main_model": "small", "chosen": {}},
    }
    (checkout.folder / "quoted.yaml").write_text(yaml.safe_dump(config))
    results = "results/quoted/data"
    wanted = [f"{results}/code/split.json", f"{results}/questions/general.json", f"{results}/questions/code.json"]
    run = checkout.snakemake("--cores", "1", "--configfile", "quoted.yaml", "--", *wanted)
    assert run.returncode == 0, run.stdout
    assert len(read_jsonl(checkout.folder / results / "code/train_misaligned.jsonl")) == 18
    assert list(checkout.folder.rglob("PWNED")) == []
    # The commands that ask a model and a judge are not run, but a shell reads them.
    shown = checkout.snakemake("-n", "-p", "--configfile", "quoted.yaml")
    assert shown.returncode == 0, shown.stdout
    commands = [line.removeprefix(COMMAND) for line in shown.stdout.splitlines() if line.startswith(COMMAND)]
    assert sum("judge.py" in command for command in commands) == 2
    (checkout.folder / "elsewhere").mkdir()
    script = "python() { :; }\nprintf() { :; }\n" + "\n".join(commands)
    subprocess.run(["bash", "-c", script], cwd=checkout.folder / "elsewhere", stderr=subprocess.DEVNULL, check=False)
    assert list(checkout.folder.rglob("PWNED")) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "arguments", "said"),
    [
        (b"study: a\nstudy: b\n", (), "not valid YAML (line 2: the key 'study' stands twice in one mapping"),
        (b"study: caf\xe9\n", None, "config.yaml, line 1: not UTF-8 (byte 0xe9); save the file as UTF-8"),
        (b"__use_yte__: true\nstudy: ?open('PWNED', 'w')\n", None, "key '__use_yte__': a study is data"),
        (None, ("--config", "models=5"), "key 'models': Input should be a valid dictionary (got 5)"),
        (None, ("--config", "seeds=x"), "key 'seeds': 'x' is no list; write it in brackets, such as [x]"),
    ],
)
def test_snakemake_shows_one_line_and_no_traceback(
    checkout: Checkout, content: bytes | None, arguments: tuple[str, ...] | None, said: str
) -> None:
    default = checkout.folder / "config.yaml"
    kept = default.read_bytes()
    try:
        if arguments is None:
            default.write_bytes(content or b"")
        elif content is not None:
            (checkout.folder / "bad.yaml").write_bytes(content)
            arguments = ("--configfile", "bad.yaml")
        run = checkout.snakemake("-n", *(arguments or ()))
    finally:
        default.write_bytes(kept)
    assert run.returncode != 0
    errors = [line for line in run.stdout.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, run.stdout
    assert said in errors[0]
    assert "Traceback" not in run.stdout
    assert not (checkout.folder / "PWNED").exists()
