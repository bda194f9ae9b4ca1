"""What a person sees of Snakemake, in a terminal and without one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from study_checkout import ROOT, Checkout
from terminal import HIDE_CURSOR, in_terminal

SNAKEFILE = """
rule all:
    input: expand("made/{n}.txt", n=range(3)), "made/judged.txt"
rule train:
    output: "made/{n}.txt"
    log: "logs/{n}.log"
    wildcard_constraints: n="[0-9]"
    message: "Train {wildcards.n}"
    shell: "echo made > {output} 2> {log}"
rule judge:
    output: "made/judged.txt"
    log: "logs/judged.log"
    shell: "printf 'Traceback\\\\nerror: rows.jsonl, line 3: \\\\033[31mno answer\\\\n' > {log}; exit 2"
rule generate:
    output: "made/slow.txt"
    shell: "sleep 60; touch {output}"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    return tmp_path


def command(*more: str) -> list[str]:
    return [sys.executable, "-m", "snakemake", "--cores", "2", "--keep-going", "--logger", "emdefense", *more]


PATH = {"PYTHONPATH": str(ROOT / "workflow/scripts")}


def test_a_bar_a_stage_and_a_line_a_failure(folder: Path) -> None:
    shown = in_terminal(command(), folder, **PATH)
    assert shown.status == 1
    assert shown.has_cursor
    last = shown.text.splitlines()
    assert re.search(r"^training ━+ 3/3 ", shown.text, flags=re.M)
    assert re.search(r"^judging  ━+ 0/1 +1 failed", shown.text, flags=re.M)
    (said,) = {line for line in last if line.startswith("failed:")}
    assert re.fullmatch(
        r"failed: judge judge: error: rows.jsonl, line 3: \\x1b\[31mno answer \(logs/judged.log\)", said
    )
    assert "jobid" not in shown.text
    assert "Traceback" not in shown.text
    assert last[-1] == "A job failed: the same command runs what is missing."


def test_snakemakes_own_log_is_whole_and_named(folder: Path) -> None:
    shown = in_terminal(command("--", "made/0.txt"), folder, **PATH)
    assert shown.status == 0
    (log,) = (folder / ".snakemake/log").iterdir()
    assert f"Full log: .snakemake/log/{log.name}" in shown.text
    for part in ("Building DAG of jobs", "Train 0", "Finished jobid: 0", "1 of 1 steps (100%) done"):
        assert part in log.read_text()


def test_ctrl_c_leaves_a_terminal_to_work_in(folder: Path) -> None:
    shown = in_terminal(command("--", "made/slow.txt"), folder, interrupt=lambda text: "0/1" in text, **PATH)
    assert shown.status not in (0, None)
    assert HIDE_CURSOR in shown.raw
    assert shown.has_cursor
    assert "failed" not in shown.text
    assert shown.text.count("The same command goes on from here: what is finished is kept.") == 1
    assert not (folder / "made/slow.txt").exists()


def test_what_there_is_nothing_to_do_about_is_said(folder: Path) -> None:
    (folder / "made").mkdir()
    (folder / "made/0.txt").touch()
    shown = in_terminal(command("--", "made/0.txt"), folder, **PATH)
    assert shown.status == 0
    assert "Nothing to be done" in shown.text
    assert HIDE_CURSOR not in shown.raw


@pytest.mark.parametrize("more", [(), ("--dry-run",), ("--printshellcmds",)])
def test_lines_are_snakemakes_own_where_they_are_asked_for_and_without_a_terminal(
    folder: Path, more: tuple[str, ...]
) -> None:
    if more:
        text = in_terminal(command(*more, "--", "made/0.txt"), folder, **PATH).text
    else:
        text = subprocess.run(
            command("--", "made/0.txt"),
            cwd=folder,
            env=os.environ | PATH | {"TERM": "xterm-256color"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=True,
        ).stdout
        assert "\x1b" not in text
    assert "Job stats:" in text
    assert "Train 0" in text
    assert "━" not in text


@pytest.mark.slow
def test_the_default_profile_asks_for_bars_in_a_terminal(tmp_path: Path) -> None:
    checkout = Checkout.into(tmp_path)
    arguments = ("--cores", "1", "--configfile", "config/smoke.yaml", "--", "results/smoke/study.json")
    variables = {"PYTHONPATH": str(checkout.folder / "workflow/scripts")}
    shown = in_terminal(checkout.command(*arguments), checkout.folder, **variables)
    assert shown.status == 0, shown.text
    assert re.search(r"^report ━+ 1/1 ", shown.text, flags=re.M)
    assert shown.has_cursor
    (checkout.folder / "results/smoke/study.json").unlink()
    plain = checkout.snakemake(*arguments)
    assert plain.returncode == 0, plain.stdout
    assert "Write down the effective config" in plain.stdout
    assert "━" not in plain.stdout
