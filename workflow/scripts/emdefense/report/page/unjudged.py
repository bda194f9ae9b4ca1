"""What the page of a study without a judge says in the place of verdicts."""

from emdefense.cells import Grid
from emdefense.config import Study
from emdefense.report.page.findings import Finding

HEADLINE = "Nothing was judged."
WITHOUT = (
    "This study has no judge. So there are no rates of misaligned or incoherent answers, no verdicts, no claims, no "
    "ranks of defences, and nothing is known of emergent misalignment: that is what a model answers to questions "
    "outside its task, and somebody has to read it."
)
CAN = (
    "Such measures show whether the task was learned, how far a defence keeps a model from learning it, and what is "
    "lost elsewhere. They do not show that a model gives the answers that it finds likelier than before, nor that what "
    "it says is coherent: a small model sampled at temperature 1 often is not."
)
RESPONSES = (
    "Its responses are on the cells' pages, for anybody to read. With a judge in the config they are judged as they "
    "are, and nothing is trained or sampled again."
)


def unjudged_findings(study: Study) -> list[Finding]:
    """Return what a study without a judge can show and what it cannot; nothing for one that has a judge."""
    if study.judge is not None:
        return []
    grid = Grid(study)
    measured = [
        *(["how likely held-out answers are to each model"] if study.likelihood else []),
        *(["what is chosen in multiple choice"] if study.multiple_choice else []),
        *(["right answers to benign tasks"] if grid.benign else []),
        *(["how the trainings went"] if grid.trained else []),
    ]
    said = f"What was measured without one: {', '.join(measured)}." if measured else "Nothing was measured without one."
    return [Finding("plain", HEADLINE, " ".join([WITHOUT, said, CAN, *([RESPONSES] if grid.responses else [])]))]
