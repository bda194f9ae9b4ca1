"""Packages that a training's settings ask for, looked for without importing them."""

from importlib.util import find_spec

from emdefense.config.training import Quantisation, Training
from emdefense.errors import InputError

NO_FLASH_ATTENTION = (
    "key 'training.attention': flash_attention_2 needs a GPU and the package flash-attn; install it "
    "(pip install flash-attn --no-build-isolation), or write sdpa"
)


def check_quantisation(quantisation: Quantisation) -> None:
    """Raise :class:`InputError` if what quantises is not installed here."""
    if quantisation != "none" and find_spec("bitsandbytes") is None:
        raise InputError(
            f"key 'training.quantisation': {quantisation} needs bitsandbytes; install it (pip install bitsandbytes), "
            "or write none"
        )


def check_packages(training: Training) -> None:
    """Raise :class:`InputError` if the optimiser, the attention or the tracker is not installed here."""
    if training.optimiser == "adamw_8bit" and find_spec("bitsandbytes") is None:
        raise InputError(
            "key 'training.optimiser': adamw_8bit needs bitsandbytes; install it (pip install bitsandbytes), or write "
            "adamw_torch_fused"
        )
    check_quantisation(training.quantisation)
    if training.attention == "flash_attention_2" and find_spec("flash_attn") is None:
        raise InputError(NO_FLASH_ATTENTION)
    if training.report_to != "none" and find_spec(training.report_to) is None:
        raise InputError(
            f"key 'training.report_to': {training.report_to} is not installed; install it "
            f"(pip install {training.report_to}), or write none"
        )
