"""One look an arm, the same in every figure and study."""

from itertools import cycle

from emdefense.analysis.conditions import ema_arms
from emdefense.config import Study
from emdefense.config.training import DEFENCES
from emdefense.report.style import LINES, LineStyle

FIXED = dict(zip((*DEFENCES, "misaligned", "aligned"), (*LINES[:4], LINES[5], LINES[6]), strict=True))


def arm_styles(study: Study) -> dict[str, LineStyle]:
    """Return each trained arm's style; variants have those that no arm of the main model needs."""
    needed = [FIXED[arm] for arm in ema_arms(study, study.report.main_model) if arm in FIXED]
    free = [style for style in LINES if style not in needed] or LINES
    return FIXED | dict(zip(study.variants, cycle(free), strict=False))
