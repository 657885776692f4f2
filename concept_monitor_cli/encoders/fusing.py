"""Batch normalisation taken into the convolutions before it, for an encoder on a processor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.nn.utils.parametrize import is_parametrized

Pair = tuple[nn.Conv2d, nn.BatchNorm2d]

WORTHWHILE = 10
"""So many batch normalisations, or none is looked at: an image has to go through the network twice for it."""

TOLERANCE = 1e-5
"""How far an embedding of length one may move: what float32 rounds off."""


@torch.no_grad()
def fuse_batch_norms(network: nn.Module, embed: Callable[[Tensor], Tensor], pixels: Tensor) -> int:
    """Take every batch normalisation that follows a convolution into that convolution's weights.

    In evaluation it is a factor and a summand for each channel, for which a processor reads and writes the
    whole output once more: a third of the time of EfficientNet-Lite2, an eighth of ResNet-50's.

    One follows a convolution where it alone of all modules hears its output, as is seen while images go
    through the network. Then they go through it again: where an embedding moved, because code outside modules
    listens as well, the network is left as it was.

    Args:
        network: in evaluation mode; changed in place.
        embed: what the network makes of `pixels`, `(B, D)`.
        pixels: to try it on; any that are not constant.

    Returns:
        how many were fused.
    """
    if sum(isinstance(module, nn.BatchNorm2d) for module in network.modules()) < WORTHWHILE:
        return 0
    with _listening(network) as pairs:
        before = embed(pixels)
    undo = [_fuse(network, conv, norm) for conv, norm in pairs()]
    try:
        same = _distance(embed(pixels), before) < TOLERANCE
    except Exception:  # the network's own code may ask a normalisation for what it no longer has
        same = False
    if same:
        return len(undo)
    for each in undo:
        each()
    return 0


def _distance(ones: Tensor, others: Tensor) -> float:
    ones, others = (nn.functional.normalize(each.float(), dim=-1) for each in (ones, others))
    return float((ones - others).norm(dim=-1).max())


@contextmanager
def _listening(network: nn.Module) -> Iterator[Callable[[], list[Pair]]]:
    """Gives a function: after images went through, which normalisation follows which convolution?"""
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    calls: Counter[nn.Module] = Counter()
    listeners: Counter[int] = Counter()
    heard: list[tuple[nn.Conv2d, nn.BatchNorm2d, int]] = []

    def hear(module: nn.Module, given: tuple[Any, ...]) -> None:
        calls[module] += 1
        listeners.update(id(each) for each in given)
        if isinstance(module, nn.BatchNorm2d):
            heard.extend((made[id(each)][0], module, id(each)) for each in given if id(each) in made)

    def say(module: nn.Module, _given: Any, output: Any) -> None:
        if isinstance(module, nn.Conv2d):
            # Kept, so that no later tensor gets its number; an earlier one may have had it.
            made[id(output)] = module, output
            del listeners[id(output)]

    def pairs() -> list[Pair]:
        return [
            (conv, norm)
            for conv, norm, number in heard
            if listeners[number] == calls[conv] == calls[norm] == 1 and _can_fuse(conv, norm)
        ]

    handles = [
        handle
        for module in network.modules()
        for handle in (module.register_forward_pre_hook(hear), module.register_forward_hook(say))
    ]
    try:
        yield pairs
    finally:
        for handle in handles:
            handle.remove()


def _can_fuse(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> bool:
    return norm.running_var is not None and _what_stays(norm) is not None and not is_parametrized(conv)


def _what_stays(norm: nn.BatchNorm2d) -> nn.Module | None:
    """Instead of a normalisation: nothing, or the activation that timm puts into it. None: not known."""
    if type(norm) is nn.BatchNorm2d:
        return nn.Identity()
    if type(norm).__name__ == "BatchNormAct2d":
        return nn.Sequential(norm.get_submodule("drop"), norm.get_submodule("act"))
    return None


def _fuse(network: nn.Module, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Callable[[], None]:
    """Returns what takes it back."""
    mean, variance, stays = norm.running_mean, norm.running_var, _what_stays(norm)
    assert mean is not None
    assert variance is not None
    assert stays is not None
    weight, bias = conv.weight, conv.bias
    fused = fuse_conv_bn_weights(weight, bias, mean, variance, norm.eps, norm.weight, norm.bias)
    conv.weight, conv.bias = (nn.Parameter(each.detach(), requires_grad=False) for each in fused)
    places = [name for name, module in network.named_modules(remove_duplicate=False) if module is norm]
    for place in places:
        network.set_submodule(place, stays.eval())

    def take_back() -> None:
        conv.weight, conv.bias = weight, bias
        for place in places:
            network.set_submodule(place, norm)

    return take_back
