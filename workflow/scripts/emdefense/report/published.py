"""The renderers at work on the paper's published numbers, so that they can be checked against the paper."""

from pathlib import Path

from emdefense.analysis.claims import judge_claims
from emdefense.analysis.paper import paper_study, paper_summary
from emdefense.analysis.summary import no_summary
from emdefense.report.catalogue import PUBLISHED, artefacts
from emdefense.report.claims import write_claims
from emdefense.report.measured import Measured


def write_paper_values(folder: Path) -> None:
    """Write tables, figures and claims below ``folder``; in the claims, nothing counts as ours."""
    study, summary = paper_study(), paper_summary()
    published = Measured(study, summary=summary, reference=None, resampled=None)
    for artefact in artefacts(study).values():
        if PUBLISHED.issuperset(artefact.reads):
            artefact.write(study, published, folder)
    write_claims(judge_claims(study, no_summary(), study, summary), study, folder / "claims")
