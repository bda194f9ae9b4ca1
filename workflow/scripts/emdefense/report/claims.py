"""The claims as Markdown and JSON, and as a section for the page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emdefense.analysis.claims import Verdict
from emdefense.analysis.conditions import model_of_claim
from emdefense.analysis.printed import points
from emdefense.config import Study
from emdefense.files import write_json, write_text
from emdefense.report.tables.rendering import render_html, render_markdown
from emdefense.report.tables.table import DASH

COMPARISONS = {"equals": "", "at least": "≥ ", "at most": "≤ ", "above": "> ", "below": "< "}
GROUPS = {"text": "What the paper says", "tables": "What its tables show"}
EXPLANATION = (
    "“What the paper says” restates numbers of its text; “what its tables show” is read off its tables, wording and "
    "bounds are ours. A figure follows from the paper's tables if it is reached by what their entries round from."
)
OF_OURS = (
    "It holds for ours if our 95 % interval reaches it (questions drawn anew, the same for all arms, or as the number "
    "of answers alone allows, whichever reaches further); a bound that lies within our interval leaves the claim "
    "unclear, and so do answers without a score that could turn it. "
    "Chosen, weakest and strongest settings are the study's own."
)


def write_claims(verdicts: Sequence[Verdict], study: Study, stem: Path) -> None:
    """Write ``claims.md`` and ``claims.json``: ``stem`` with each suffix."""
    rows = claim_rows(verdicts, study)
    write_text(stem.with_name(f"{stem.name}.md"), render_markdown("claims.md.jinja", **_shown(rows)))
    write_json(stem.with_name(f"{stem.name}.json"), rows)


def claims_html(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows of ``claims.json`` as an HTML fragment for the page: a table per group, and what to say of it."""
    return render_html("claims.html.jinja", **_shown(rows))


def _shown(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the templates show; the columns of ours only where something of ours was measured."""
    measured = any(row["ours"] is not None for row in rows)
    explanation = f"{EXPLANATION} {OF_OURS}" if measured else EXPLANATION
    return {"groups": grouped(rows), "notes": notes(rows), "explanation": explanation, "measured": measured}


def claim_rows(verdicts: Sequence[Verdict], study: Study) -> list[dict[str, Any]]:
    """Return a JSON object for each claim; values are in its ``unit``, rounded to four decimals."""
    rows: list[dict[str, Any]] = []
    for verdict in verdicts:
        claim = verdict.claim
        model = model_of_claim(study, claim.quantity.model)
        ours = _rounded(verdict.ours)
        exact = claim.comparison == "equals"
        rows.append(
            {
                "id": claim.id,
                "claim": claim.claim,
                "source": claim.source,
                "tables": list(claim.tables),
                "formula": claim.quantity.in_words(),
                "quantity": claim.quantity.model_dump(mode="json", exclude_defaults=True),
                "unit": claim.quantity.unit,
                "model": None if model is None else study.models[model].title,
                "comparison": claim.comparison,
                "paper": claim.paper,
                "recomputed_from_paper": _rounded(verdict.recomputed),
                "follows_from_paper": verdict.follows,
                "recomputed_without": _rounded(verdict.recomputed_without),
                "without": claim.without,
                "ours": ours,
                "ours_low": None if verdict.interval is None else _rounded(verdict.interval[0]),
                "ours_high": None if verdict.interval is None else _rounded(verdict.interval[1]),
                "difference": None if ours is None or not exact else _rounded(ours - float(claim.paper)),
                "verdict": verdict.verdict,
            }
        )
    return rows


def grouped(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, str]]]:
    """Return the claims as printed, under the heading of their source."""
    groups: dict[str, list[dict[str, str]]] = {title: [] for title in GROUPS.values()}
    for row in rows:
        unit, tables = row["unit"], row["tables"]
        ends = (row["ours_low"], row["ours_high"])
        interval = "" if None in ends else "{} to {}".format(*map(points, ends))
        groups[GROUPS[row["source"]]].append(
            {
                "claim": row["claim"],
                "formula": row["formula"],
                "from": f"Table{'s' if len(tables) > 1 else ''} {', '.join(map(str, tables))}",
                "paper": f"{COMPARISONS[row['comparison']]}{row['paper']} {unit}",
                "recomputed": quantity_text(row["recomputed_from_paper"], unit),
                "follows": "follows" if row["follows_from_paper"] else "does not follow",
                "ours": quantity_text(row["ours"], unit),
                "interval": interval,
                "verdict": row["verdict"],
            }
        )
    return groups


def notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what has to be said about claims that do not follow from the paper's own tables."""
    found = []
    for row in rows:
        if row["follows_from_paper"] or row["recomputed_from_paper"] is None:
            continue
        unit = row["unit"]
        text = f"“{row['claim']}”: the paper's own tables give {quantity_text(row['recomputed_from_paper'], unit)}"
        if row["recomputed_without"] is not None:
            text += f" ({quantity_text(row['recomputed_without'], unit)} without {row['without']})"
        found.append(f"{text}, so the sentence does not follow from them.")
    return found


def quantity_text(value: float | None, unit: str) -> str:
    """Return a value as printed, a dash if there is none."""
    return DASH if value is None else f"{points(value)} {unit}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
