"""The value that a unit exceeds at a given share of all positions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

# Of all positions, above a unit's threshold: Bau et al. 2017.
QUANTILE = 0.005

_LARGEST = torch.finfo(torch.float32).max


def comparable(maps: Tensor) -> Tensor:
    """Activations as thresholds and masks compare them: float32, infinities as the largest finite numbers.

    float16 would not do: its steps at 100 are 1/16 wide, it ends at 65,504, and nothing below 3e-8 is
    different from zero. NaN stays.
    """
    return maps.float().clamp(-_LARGEST, _LARGEST)


def positions_above(fraction: float, positions: int) -> int:
    """How many of all positions may lie above the threshold: the whole part of `fraction * positions`.

    0.005 of 200 positions is one position: computed with the decimal number, not with its binary neighbour.
    """
    return math.floor(Fraction(repr(float(fraction))) * positions)


def activation_threshold(maps: Tensor, fraction: float = QUANTILE) -> Tensor:
    """The smallest value `T` such that at most `fraction` of a unit's positions lie strictly above it.

    Exact for float32 activations, and `T` is one that occurs. A unit that is zero nearly everywhere has
    `T = 0`; a constant one has its constant, so that its mask is empty. In one pass over batches:
    `record.UnitQuantile`.

    Args:
        maps: (N, C, h, w), any float dtype.
        fraction: the share, strictly between 0 and 1.

    Returns:
        (C,) float32.

    Raises:
        ValueError: another shape, no positions, NaN, or a fraction outside (0, 1).
    """
    if not 0 < fraction < 1:
        raise ValueError(f"the fraction must lie between 0 and 1, not at {fraction}")
    if maps.ndim != 4:
        raise ValueError(f"expected maps (N, C, h, w), not {tuple(maps.shape)}")
    numbers = comparable(maps).movedim(1, 0).flatten(1)
    if bool(torch.isnan(numbers).any()):
        raise ValueError("activations contain NaN")
    positions = numbers.shape[1]
    if positions == 0:
        raise ValueError("no positions to take a threshold from")
    # With m values allowed above it, the threshold is the value that m others precede from the top.
    place = positions - 1 - positions_above(fraction, positions)
    found = np.array([np.partition(unit, place)[place] for unit in numbers.cpu().numpy()], dtype=np.float32)
    return torch.from_numpy(found).to(maps.device)
