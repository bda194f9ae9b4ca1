"""Setting a document with pdflatex."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

needs_latex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")


OVERFULL = re.compile(r"Overfull \\hbox \((\d+\.\d+)pt")


def pdflatex(file: Path) -> str:
    """Compile a file; return its log, asserting that nothing in it is wrong."""
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", file.name]
    run = subprocess.run(command, cwd=file.parent, capture_output=True)
    log = file.with_suffix(".log").read_text(encoding="utf-8", errors="replace")
    assert run.returncode == 0, log[-2000:]
    for problem in ("Missing character", "undefined", "Float too large", "multiply defined", "was incomplete"):
        assert problem not in log, f"{file.name}: {log[log.index(problem) - 300 :][:600]}"
    assert [float(points) for points in OVERFULL.findall(log) if float(points) > 1] == [], file.name
    return log
