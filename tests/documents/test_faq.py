"""Each error line that docs/faq.md explains is one that the code can print."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FAQ = (ROOT / "docs/faq.md").read_text(encoding="utf-8")
LINES = [
    line for block in re.findall(r"^```\n(.*?)^```", FAQ, flags=re.DOTALL | re.MULTILINE) for line in block.splitlines()
]
PLACEHOLDER = "\0"


@cache
def templates() -> set[str]:
    """Return every text of the package, and of the Makefile, with a placeholder for each value filled in."""
    found = set(re.findall(r'echo "error: (.*?)"', (ROOT / "Makefile").read_text()))
    for path in (ROOT / "workflow/scripts/emdefense").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (str(p.value) if isinstance(p, ast.Constant) else PLACEHOLDER for p in node.values)
                found.add("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


def can_print(line: str, known: set[str]) -> bool:
    """Whether a line is a text of the code; where one begins or ends with a value, that is such a text again."""
    for template in known:
        fixed = template.replace(PLACEHOLDER, "")
        if len(fixed) < 12 or " " not in fixed.strip():
            continue
        if re.fullmatch(re.escape(template).replace(PLACEHOLDER, "(.+?)"), line):
            return True
    # "<file>, line 7: <what is wrong>", "key 'a.b': <what is wrong>"
    head, separator, rest = line.partition(": ")
    return (
        bool(separator)
        and bool(re.search(r", (line|row) \d+$|^key '|\.yaml$|\.py$|, hook \w+$|, question |^my-model$", head))
        and can_print(rest, known)
    )


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[:60])
def test_the_code_can_print_the_line(line: str) -> None:
    assert line.startswith("error: ")
    assert can_print(line.removeprefix("error: "), templates())


def test_other_lines_are_not_taken_for_the_codes() -> None:
    known = templates()
    assert len(LINES) > 12
    for wrong in ("error: nothing works", "rows.jsonl, line 7: the row is ugly", "key 'safe_data': it does not exist"):
        assert not can_print(wrong, known)
