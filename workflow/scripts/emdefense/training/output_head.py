"""What a model does between its last hidden states and its logits, found by trying, not by the model's name.

Around the product with the head's weight, models scale hidden states or logits, cap logits, normalise once more. All
this is done by the model's own code: its ``forward`` is run with the backbone, and where it serves the head too,
replaced by what is given, so that fp32 products go through the very operations that follow the head, and gradients back
through them. A row of data then shows whether the whole gives the model's own logits.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from emdefense.errors import InputError
from emdefense.training.fused_loss import OutputHead, PreparedHead, ProductHead

Map = Callable[[Tensor], Tensor]
TRIED = (1.0, 30.0, 1000.0)  # sizes of the values by which a map is tried: a cap shows at one of them


class _NotLikeThis(Exception):
    """The model's forward does not go through the modules as was thought."""


@dataclass
class _BackboneOutput(BaseModelOutputWithPast):  # type: ignore[misc]
    """An output that has hidden states, and None for whatever else is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return None


@dataclass(frozen=True)
class OwnForward:
    """Runs the parts of a model's ``forward`` that come after its backbone; all maps are of tokens × anything."""

    model: PreTrainedModel
    backbone: torch.nn.Module
    head: torch.nn.Module | None

    def before(self, hidden: Tensor) -> Tensor:
        """Map the backbone's hidden states to what the head takes."""
        reached: list[Tensor] = []

        def stop(taken: Tensor) -> Tensor:
            reached.append(taken)
            raise _Reached

        try:
            self._run(hidden, stop)
        except _Reached:
            return reached[0].reshape(len(hidden), -1)
        raise _NotLikeThis

    def after(self, product: Tensor, width: int) -> Tensor:
        """Map what the head gives to the logits; ``width`` is that of hidden states."""
        calls: list[None] = []

        def give(taken: Tensor) -> Tensor:
            calls.append(None)
            return product.reshape(*taken.shape[:-1], -1)

        assert self.head is not None
        logits = self._run(product.new_zeros(len(product), width, dtype=_type_of(self.head)), give)
        if len(calls) != 1:
            raise _NotLikeThis
        return logits

    def whole(self, hidden: Tensor) -> Tensor:
        """Map the backbone's hidden states to the logits."""
        return self._run(hidden, None)

    def _run(self, hidden: Tensor, head: Map | None) -> Tensor:
        calls: list[None] = []

        def backbone(*_: Any, **__: Any) -> _BackboneOutput:
            calls.append(None)
            return _BackboneOutput(last_hidden_state=hidden[None])

        ids = torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device)
        with _replaced(self.model, self.backbone, backbone), _replaced(self.model, self.head, head):
            output = own_forward(self.model, input_ids=ids)
        if len(calls) != 1:
            raise _NotLikeThis
        return output.logits.reshape(len(hidden), -1)  # type: ignore[no-any-return]


class _Reached(Exception):
    """The head was called; what follows it is not needed."""


class _Stand(torch.nn.Module):
    """Stands in a model where ``original`` stood, and is called in its place; whatever else is asked of it is there."""

    def __init__(self, original: torch.nn.Module, forward: Callable[..., Any]):
        super().__init__()
        self.original = original
        self.__dict__["forward"] = forward

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("original"), name)


@contextmanager
def _replaced(
    model: torch.nn.Module, module: torch.nn.Module | None, forward: Callable[..., Any] | None
) -> Iterator[None]:
    """Have ``forward`` called in the place of ``module``, whose hooks do not see it; nothing changes without either."""
    if module is None or forward is None:
        yield
        return
    name = next(name for name, found in model.named_modules() if found is module)
    model.set_submodule(name, _Stand(module, forward))
    try:
        yield
    finally:
        model.set_submodule(name, module)


def own_forward(model: PreTrainedModel, **inputs: Tensor) -> Any:
    """Return what the model's class computes, whatever a trainer may have put in the place of its ``forward``."""
    return type(model).forward(model, use_cache=False, **inputs)


@dataclass(frozen=True)
class SurroundedHead:
    """A product with the model's own operations ``before`` and ``after`` it, where it has any."""

    product: ProductHead
    vocabulary: int
    before: Map | None
    after: Map | None

    def prepared(self, hidden_dtype: torch.dtype) -> PreparedHead:
        """Return the head for hidden states of this type."""
        around = _autocast_now(self.product.weight.device)
        return _Surrounded(self.product.prepared(hidden_dtype), self.before, self.after, around)


