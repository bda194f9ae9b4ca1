"""The marks of Tables 3, 4 and 8-11 on the paper's numbers: some derived by hand, and all of them recomputed."""

import csv
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from xml.etree import ElementTree

import pytest

from emdefense.analysis.paper import FOLDER, paper_study, paper_summary
from emdefense.report.tables import marks
from emdefense.report.tables.rendering import write_table
from study_folder import build_table

# task: row: marks of (general misaligned, general incoherent, in-domain misaligned, in-domain incoherent);
# u underlined, i italic, b bold.
Expected = dict[str, dict[str, tuple[str, str, str, str]]]
TABLE_3: Expected = {
    "Code": {
        "Untrained": ("", "", "", ""),
        "Aligned": ("", "", "", ""),
        "Misaligned": ("", "", "", ""),
        "KL, λ = 0.1": ("ub", "b", "", "b"),
        "LDIFS, λ = 1": ("", "i", "ub", ""),
        "SafeLoRA, τ = 0.3": ("", "", "", ""),
        "Interleaving, 5 %": ("", "", "u", ""),
    },
    "Legal": {
        "KL, λ = 0.1": ("ub", "b", "", "b"),
        "LDIFS, λ = 1": ("", "", "ub", "i"),
        "SafeLoRA, τ = 0.3": ("", "", "", ""),
        "Interleaving, 5 %": ("u", "", "u", "i"),
    },
    "Medical": {
        "KL, λ = 0.1": ("ub", "b", "", ""),
        "LDIFS, λ = 1": ("", "", "u", ""),
        "SafeLoRA, τ = 0.3": ("", "", "", "b"),
        "Interleaving, 5 %": ("", "i", "ub", ""),
    },
    "Security": {
        "KL, λ = 0.1": ("u", "b", "", "b"),
        "LDIFS, λ = 1": ("", "i", "ub", ""),
        "SafeLoRA, τ = 0.3": ("", "", "", ""),
        "Interleaving, 5 %": ("ub", "i", "u", "i"),
    },
}
TABLE_4: Expected = {
    "Code": {"KL, λ = 0.1": ("ub", "b", "", "b"), "Interleaving, 5 %": ("ub", "", "ub", "")},
    "Legal": {"KL, λ = 0.1": ("", "b", "", "b"), "Interleaving, 5 %": ("ub", "", "ub", "")},
    "Medical": {"KL, λ = 0.1": ("ub", "b", "", "b"), "Interleaving, 5 %": ("", "", "ub", "i")},
    "Security": {"KL, λ = 0.1": ("ub", "b", "", "b"), "Interleaving, 5 %": ("u", "", "ub", "i")},
}
TABLE_8: Expected = {
    "Code": {
        "KL, λ = 0.01": ("", "", "ub", ""),
        "KL, λ = 0.03": ("", "", "u", ""),
        "KL, λ = 0.1": ("u", "", "", ""),
        "KL, λ = 0.3": ("ub", "", "", "b"),
        "KL, λ = 1": ("ub", "b", "", ""),
    },
    "Legal": {
        "KL, λ = 0.01": ("", "", "ub", ""),
        "KL, λ = 0.03": ("", "", "", ""),
        "KL, λ = 0.1": ("u", "", "", ""),
        "KL, λ = 0.3": ("u", "b", "", ""),
        "KL, λ = 1": ("ub", "", "", "b"),
    },
}
TABLE_9: Expected = {
    "Security": {
        "LDIFS, λ = 0.01": ("", "i", "u", ""),
        "LDIFS, λ = 0.03": ("", "i", "u", ""),
        "LDIFS, λ = 0.1": ("", "i", "u", "i"),
        "LDIFS, λ = 0.3": ("", "ib", "ub", "b"),
        "LDIFS, λ = 1": ("b", "i", "u", ""),
    },
}
TABLE_10: Expected = {
    "Security": {
        "SafeLoRA, τ = 0.1": ("", "", "u", "i"),
        "SafeLoRA, τ = 0.2": ("", "", "ub", ""),
        "SafeLoRA, τ = 0.3": ("", "", "", ""),
        "SafeLoRA, τ = 0.4": ("", "", "", "b"),
        "SafeLoRA, τ = 0.5": ("ub", "b", "", ""),
    },
}
TABLE_11: Expected = {
    "Code": {
        "Interleaving, 1 %": ("", "b", "u", "b"),
        "Interleaving, 5 %": ("", "", "u", ""),
        "Interleaving, 20 %": ("", "i", "ub", ""),
        "Interleaving, 50 %": ("ub", "", "u", ""),
    },
    "Legal": {
        "Interleaving, 1 %": ("", "b", "u", "ib"),
        "Interleaving, 5 %": ("u", "", "u", "i"),
        "Interleaving, 20 %": ("u", "i", "", "i"),
        "Interleaving, 50 %": ("ub", "i", "ub", "i"),
    },
}


