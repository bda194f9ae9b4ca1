"""The renderers at work on the paper's published numbers, so that they can be checked against the paper."""

from pathlib import Path

from emdefense.analysis.claims import judge_claims
from emdefense.analysis.paper import paper_study, paper_summary
from emdefense.analysis.summary import no_summary
from emdefense.report.claims import write_claims
from emdefense.report.figures import DRAWINGS, write_figure
from emdefense.report.tables import NUMBERS, build_table, write_table
from emdefense.report.tradeoff import write_tradeoff


def write_paper_values(folder: Path) -> None:
    """Write tables, figures and claims below ``folder``; in the claims, nothing counts as ours."""
    study, summary = paper_study(), paper_summary()
    for number in NUMBERS:
        write_table(build_table(number, study, summary), folder / "tables")
    for name in DRAWINGS:
        write_figure(name, study, summary, folder / "figures")
    write_tradeoff(study, summary, None, folder / "figures")
    write_claims(judge_claims(study, no_summary(), study, summary), study, folder / "claims")
