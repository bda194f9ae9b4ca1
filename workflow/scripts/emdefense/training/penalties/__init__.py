"""Penalties, one module each; importing a module registers its penalty."""

from emdefense.training.penalties import kl, ldifs
from emdefense.training.penalties.base import Penalty, TokenBatch, WindowCounts, build_penalty, register

__all__ = ["Penalty", "TokenBatch", "WindowCounts", "build_penalty", "kl", "ldifs", "register"]
