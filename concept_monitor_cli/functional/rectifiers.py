"""Other gradients for ReLU, whoever calls it, with the network left as it is.

A `TorchFunctionMode` swaps `relu`, `relu6` and `hardtanh(0, 6)` for functions with the same values and
another gradient: `redirected` (lucid `misc/redirected_relu_grad.py`) lets silent units wake up, `guided` is
that of Springenberg et al. 2015, "Striving for Simplicity".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

Rule = Literal["redirected", "guided"]

_RELU = {F.relu, torch.relu, Tensor.relu, F.relu_, torch.relu_, Tensor.relu_}
_IN_PLACE = {F.relu_, torch.relu_, Tensor.relu_, F.hardtanh_}
_SIX = 6.0


def passes(inputs: Tensor, slope: Tensor, upper: float | None) -> Tensor:
    """The ordinary gradient of ReLU (`upper=6`: of ReLU6): `slope` where the input is strictly inside."""
    inside = inputs > 0
    if upper is not None:
        inside = inside & (inputs < upper)
    return torch.where(inside, slope, 0)


def redirected_gradient(inputs: Tensor, slope: Tensor, upper: float | None) -> Tensor:
    """The gradient of ReLU, and for images of which nothing gets through: what brings inputs back inside.

    Where the whole gradient of an image is zero, what would push inputs up that are not above 0 is let pass,
    and what would push inputs down that are not below `upper`.

    Args:
        inputs: `(B, ...)`, of the ReLU.
        slope: the same shape: how what is climbed changes with what the ReLU puts out.
        upper: 6 for ReLU6, `None` for ReLU.

    Returns:
        The same shape.
    """
    plain = passes(inputs, slope, upper)
    inward = (inputs <= 0) & (slope > 0)
    if upper is not None:
        inward = inward | ((inputs >= upper) & (slope < 0))
    dead = (plain == 0).flatten(1).all(1).view(-1, *([1] * (plain.ndim - 1)))
    return torch.where(dead & inward, slope, plain)


def guided_gradient(inputs: Tensor, slope: Tensor, upper: float | None) -> Tensor:
    """The gradient of ReLU where it is positive, else 0; arguments as `redirected_gradient`."""
    return passes(inputs, slope.clamp_min(0), upper)


_RULES: dict[Rule, Callable[[Tensor, Tensor, float | None], Tensor]] = {
    "redirected": redirected_gradient,
    "guided": guided_gradient,
}


class _Rectifier(torch.autograd.Function):
    """ReLU or ReLU6 with a gradient by a rule."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, upper: float | None, rule: Rule, in_place: bool) -> Tensor:
        """The ordinary values."""
        ctx.upper, ctx.rule = upper, rule
        if in_place:
            # Whoever else holds the tensor sees it changed, as with the network's own ReLU.
            ctx.save_for_backward(inputs.clone())
            ctx.mark_dirty(inputs)
            return inputs.clamp_(0, upper)
        ctx.save_for_backward(inputs)
        return inputs.clamp(0, upper)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None, None]:
        """By the rule."""
        (inputs,) = ctx.saved_tensors
        return _RULES[ctx.rule](inputs, slopes[0], ctx.upper), None, None, None


class Rectifiers(TorchFunctionMode):
    """Inside its `with` block every ReLU has another gradient; values stay bit for bit what they were.

    Args:
        rule: `redirected` or `guided`.

    Attributes:
        met: how many calls were swapped: none in a network without ReLU, where the rule means nothing.
    """

    def __init__(self, rule: Rule) -> None:
        super().__init__()
        self.rule: Rule = rule
        self.met = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Swaps what is a ReLU; everything else is left alone."""
        named = dict(kwargs or {})
        upper = self._upper(func, args, named)
        inputs = args[0] if args else named.get("input")
        if upper is False or not isinstance(inputs, Tensor) or not inputs.requires_grad:
            return func(*args, **named)
        self.met += 1
        in_place = func in _IN_PLACE or bool(named.get("inplace", False)) or _said_in_place(func, args)
        return _Rectifier.apply(inputs, upper, self.rule, in_place)  # type: ignore[no-untyped-call]

    @staticmethod
    def _upper(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """6 for ReLU6, None for ReLU, False for everything else."""
        if func in _RELU:
            return None
        if func is F.relu6:
            return _SIX
        if func in (F.hardtanh, F.hardtanh_):
            low = args[1] if len(args) > 1 else kwargs.get("min_val", -1.0)
            high = args[2] if len(args) > 2 else kwargs.get("max_val", 1.0)
            return _SIX if (low, high) == (0, _SIX) else False
        return False


def _said_in_place(func: Callable[..., Any], args: tuple[Any, ...]) -> bool:
    """Whether `inplace` was given by its place."""
    place = 3 if func is F.hardtanh else 1
    return func in (F.relu, F.relu6, F.hardtanh) and len(args) > place and bool(args[place])


def redirected() -> Rectifiers:
    """For the first steps of an ascent."""
    return Rectifiers("redirected")


def guided() -> Rectifiers:
    """For guided backpropagation."""
    return Rectifiers("guided")
