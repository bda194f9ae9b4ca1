"""Models in float64 throughout, for what is compared with a formula."""

from functools import partial
from typing import TypeVar

from torch import Tensor, nn, rsqrt

Model = TypeVar("Model", bound=nn.Module)


def in_float64(model: Model) -> Model:
    """The same model in float64, its norms included, which compute in float32 whatever they are given."""
    model.double()
    for module in model.modules():
        if type(module).__name__ in ("LlamaRMSNorm", "Qwen2RMSNorm"):
            module.forward = partial(_normalised, module)  # type: ignore[method-assign]
    return model


def _normalised(norm: nn.Module, hidden: Tensor) -> Tensor:
    scale = rsqrt(hidden.square().mean(-1, keepdim=True) + norm.variance_epsilon)
    return norm.weight * hidden * scale  # type: ignore[no-any-return, operator]
