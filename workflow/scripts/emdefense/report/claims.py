"""The claims as Markdown and JSON, and as a table for the page."""

from collections.abc import Sequence
from pathlib import Path

from emdefense.analysis.claims import Verdict
from emdefense.analysis.conditions import model_in_role
from emdefense.config import Study
from emdefense.files import write_json, write_text
from emdefense.report.rendering import render_markdown

FOLLOWS, DOES_NOT_FOLLOW = "follows", "does not follow"


def write_claims(verdicts: Sequence[Verdict], study: Study, stem: Path) -> None:
    """Write ``claims.md`` and ``claims.json``: ``stem`` with each suffix."""
    rows = claim_rows(verdicts, study)
    write_text(stem.with_name(f"{stem.name}.md"), render_markdown("claims.md.jinja", rows=rows, notes=notes(verdicts)))
    write_json(stem.with_name(f"{stem.name}.json"), rows)


def claim_rows(verdicts: Sequence[Verdict], study: Study) -> list[dict[str, str | float | bool | None]]:
    """Return a JSON object for each claim; values are percentages, rounded to four decimals."""
    rows: list[dict[str, str | float | bool | None]] = []
    for verdict in verdicts:
        claim = verdict.claim
        model = model_in_role(study, claim.model)
        ours = _rounded(verdict.ours)
        rows.append(
            {
                "id": claim.id,
                "claim": claim.claim,
                "formula": claim.formula,
                "model": None if model is None else study.models[model].title,
                "paper": claim.paper_pct,
                "recomputed_from_paper": _rounded(verdict.recomputed),
                "follows_from_paper": verdict.follows,
                "recomputed_without": _rounded(verdict.recomputed_without),
                "without": claim.without,
                "ours": ours,
                "difference": None if ours is None else _rounded(ours - float(claim.paper_pct)),
                "verdict": verdict.verdict,
            }
        )
    return rows


def notes(verdicts: Sequence[Verdict]) -> list[str]:
    """Return what has to be said about claims that do not follow from the paper's own tables."""
    found = []
    for verdict in verdicts:
        if verdict.follows or verdict.recomputed is None:
            continue
        text = f"“{verdict.claim.claim}”: the paper's own tables give {verdict.recomputed:.1f} %"
        if verdict.recomputed_without is not None:
            text += f" ({verdict.recomputed_without:.1f} % without {verdict.claim.without})"
        found.append(f"{text}, so the sentence does not follow from them.")
    return found


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
