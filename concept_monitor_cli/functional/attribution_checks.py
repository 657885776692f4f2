"""Does a map depend on the network, or only on the image?

Adebayo et al. 2018, "Sanity Checks for Saliency Maps". Maps are compared as they are, raw: a scaling by each
image's range would make unlike maps alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MEASURES = ("spearman", "absolute spearman")


def spearman(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Rank correlation of two maps of one shape, ties sharing their mean rank; NaN for a constant map."""
    from scipy.stats import rankdata

    a, b = (rankdata(each.ravel()) for each in (first, second))
    a, b = a - a.mean(), b - b.mean()
    length = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / length if length else float("nan")


def likeness(first: NDArray[np.float32], second: NDArray[np.float32], measure: str) -> float:
    """How alike two maps are by one of `MEASURES`: with their signs, or by their absolute values."""
    if measure == "absolute spearman":
        return spearman(np.abs(first), np.abs(second))
    return spearman(first, second)


@dataclass(frozen=True)
class Likeness:
    """What is left of the maps of some images.

    Attributes:
        value: mean over images of how alike an image's own two maps are.
        floor: mean over pairs of how alike its map and another image's changed map are: what any two share.
        constant: changed maps that are constant; they have no value and count in neither mean.
    """

    value: float
    floor: float
    constant: int


def left_of(
    before: Sequence[NDArray[np.float32]], after: Sequence[NDArray[np.float32]], measure: str
) -> Likeness:
    """Compare maps before and after a change of the network.

    Args:
        before: a map for each image.
        after: the same images' maps of the changed network.
        measure: one of `MEASURES`.
    """
    own = [likeness(a, b, measure) for a, b in zip(before, after, strict=True)]
    other = [likeness(a, b, measure) for i, a in enumerate(before) for j, b in enumerate(after) if i != j]
    constant = sum(bool((each == each.flat[0]).all()) for each in after)
    return Likeness(_mean(own), _mean(other), constant)


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
