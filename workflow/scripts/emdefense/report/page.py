"""The page: verdicts, tables, figures, claims, responses to read, provenance and divergences in one HTML file."""

import re
from pathlib import Path

from emdefense.analysis.claims import judge_claims
from emdefense.analysis.judge_pairs import study_pairs
from emdefense.analysis.paper import paper_study, paper_summary
from emdefense.analysis.summary import read_summary
from emdefense.config import Study
from emdefense.errors import InputError
from emdefense.files import write_text
from emdefense.report.claims import claim_rows, notes
from emdefense.report.divergences import divergences
from emdefense.report.figures import DRAWINGS
from emdefense.report.findings import findings
from emdefense.report.judge_agreement import agreement_table, confusion_table
from emdefense.report.projections import read_projections
from emdefense.report.provenance import provenance
from emdefense.report.readings import readings
from emdefense.report.reference import paper_reference
from emdefense.report.rendering import html_table, render_html
from emdefense.report.safelora_figure import NAME as COSINES
from emdefense.report.safelora_figure import caption
from emdefense.report.safelora_table import safelora_table
from emdefense.report.tables import NUMBERS, build_table
from emdefense.report.training_curves import OVERVIEW, overview_caption


def write_page(study: Study, results: Path, out: Path) -> None:
    """Write the page of a study whose rates and figures lie in ``results``."""
    rates = results / "rates.parquet"
    summary = read_summary(rates, results / "exact_match.parquet")
    verdicts = judge_claims(study, summary, paper_study(), paper_summary())
    tables = [html_table(build_table(number, study, summary, paper_reference())) for number in NUMBERS]
    figures = [
        (name, d.caption, inline_svg(results / "figures" / f"figure_{name}.svg")) for name, d in DRAWINGS.items()
    ]
    projections = read_projections(study)
    safelora = projections and {
        "table": html_table(safelora_table(study, projections)),
        "caption": caption(study, projections),
        "svg": inline_svg(results / "figures" / f"{COSINES}.svg"),
    }
    judges = []
    if study.second_judges:
        pairs = study_pairs(study)
        judges = [html_table(agreement_table(study, pairs)), html_table(confusion_table(study, pairs))]
    page = render_html(
        "page.html.jinja",
        study=study,
        findings=findings(study, summary),
        tables=tables,
        figures=figures,
        safelora=safelora,
        judges=judges,
        training={
            "caption": overview_caption(study),
            "svg": inline_svg(results / "figures" / f"{OVERVIEW}.svg"),
        },
        claims=claim_rows(verdicts, study),
        claim_notes=notes(verdicts),
        readings=readings(study),
        provenance=provenance(study, rates),
        divergences=divergences(study),
    )
    write_text(out, page)


def inline_svg(path: Path) -> str:
    """Return an SVG file as an element of a page: no prologue, and ids that no other figure has."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; draw the figures first")
    text = path.read_text(encoding="utf-8")
    prefix = path.stem.replace("_", "-")
    text = re.sub(r'\bid="', f'id="{prefix}-', text[text.index("<svg") :])
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", text)