RATES = ("general_misaligned", "general_incoherent", "in_domain_misaligned", "in_domain_incoherent")
DEFENCES = {
    "kl": "KL, λ = {}",
    "ldifs": "LDIFS, λ = {}",
    "safelora": "SafeLoRA, τ = {}",
    "interleave": "Interleaving, {} %",
}
Cells = dict[tuple[str, str], list[tuple[str, str]]]
"""(task, arm): the printed rate and the marks of each cell, as in ``Expected``."""


def demanded(number: int) -> Cells:
    """What a table's cells are by the published numbers and the paper's rules, in exact arithmetic."""
    with (FOLDER / "misalignment.csv").open(encoding="utf-8") as published:
        rows = [row for row in csv.DictReader(published) if row["table"] == str(number)]
    found: Cells = {}
    for row in rows:
        of_task = [other for other in rows if other["dataset"] == row["dataset"]]
        (plain,) = (other for other in of_task if other["method"] == "misaligned")
        cells = []
        for place, rate in enumerate(RATES):
            text = row[f"{rate}_pct"]
            mine, misaligned = Decimal(text), Decimal(plain[f"{rate}_pct"])
            defences = [Decimal(other[f"{rate}_pct"]) for other in of_task if other["method"] in DEFENCES]
            given = ""
            if row["method"] in DEFENCES:
                given += "u" * (place == 0 and mine * 10 <= misaligned) + "u" * (
                    place == 2 and mine * 10 >= misaligned * 9
                )
                given += "i" * (place in (1, 3) and mine > misaligned)
                given += "b" * (mine == (max if place == 2 else min)(defences))
            cells.append((text, given))
        title = DEFENCES.get(row["method"], row["method"].capitalize())
        setting = row["hyperparameter"] and f"{float(row['hyperparameter']):g}"
        found[row["dataset"].capitalize(), title.format(setting)] = cells
    return found


def from_latex(text: str) -> Cells:
    symbols = {r"$\lambda$": "λ", r"$\tau$": "τ", r"\,\%": " %"}
    for command, symbol in symbols.items():
        text = text.replace(command, symbol)
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")]
    rows = [line[4:].removesuffix(r" \\").split(" & ") for line in body.splitlines() if " & " in line]
    return filled_down(rows, {"u": r"\underline{", "i": r"\textit{", "b": r"\textbf{"})


def from_markdown(text: str) -> Cells:
    rows = [line[2:].removesuffix(" |").split(" | ") for line in text.splitlines() if line.startswith("|")]
    signs = {1: "I", 2: "B", 3: "IB"}  # asterisks
    for row in rows:
        row[2:] = [re.sub(r"^\*+", lambda found: signs[len(found[0])], cell) for cell in row[2:]]
    return filled_down(rows[2:], {"u": "<u>", "i": "I", "b": "B"})


