"""What an arm's training costs beside plain fine-tuning."""

from emdefense.arms import format_setting
from emdefense.cells import Cell, Grid
from emdefense.training.costs import training_cost as cost_of


def training_cost(grid: Grid, model: str, arm: str, setting: float | None) -> float | None:
    """Return how many times plain fine-tuning's passes of the model an arm's training takes; None if it has none.

    Of its rows on the first EMA task that it is trained on. Preparations are not counted.
    """
    wanted = (model, arm, format_setting(setting))
    here = (cell for cell in grid.cells if (cell.model, cell.arm, cell.setting) == wanted)
    cell: Cell | None = next((cell for cell in here if not grid.is_benign(cell)), None)
    if cell is None or not grid.arm(cell).is_trained:
        return None
    return cost_of(grid.training(cell), grid.study_arm(cell), grid.row_share(cell))