class _Surrounded:
    def __init__(self, product: PreparedHead, before: Map | None, after: Map | None, autocast: Callable[[], Any]):
        self.dtype = product.dtype
        self._product, self._before, self._after, self._autocast = product, before, after, autocast

    def logits(self, hidden: Tensor) -> Tensor:
        with torch.no_grad():
            if self._before:
                with self._autocast():
                    hidden = self._before(hidden)
            product = self._product.logits(hidden)
            return self._after(product).to(self.dtype) if self._after else product

    def evaluate(self, hidden: Tensor) -> tuple[Tensor, Map]:
        taken, before = _differentiable(self._before, hidden, self._autocast)
        product, pull_back = self._product.evaluate(taken)
        logits, after = _differentiable(self._after, product)

        def back(gradient: Tensor) -> Tensor:
            return before(pull_back(after(gradient)))

        return logits.to(self.dtype), back


@dataclass(frozen=True)
class OwnHead:
    """The model's own head, in the model's precision: a chunk at a time, with all that autograd keeps of it."""

    vocabulary: int
    own: OwnForward

    def prepared(self, hidden_dtype: torch.dtype) -> PreparedHead:
        """Return the head for hidden states of this type."""
        dtype = torch.promote_types(hidden_dtype, torch.float32)
        return _Own(self.own.whole, dtype, _autocast_now(self.own.model.device))


class _Own:
    def __init__(self, whole: Map, dtype: torch.dtype, autocast: Callable[[], Any]):
        self.dtype, self._whole, self._autocast = dtype, whole, autocast

    def logits(self, hidden: Tensor) -> Tensor:
        with torch.no_grad(), self._autocast():
            return self._whole(hidden).to(self.dtype)

    def evaluate(self, hidden: Tensor) -> tuple[Tensor, Map]:
        logits, back = _differentiable(self._whole, hidden, self._autocast)
        return logits.to(self.dtype), back


def _differentiable(
    function: Map | None, value: Tensor, autocast: Callable[[], Any] | None = None
) -> tuple[Tensor, Map]:
    """Return ``function(value)``, and what maps its gradient to one of ``value``; no function changes neither."""
    if function is None:
        return value, lambda gradient: gradient
    with torch.enable_grad(), (autocast or _as_it_is)():
        start = value.detach().requires_grad_()
        result = function(start)

    def back(gradient: Tensor) -> Tensor:
        (found,) = torch.autograd.grad(result, start, gradient.to(result.dtype))
        return found

    return result.detach(), back


@contextmanager
def _as_it_is() -> Iterator[None]:
    yield


def _autocast_now(device: torch.device) -> Callable[[], Any]:
    """Return what enters the autocast that is in force now."""
    kind = device.type
    enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    return partial(torch.autocast, kind, dtype=dtype, enabled=enabled)


def _type_of(module: torch.nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype


def find_heads(model: PreTrainedModel, holders: Sequence[torch.nn.Module]) -> tuple[torch.nn.Module, list[OutputHead]]:
    """Return the backbone, the first of ``holders`` that the model's forward calls, and its head in each form it has.

    The cheapest form comes first, the model's own head last. Raises :class:`InputError` if the forward calls none.
    """
    head = model.get_output_embeddings()
    for backbone in holders:
        own = OwnForward(model, backbone, head)
        hidden = _drawn((3, _width(model)), _type_of(model if head is None else head), model.device)
        try:
            logits = _quietly(own.whole, hidden)
        except _NotLikeThis:
            continue
        vocabulary = logits.shape[1]
        around = None if head is None else _around(own, hidden, head, vocabulary)
        return backbone, [*([around] if around else []), OwnHead(vocabulary, own)]
    raise InputError(
        f"{model.name_or_path}: a model of type '{model.config.model_type}' is no decoder that can be trained"
    )


def _around(own: OwnForward, hidden: Tensor, head: torch.nn.Module, vocabulary: int) -> OutputHead | None:
    """Return the head as a product and what is around it; None if it is no product."""
    weight, bias = getattr(head, "weight", None), getattr(head, "bias", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        return None
    try:
        taken = _quietly(own.before, hidden)
        if taken.shape[1] != weight.shape[1] or not torch.equal(
            _quietly(head, taken), torch.nn.functional.linear(taken, weight, bias)
        ):
            return None
        values = [size * _drawn((2, len(weight)), torch.float32, weight.device) for size in TRIED]
        after = partial(own.after, width=hidden.shape[1])
        unchanged_after = all(_same(_quietly(after, value), value) for value in values)
    except (_NotLikeThis, RuntimeError):
        return None
    product = ProductHead(weight, bias)
    unchanged_before = _same(taken, hidden)
    if unchanged_before and unchanged_after:
        return product
    return SurroundedHead(
        product, vocabulary, None if unchanged_before else own.before, None if unchanged_after else after
    )


def _same(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and torch.equal(first, second)


def _quietly(function: Callable[[Tensor], Any], value: Tensor) -> Tensor:
    with torch.no_grad():
        result: Tensor = function(value)
    return result


def _width(model: PreTrainedModel) -> int:
    width: int = model.config.get_text_config().hidden_size
    return width


def _drawn(shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(0)  # its own: a training's random numbers stay what they were
    return torch.randn(shape, generator=generator).to(device, dtype)