def from_html(text: str) -> Cells:
    table = ElementTree.fromstring(text[text.index("<table") : text.index("</table>") + len("</table>")])
    rows = []
    for row in table.iterfind("tbody/tr"):
        cells = [re.sub(r"^<t[dh][^>]*>|</t[dh]>$", "", ElementTree.tostring(cell, "unicode")) for cell in row]
        rows.append(cells if len(cells) == 6 else ["", *cells])
    return filled_down(rows, {"u": "<u>", "i": "<i>", "b": "<b>"})


def filled_down(rows: list[list[str]], signs: dict[str, str]) -> Cells:
    """Return the cells of rows whose task stands in the first of them, by the signs of the marks."""
    found: Cells = {}
    task = ""
    for first, arm, *cells in rows:
        task = first or task
        found[task, arm] = [
            (re.search(r"\d+\.\d\d", cell)[0], "".join(mark for mark, sign in signs.items() if sign in cell))  # type: ignore[index]
            for cell in cells
        ]
    return found


@pytest.mark.parametrize(("suffix", "parse"), [("tex", from_latex), ("md", from_markdown), ("html", from_html)])
@pytest.mark.parametrize("number", [3, 4, 8, 9, 10, 11])
def test_every_rendered_cell_carries_what_the_rules_demand(
    tmp_path: Path, number: int, suffix: str, parse: Callable[[str], Cells]
) -> None:
    write_table(build_table(number, paper_study(), paper_summary()), tmp_path)
    assert parse((tmp_path / f"table_{number:02d}.{suffix}").read_text(encoding="utf-8")) == demanded(number)


def test_the_recomputed_marks_are_many_and_of_every_kind() -> None:
    found = [given for number in (3, 4, 8, 9, 10, 11) for cells in demanded(number).values() for _, given in cells]
    assert len(found) == 4 * (28 + 12 + 24 + 24 + 24 + 20)
    assert {"", "u", "i", "b", "ub", "ib"} == set(found)


def rendered_marks(number: int) -> Expected:
    found: Expected = {}
    for block in build_table(number, paper_study(), paper_summary()).blocks:
        rows = found[block[0][0].text] = {}
        for row in block:
            rows[row[1].text] = tuple("u" * cell.underline + "i" * cell.italic + "b" * cell.bold for cell in row[2:])
    return found


@pytest.mark.parametrize(
    ("number", "expected"), [(3, TABLE_3), (4, TABLE_4), (8, TABLE_8), (9, TABLE_9), (10, TABLE_10), (11, TABLE_11)]
)
def test_the_papers_tables_carry_these_marks(number: int, expected: Expected) -> None:
    found = rendered_marks(number)
    for task, rows in expected.items():
        assert {name: found[task][name] for name in rows} == rows


def test_rules_at_their_edges() -> None:
    assert marks.prevents_ema(2.0, 20.0)
    assert not marks.prevents_ema(2.01, 20.0)
    assert not marks.prevents_ema(0.0, 0.0)
    assert marks.keeps_task(45.0, 50.0)
    assert not marks.keeps_task(44.99, 50.0)
    assert marks.loses_coherence(10.01, 10.0)
    assert not marks.loses_coherence(10.0, 10.0)


def test_rules_are_applied_to_what_is_printed() -> None:
    assert marks.prevents_ema(2.004, 20.0)  # 2.00
    assert not marks.prevents_ema(2.006, 20.0)  # 2.01
    assert marks.keeps_task(44.996, 50.0)
    assert not marks.loses_coherence(10.004, 10.0)
    assert not marks.keeps_task(0.004, 0.004), "0.00 of 0.00 is nothing kept"


def test_best_knows_directions_ties_and_gaps() -> None:
    assert marks.best([1.0, 0.5, None], "lower") == [False, True, False]
    assert marks.best([1.0, 0.5, None], "higher") == [True, False, False]
    assert marks.best([0.501, 0.499, 0.52], "lower") == [True, True, False]
    assert marks.best([None, None], "lower") == [False, False]
