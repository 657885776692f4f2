"""Does a map point at the thing that it explains? The pointing game, and the share of a map that lies on it.

Zhang et al. 2018, "Top-down neural attention by excitation backprop" (section 4): a hit is a peak within 15
pixels of the thing in an image of 224.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from concept_monitor_cli.functional.attribution import enlarged, peak

#: How far beside the thing a peak may lie, as a share of the image's side.
TOLERANCE = 15 / 224


def surroundings(mask: Tensor, tolerance: float = TOLERANCE) -> Tensor:
    """The places on a thing or close to it, `(s, s)` bool; their share is what a random place hits.

    Args:
        mask: `(s, s)` bool, where the thing is.
        tolerance: the largest distance between the middles of two pixels, as a share of the side.
    """
    if not bool(mask.any()):
        return torch.zeros_like(mask)
    away = distance_transform_edt(~mask.cpu().numpy())
    return torch.from_numpy(np.asarray(away) <= tolerance * mask.shape[-1]).to(mask.device)


def hits(attribution: Tensor, near: Tensor) -> bool:
    """Whether the peak of a map lies on such a place: the middle of places that tie; a constant map has none.

    Args:
        attribution: `(h, w)`, of the whole image.
        near: `(s, s)` bool, of `surroundings`.
    """
    x, y = peak(attribution)
    return not math.isnan(x) and at(x, y, near)


def at(x: float, y: float, places: Tensor) -> bool:
    """What stands at shares of width and height in `(s, s)` places."""
    side = places.shape[-1]
    return bool(places[min(int(y * side), side - 1), min(int(x * side), side - 1)])


def shares_inside(attribution: Tensor, masks: Sequence[Tensor]) -> list[float]:
    """The share of a map's positive part that lies on each thing; NaN for a map without one.

    Args:
        attribution: `(h, w)`, of the whole image; it is enlarged bilinearly.
        masks: `(s, s)` bool each.
    """
    values = enlarged(attribution.double()[None], *masks[0].shape)[0].clamp_min(0)
    total = float(values.sum())
    return [float(values[mask].sum()) / total if total > 0 else math.nan for mask in masks]
