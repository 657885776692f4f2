"""Is a unit still itself? Its activations at one time beside those at another, on the same images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from concept_monitor_cli.errors import InputError

Floats = NDArray[np.float64]
# Activations of images start to stop, (n, C).
Rows = Callable[[int, int], NDArray[np.float32]]

#: A unit whose activations correlate with its earlier ones at least like this has not changed: what is new
#: differs by less than 4.5 % of its standard deviation (`sqrt(1 - r^2)`).
UNCHANGED = 0.999

_BLOCK = 4096


def paired_correlations(first: Rows, second: Rows, n_images: int, *, block: int = _BLOCK) -> Floats:
    """Pearson's correlation of every unit of a layer with the unit of the same number of another one.

        r[k] = sum_x (a_k(x) - mean a_k) (b_k(x) - mean b_k) / (N sd(a_k) sd(b_k))

    Two passes over the images in blocks: memory is one block of rows of each layer.

    Args:
        first: reads rows of the first layer's activations, `(n, C)`.
        second: likewise, of as many units.
        n_images: `N`.
        block: images at a time.

    Returns:
        `(C,)`, between -1 and 1; NaN for a unit that never changes, or is not always a number, in either.
    """
    if n_images < 1:
        raise InputError("no images to correlate activations on")
    spans = [(start, min(n_images, start + block)) for start in range(0, n_images, block)]
    means = [
        sum(rows(*span).sum(axis=0, dtype=np.float64) for span in spans) / n_images
        for rows in (first, second)
    ]
    if np.shape(means[0]) != np.shape(means[1]):
        raise InputError(f"layers of {np.size(means[0])} and {np.size(means[1])} units cannot be paired")
    sums = [np.zeros_like(means[0]) for _ in range(3)]
    for span in spans:
        a, b = (
            rows(*span).astype(np.float64) - mean for rows, mean in zip((first, second), means, strict=True)
        )
        for total, product in zip(sums, (a * b, a * a, b * b), strict=True):
            total += product.sum(axis=0)
    norms = [np.sqrt(sums[1]), np.sqrt(sums[2])]
    # A constant unit leaves rounding errors of its mean, not zeros.
    alive = [norm > 1e-6 * np.sqrt(n_images) * np.abs(mean) for norm, mean in zip(norms, means, strict=True)]
    with np.errstate(divide="ignore", invalid="ignore"):
        found = sums[0] / norms[0] / norms[1]
    result: Floats = np.where(alive[0] & alive[1], np.clip(found, -1.0, 1.0), np.nan)
    return result
