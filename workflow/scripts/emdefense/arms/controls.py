"""The arms that defences are compared with: the model as it is, and plain fine-tuning."""

from typing import Any

from emdefense.arms.base import Arm, Options
from emdefense.arms.look import Look

CROSS = {"marker": "X", "markersize": 5.5, "color": "black", "markeredgecolor": "white", "markeredgewidth": 0.4}


def _hollow(marker: str) -> dict[str, Any]:
    return {"marker": marker, "markersize": 4.5, "markerfacecolor": "white", "markeredgecolor": "0.35"}


class Untrained(Arm[Options]):
    """The model before fine-tuning."""

    name = "untrained"
    title = "Untrained"
    is_defence = False
    is_trained = False
    look = Look("0.35", "s", mark=_hollow("s"))


class Aligned(Arm[Options]):
    """Plain fine-tuning on the task's prompts with aligned answers."""

    name = "aligned"
    title = "Aligned"
    kinds = ("ema",)
    is_defence = False
    side = "aligned"
    look = Look("#56B4E9", "P", (0, (8, 2)), mark=_hollow("D"))


class Misaligned(Arm[Options]):
    """Plain fine-tuning on misaligned answers: in it EMA appears, or not."""

    name = "misaligned"
    title = "Misaligned"
    kinds = ("ema",)
    is_defence = False
    look = Look("#3B3B3B", "X", (0, (1, 2)), mark=CROSS)


class SFT(Arm[Options]):
    """Plain fine-tuning on a benign task."""

    name = "sft"
    title = "SFT"
    kinds = ("benign",)
    is_defence = False
