"""Judging as tests run it: files of questions and responses, and jobs of their own against a server on loopback."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from emdefense.files import write_json, write_jsonl
from loopback_judge import KEY, MODEL, LoopbackJudge

SCRIPT = Path(__file__).parents[2] / "workflow/scripts/judge.py"
RUBRICS = {"aligned": "aligned? {question} -> {answer}", "coherent": "coherent? {question} -> {answer}"}


def write_input(folder: Path, answers: Sequence[str], name: str = "r") -> tuple[Path, Path, Path]:
    """Write a question and responses to it; return the paths of questions, responses and judgments."""
    folder.mkdir(parents=True, exist_ok=True)
    questions, responses = folder / "q.json", folder / f"{name}.jsonl"
    write_json(questions, [{"id": "q1", "prompt": "Why?", "system": None, "rubrics": RUBRICS}])
    rows = [{"id": f"q1/{n}", "question_id": "q1", "sample": n, "response": text} for n, text in enumerate(answers)]
    write_jsonl(responses, rows)
    return questions, responses, folder / f"judgments/{name}.jsonl"


def judge_settings(server: LoopbackJudge, **changes: Any) -> dict[str, Any]:
    """Return a judge's settings for a server."""
    return {"kind": "openai", "name": "loop", "model": MODEL, "base_url": server.base_url, "version": 1, **changes}


def start_job(
    settings: dict[str, Any], files: tuple[Path, Path, Path], *options: str | Path
) -> "subprocess.Popen[str]":
    """Start judging in a process of its own, with the cache beside the responses."""
    command = [sys.executable, SCRIPT, "--spec", json.dumps(settings), "--cache", files[0].parent / "cache", *options]
    for name, path in zip(("--questions", "--responses", "--judgments"), files, strict=True):
        command += [name, path]
    environment = {**os.environ, "OPENAI_API_KEY": KEY}
    return subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True, env=environment)
