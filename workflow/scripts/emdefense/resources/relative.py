"""What an arm's training costs beside plain fine-tuning."""

from emdefense.arms import format_setting
from emdefense.cells import Cell, Grid
from emdefense.config.study import Study
from emdefense.training.costs import training_cost as cost_of


def training_cost(study: Study, model: str, arm: str, setting: float | None) -> float | None:
    """Return how many times plain fine-tuning's passes of the model an arm's training takes; None if it has none.

    Of its rows on the first EMA task that it is trained on. Preparations are not counted.
    """
    grid = Grid(study)
    wanted = format_setting(setting)
    found = [c for c in grid.cells if (c.model, c.arm, c.setting) == (model, arm, wanted) and not grid.is_benign(c)]
    if not found or not grid.arm(found[0]).is_trained:
        return None
    cell: Cell = found[0]
    return cost_of(grid.training(cell), grid.study_arm(cell), grid.row_share(cell))
