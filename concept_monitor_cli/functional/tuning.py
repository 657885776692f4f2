"""Tuning curves: how a unit's response to simple rendered shapes depends on their angle.

As physiologists ask of cells, and Cammarata et al. 2020, "Curve Detectors", Distill, of units. Shapes are
gratings, arcs and corners; each comes in sizes and looks, the *blocks*, and in every block at all angles.
Symbols: `B` blocks, `A` angles, `U` units.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Shape = Literal["grating", "curve", "corner"]
SHAPES: tuple[Shape, ...] = get_args(Shape)

#: Angles of each shape.
ANGLES = 16
#: Periods of gratings and radii of arcs, as shares of the side of the image; openings of corners, degrees.
SIZES: dict[Shape, tuple[float, ...]] = {
    "grating": (1 / 16, 1 / 8, 1 / 4),
    "curve": (1 / 8, 1 / 4, 3 / 8),
    "corner": (45.0, 90.0, 135.0),
}
#: Of each size of a shape there are so many looks: phases of gratings; dark or bright, thin or thick lines.
LOOKS = 4
#: Draws of angles in an order of their own in every block.
DRAWS = 999

_ARC = 60.0  # an arc reaches this far, in degrees, to either side of its middle
_ARM = 0.4  # length of a corner's sides, as a share of the image's
_LINES = (1 / 32, 1 / 14)
_GREY, _CONTRAST = 0.5, 0.45


@dataclass(frozen=True)
class Block:
    """A shape in one size and look, at all angles.

    Attributes:
        shape: what it is.
        size: of `SIZES`.
        look: of `LOOKS`.
    """

    shape: Shape
    size: float
    look: int


def blocks(shape: Shape) -> list[Block]:
    """All blocks of a shape, size by size."""
    return [Block(shape, size, look) for size in SIZES[shape] for look in range(LOOKS)]


def angles(shape: Shape) -> list[float]:
    """Degrees, counter-clockwise from the right: of bars 0 to 180, of where arcs and corners point to 360."""
    turn = 180.0 if shape == "grating" else 360.0
    return [turn * number / ANGLES for number in range(ANGLES)]


def rendered(block: Block, side: int) -> Tensor:
    """A block's images, `(A, side, side)` float32 in [0, 1], grey; edges are a pixel soft.

    Args:
        block: which.
        side: pixels.
    """
    place = (torch.arange(side, dtype=torch.float64) + 0.5) / side - 0.5
    y, x = torch.meshgrid(-place, place, indexing="ij")  # up is positive
    found = torch.stack([_drawn(block, x, y, math.radians(degrees), side) for degrees in angles(block.shape)])
    return found.float()


def _drawn(block: Block, x: Tensor, y: Tensor, angle: float, side: int) -> Tensor:
    cosine, sine = math.cos(angle), math.sin(angle)
    along, across = x * cosine + y * sine, -x * sine + y * cosine
    if block.shape == "grating":
        phase = 2 * math.pi * block.look / LOOKS
        return _GREY + _CONTRAST * torch.cos(2 * math.pi * across / block.size + phase)
    sign, width = 1 - 2 * (block.look % 2), _LINES[block.look // 2]
    if block.shape == "curve":
        # The middle of the arc is in the middle of the image, its bulge points along the angle.
        centre = along + block.size
        away = (torch.hypot(centre, across) - block.size).abs()
        seen = torch.atan2(across, centre).abs() <= math.radians(_ARC)
    else:
        # The tip is in the middle of the image and points along the angle: both sides lie behind it.
        half = math.radians(block.size) / 2
        back, up = -along, across.abs()
        length = back * math.cos(half) + up * math.sin(half)
        away = (up * math.cos(half) - back * math.sin(half)).abs()
        seen = (length >= -width / 2) & (length <= _ARM)
    line = ((width / 2 - away) * side + 0.5).clamp(0, 1) * seen
    return _GREY + sign * _CONTRAST * line


def batches(side: int, channels: int) -> Iterator[tuple[Block, Tensor]]:
    """Every block with its images, `(A, channels, side, side)`."""
    for shape in SHAPES:
        for block in blocks(shape):
            yield block, rendered(block, side)[:, None].expand(-1, channels, -1, -1)


# -- what responses say --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tuning:
    """How units depend on the angle of a shape.

    Attributes:
        curve: `(A, U)`, mean responses over the blocks.
        share: `(U,)`, of the variance within blocks, the part that the angle alone explains; NaN for units
            that respond to all angles alike.
        chance: what `share` is where every block has an order of its own: `1 / B`.
        p_value: `(U,)`, of permutations within blocks; NaN where `share` is.
        preferred: `(U,)` int64, the angle of the largest mean response; ties by number.
        width: `(U,)` float64, the share of angles with more than half of the way from the least to the
            largest mean response.
        block: `(U,)` int64, the block of the largest response.
        peak: `(U,)`, the largest response of all.
    """

    curve: Tensor
    share: Tensor
    chance: float
    p_value: Tensor
    preferred: Tensor
    width: Tensor
    block: Tensor
    peak: Tensor


def explained(responses: Tensor) -> Tensor:
    """The share of the variance within blocks that the angle alone explains, `(U,)` float64.

    Args:
        responses: `(B, A, U)`.

    Returns:
        `B sum_a (mean_b c)^2 / sum_ab c^2` of `c`, the responses less their mean in each block. 1 where all
        blocks have one curve, `1 / B` on average where they have nothing in common; NaN without variance.
    """
    rows = responses.double()
    centred = rows - rows.mean(1, keepdim=True)
    whole = centred.square().sum((0, 1))
    # Rounding leaves a little variance in responses of one value.
    live = whole > 1e-12 * rows.square().sum((0, 1))
    part = len(rows) * centred.mean(0).square().sum(0)
    return torch.where(live, part / torch.where(live, whole, 1.0), torch.nan)


def tuning(responses: Tensor, numbers: torch.Generator, draws: int = DRAWS) -> Tuning:
    """The tuning of units to a shape.

    Args:
        responses: `(B, A, U)`, blocks in the order of `blocks`.
        numbers: of the permutations.
        draws: how many.
    """
    rows = responses.double()
    count, turns, units = rows.shape
    share = explained(rows)
    above = torch.zeros(units, dtype=torch.int64, device=rows.device)
    centred = rows - rows.mean(1, keepdim=True)
    whole = centred.square().sum((0, 1))
    each = torch.arange(count, device=rows.device)[:, None]
    drawn = torch.empty(draws, count, turns, dtype=torch.int64)
    for draw in drawn:
        draw.copy_(torch.rand(count, turns, generator=numbers).argsort(1))
    for order in drawn.to(rows.device):
        part = count * centred[each, order].mean(0).square().sum(0)
        above += part >= share * whole * (1 - 1e-9)
    curve = rows.mean(0)
    low, high = curve.amin(0), curve.amax(0)
    peaks = rows.amax(1)
    return Tuning(
        curve,
        share,
        1 / count,
        torch.where(share.isnan(), torch.nan, (1 + above).double() / (1 + draws)),
        curve.argmax(0),
        (curve > (low + high) / 2).double().mean(0),
        peaks.argmax(0),
        peaks.amax(0),
    )


def turned(first: Tensor, second: Tensor, shape: Shape) -> Tensor:
    """Degrees between two angles given by number, the shorter way round: at most half a turn of the shape.

    Args:
        first, second: `(U,)` int64.
        shape: a grating is the same after 180 degrees.
    """
    steps = (first - second).abs()
    turn = 180.0 if shape == "grating" else 360.0
    return torch.minimum(steps, ANGLES - steps).double() * turn / ANGLES
