"""What the page says, in sentences, of how likely held-out answers became."""

from collections.abc import Sequence

import polars as pl

from emdefense.analysis.printed import signed
from emdefense.arms import MISALIGNED
from emdefense.cells import Cell
from emdefense.config import Study
from emdefense.report.page.findings import Finding
from emdefense.report.tables.likelihood import TITLES, Row, likelihood_rows

SAYS = (
    "No judge takes part in this: it shows how far the answers of the task itself were learned, and nothing of what "
    "the model says when it is asked, or of emergent misalignment."
)
OF_SIDE = {"aligned": "aligned answers to held-out questions of the task by {by}", "safe": "safe rows by {by}"}
DECIMALS = 2


def likelihood_findings(study: Study, likelihood: pl.DataFrame) -> list[Finding]:
    """Return, for each model whose misaligned arm was measured, whether its task's held-out answers became likelier."""
    found = []
    for model in study.models:
        rows = [row for row in likelihood_rows(study, likelihood, model) if row["arm"] == MISALIGNED]
        measured = [row for row in rows if row["untrained_low"] is not None]
        own = [row for row in measured if row["side"] == "misaligned"]
        if own:
            found.append(_finding(study, model, measured, own))
    return found


def held_out_lines(likelihood: pl.DataFrame) -> dict[Cell, list[tuple[str, str]]]:
    """Return (what, value) lines for the page of each cell that has read held-out answers."""
    found: dict[Cell, list[tuple[str, str]]] = {}
    for row in likelihood.iter_rows(named=True):
        if row["log_prob"] is None:
            continue
        cell = Cell(row["model"], row["task"], row["arm"], row["setting"], row["seed"])
        value = f"log-probability {signed(row['log_prob'], decimals=3)} nats a token over {row['rows']} answers"
        found.setdefault(cell, []).append((f"Held out: {TITLES[row['side']].lower()}", value))
    return found


def _finding(study: Study, model: str, rows: Sequence[Row], own: Sequence[Row]) -> Finding:
    likelier = [study.tasks[row["task"]].title for row in own if row["untrained_low"] > 0]
    said = f"{study.models[model].title}: held-out misaligned answers became likelier"
    if not likelier:
        said = f"{study.models[model].title}: whether held-out misaligned answers became likelier cannot be told"
        if all(row["untrained_high"] < 0 for row in own):
            said = f"{study.models[model].title}: held-out misaligned answers became less likely"
    elif len(likelier) < len(own):
        said = f"{said}, surely on {', '.join(likelier)}"
    others = [
        text.format(by=_span([row for row in rows if row["side"] == side]))
        for side, text in OF_SIDE.items()
        if any(row["side"] == side for row in rows)
    ]
    over = f"over {len(own)} tasks" if len(own) > 1 else f"95 % interval {_interval(own[0])}"
    text = "; ".join([f"After plain fine-tuning on such answers, by {_span(own)} nats a token ({over})", *others])
    return Finding("plain", f"{said}.", f"{text}. {SAYS}")


def _span(rows: Sequence[Row]) -> str:
    ends = sorted(row["untrained_difference"] for row in rows)
    return " to ".join(dict.fromkeys(signed(value, decimals=DECIMALS) for value in (ends[0], ends[-1])))


def _interval(row: Row) -> str:
    return " to ".join(signed(row[f"untrained_{end}"], decimals=DECIMALS) for end in ("low", "high"))
