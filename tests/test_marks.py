"""The marks of Tables 3, 4 and 8-11 on the paper's numbers, expectations derived by hand from the published tables."""

import pytest

from emdefense.analysis.paper import paper_study, paper_summary
from emdefense.report import marks
from emdefense.report.tables import build_table

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


def test_best_knows_directions_ties_and_gaps() -> None:
    assert marks.best([1.0, 0.5, None], "lower") == [False, True, False]
    assert marks.best([1.0, 0.5, None], "higher") == [True, False, False]
    assert marks.best([0.501, 0.499, 0.52], "lower") == [True, True, False]
    assert marks.best([None, None], "lower") == [False, False]
