"""What happened, in sentences: what the page says first, and a run at its end."""

from emdefense.config import Study
from emdefense.report.measured import Measured
from emdefense.report.page.findings import Finding, findings
from emdefense.report.page.likelihood import likelihood_findings
from emdefense.report.page.unjudged import unjudged_findings


def what_happened(study: Study, measured: Measured) -> list[Finding]:
    """Return the verdicts at chosen settings, and what needs no judge; :class:`InputError` as ``measured`` does."""
    found = unjudged_findings(study)
    if study.judge:
        found += findings(measured.chosen, measured.reported.summary, measured.verdicts)
    if study.likelihood:
        found += likelihood_findings(study, measured.likelihood)
    return found
