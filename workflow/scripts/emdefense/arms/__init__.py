"""The arms that there are, one module each, in the order of tables and figures."""

from emdefense.arms.base import (
    NO_SETTING,
    Arm,
    FinishedAdapter,
    Look,
    Materials,
    Options,
    Row,
    Setting,
    StudyArm,
    format_setting,
    in_order,
)
from emdefense.arms.controls import SFT, Aligned, Misaligned, Untrained
from emdefense.arms.interleave import Interleaving
from emdefense.arms.kl import KLRegularisation
from emdefense.arms.ldifs import FeatureDistance
from emdefense.arms.safelora import ProjectedAdapter

CONTROLS: tuple[Arm, ...] = (Untrained(), Aligned(), Misaligned(), SFT())  # type: ignore[type-arg]
DEFENCES: tuple[Arm, ...] = (KLRegularisation(), FeatureDistance(), ProjectedAdapter(), Interleaving())  # type: ignore[type-arg]
STANDARD = {arm.name: arm for arm in (*CONTROLS, *DEFENCES)}
UNTRAINED, ALIGNED, MISALIGNED, PLAIN = (arm.name for arm in CONTROLS)

__all__ = [
    "ALIGNED",
    "CONTROLS",
    "DEFENCES",
    "MISALIGNED",
    "NO_SETTING",
    "PLAIN",
    "STANDARD",
    "UNTRAINED",
    "Arm",
    "FinishedAdapter",
    "Look",
    "Materials",
    "Options",
    "Row",
    "Setting",
    "StudyArm",
    "format_setting",
    "in_order",
]
