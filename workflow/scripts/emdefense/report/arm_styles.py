"""One look an arm, the same in every figure and study."""

from itertools import cycle

from emdefense.analysis.conditions import ema_arms
from emdefense.config import Study
from emdefense.report.style import LINES, LineStyle


def arm_styles(study: Study) -> dict[str, LineStyle]:
    """Return each arm's style; variants, and arms that declare no look, have those that no arm of the model needs."""
    declared = {
        name: LineStyle(arm.arm.look.color, arm.arm.look.marker, arm.arm.look.dashes)
        for name, arm in study.every_arm.items()
        if arm.arm.look and arm.of is None
    }
    needed = [declared[arm] for arm in ema_arms(study, study.report.main_model) if arm in declared]
    free = [style for style in LINES if style not in needed] or LINES
    others = [name for name in study.every_arm if name not in declared]
    return declared | dict(zip(others, cycle(free), strict=False))
