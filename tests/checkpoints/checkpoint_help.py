"""Small networks and files for the tests of checkpoints."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn


def small_network(seed: int = 0) -> nn.Sequential:
    """Convolutions, norms and a classifier: with enough names for a prefix to be told by its share."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for _ in range(4):
        layers += [nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))


def small_weights(seed: int = 0) -> dict[str, Tensor]:
    return OrderedDict((name, value.clone()) for name, value in small_network(seed).state_dict().items())


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Marker:
    """A pickle of it touches a file when it is loaded by a reader that runs code."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        import os

        return os.system, (f"touch {self.path}",)


class Config:
    """A class of some training script; harmless, but code."""

    def __init__(self) -> None:
        self.lr = 0.1


class Scaled:
    """Weights that exist only once this class has multiplied them."""

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def __reduce__(self) -> tuple[object, tuple[Tensor]]:
        return twice, (self.value,)


def twice(value: Tensor) -> Tensor:
    return 2 * value


class Packed:
    """A whole state dict that exists only once this class has unpacked it."""

    def __init__(self, names: list[str], values: list[Tensor]) -> None:
        self.names, self.values = names, values

    def __reduce__(self) -> tuple[object, tuple[list[str], list[Tensor]]]:
        return unpacked, (self.names, self.values)


def unpacked(names: list[str], values: list[Tensor]) -> dict[str, Tensor]:
    return dict(zip(names, values, strict=True))
