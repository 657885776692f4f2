"""What people say of labels: agreement between raters, and whether labels are rated above chance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from concept_monitor_cli.errors import InputError

#: Sign flips of a test.
FLIPS = 10_000


def krippendorff_alpha(ratings: NDArray[np.float64]) -> float:
    """Krippendorff's alpha for interval data: 1 where raters agree, 0 where they agree as by chance.

        alpha = 1 - D_o / D_e

    `D_o` is the mean squared difference of two ratings of the same question, in which a question with `m`
    ratings has weight `m`, and `D_e` that of any two ratings.

    Args:
        ratings: `(raters, questions)`; NaN where a rater did not answer. Questions with fewer than two
            answers take no part.

    Returns:
        NaN where no question has two answers, or all ratings are equal.

    Source: Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011.

    Example:
        >>> krippendorff_alpha(np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]))
        1.0
    """
    if ratings.ndim != 2:
        raise InputError(f"ratings of shape {ratings.shape}: need (raters, questions)")
    known = ~np.isnan(ratings)
    counts = known.sum(0)
    values, known, counts = (each[..., counts > 1] for each in (ratings, known, counts))
    total = counts.sum()
    if not total:
        return float("nan")
    filled = np.where(known, values, 0.0)
    # Of m ratings, the sum of squared differences over ordered pairs is 2 (m sum x^2 - (sum x)^2).
    pairs = 2 * (counts * (filled**2).sum(0) - filled.sum(0) ** 2)
    observed = (pairs / (counts - 1)).sum() / total
    everything = filled[known]
    expected = 2 * (total * (everything**2).sum() - everything.sum() ** 2) / (total * (total - 1))
    scale = (everything**2).max()
    if expected <= 1e-12 * max(scale, 1.0):
        return float("nan")
    return float(1 - observed / expected)


def paired_p(differences: NDArray[np.float64], *, flips: int = FLIPS, seed: int = 0) -> float:
    """How often units with signs drawn at random reach the mean difference, add-one.

    Args:
        differences: `(U,)`, of each unit the rating of its label minus that of a label of chance.
        flips: draws; where all `2^U` are no more, every one is tried instead.
        seed: of the draws.

    Returns:
        one-sided p-value; NaN without units.

    Example:
        >>> paired_p(np.array([1.0, 2.0, 1.0]))
        0.125
    """
    units = len(differences)
    if not units:
        return float("nan")
    # Sums of floats in another order differ by rounding.
    reached = differences.sum() - 1e-9 * np.abs(differences).sum()
    if 2**units <= flips:
        numbers = np.arange(2**units)[:, None] >> np.arange(units)
        signs = 1.0 - 2.0 * (numbers & 1)
        return float((signs @ differences >= reached).mean())
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (flips, units))
    return float((1 + (signs @ differences >= reached).sum()) / (flips + 1))
