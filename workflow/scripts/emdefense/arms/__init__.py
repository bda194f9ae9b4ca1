"""The arms that there are, one module each, in the order of tables and figures."""

from emdefense.arms.arguments import FinishedAdapter, FrozenAdapter, Materials, Step
from emdefense.arms.base import Arm, Options, Row
from emdefense.arms.caft import CAFT
from emdefense.arms.controls import SFT, Aligned, Misaligned, Untrained
from emdefense.arms.directional_kl import DirectionalKL
from emdefense.arms.inoculation import Inoculation
from emdefense.arms.inoculation_adapter import TraitBeside
from emdefense.arms.interleave import Interleaving
from emdefense.arms.kl import KLRegularisation
from emdefense.arms.kl_safe import KLOnSafeRows
from emdefense.arms.ldifs import FeatureDistance
from emdefense.arms.lisa import AlternatingTraining
from emdefense.arms.look import Look
from emdefense.arms.safegrad import GradientSurgery
from emdefense.arms.safelora import ProjectedAdapter
from emdefense.arms.setting import NO_SETTING, Setting, format_setting, in_order
from emdefense.arms.steering import Steering
from emdefense.arms.study_arm import StudyArm
from emdefense.arms.treft import AnchoredTemplate

CONTROLS: tuple[Arm, ...] = (Untrained(), Aligned(), Misaligned(), SFT())  # type: ignore[type-arg]
DEFENCES: tuple[Arm, ...] = (  # type: ignore[type-arg]
    KLRegularisation(),
    FeatureDistance(),
    ProjectedAdapter(),
    Interleaving(),
    Inoculation(),
    TraitBeside(),
    Steering(),
    CAFT(),
    DirectionalKL(),
    KLOnSafeRows(),
    AnchoredTemplate(),
    GradientSurgery(),
    AlternatingTraining(),
)
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
    "FrozenAdapter",
    "Look",
    "Materials",
    "Options",
    "Row",
    "Setting",
    "Step",
    "StudyArm",
    "format_setting",
    "in_order",
]
