"""Do units that are joined by a high weight stand for like concepts? (CLIP-Dissect, section 5)"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional._blocks import spans

# Draws as near to `r` as this are level with it: two orders of the same numbers differ by rounding.
_LEVEL = 1e-12
#: Draws of `permuted_correlations`: with the add-one rule no p-value is below `1 / (PERMUTATIONS + 1)`.
PERMUTATIONS = 1000


def correlation(x: Tensor, y: Tensor) -> tuple[float, float]:
    """Pearson's correlation of two sets of numbers, and its p-value.

        r = sum (x - mean x) (y - mean y) / sqrt(sum (x - mean x)^2 sum (y - mean y)^2)

    Args:
        x: numbers of any shape.
        y: as many, in the same order.

    Returns:
        `r`, and how likely a correlation at least as far from 0 is for independent normal numbers (two-sided,
        as SciPy's `pearsonr`; 0 where it is below the smallest double). Both are NaN for fewer than 3 numbers
        or where one side is constant.

    Raises:
        InputError: the two differ in shape.

    Example:
        >>> r, p = correlation(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1.0, 3.0, 2.0, 4.0]))
        >>> round(r, 6), round(p, 6)
        (0.8, 0.2)
    """
    from scipy.special import betainc

    if x.shape != y.shape:
        raise InputError(f"a correlation of {tuple(x.shape)} with {tuple(y.shape)} numbers")
    n = x.numel()
    a, b = (side.detach().flatten().double() for side in (x, y))
    if n < 3 or a.amin() == a.amax() or b.amin() == b.amax():
        return float("nan"), float("nan")
    a, b = a - a.mean(), b - b.mean()
    r = float(((a / a.norm()) @ (b / b.norm())).clamp(-1.0, 1.0))
    # t = r sqrt((n - 2) / (1 - r^2)) has Student's distribution: its two tails as an incomplete beta.
    return r, float(betainc(n / 2 - 1, 0.5, (1 - r) * (1 + r)))


def highest_weights(W: Tensor) -> Tensor:
    """All pairs of units by the weight that joins them, highest first; of level ones the first in `W`.

    Args:
        W: `(K, C)`.

    Returns:
        `(K * C,)` int64, positions in `W.flatten()`.
    """
    return torch.sort(W.detach().flatten(), descending=True, stable=True).indices


def cosine_of_highest(W: Tensor, S: Tensor, ks: Sequence[int]) -> Tensor:
    """Mean cosine of the concepts of units that are joined by the `k` highest weights.

    Args:
        W: `(K, C)`, the weights.
        S: `(K, C)`, the cosine of the concepts of both ends of each weight.
        ks: from 1 to `K * C`.

    Returns:
        `(len(ks),)` float64. At `K * C` it is the mean over all pairs, which a weight that knows nothing
        gives at every `k` on average.

    Raises:
        InputError: shapes that differ, or a `k` outside.

    Source: CLIP-Dissect, figure 5b.

    Example:
        >>> W = torch.tensor([[0.9, 0.1], [0.5, -1.0]])
        >>> S = torch.tensor([[1.0, 0.0], [0.5, 0.25]])
        >>> cosine_of_highest(W, S, [1, 2, 4]).tolist()
        [1.0, 0.75, 0.4375]
    """
    if W.shape != S.shape:
        raise InputError(f"weights of shape {tuple(W.shape)} and cosines of shape {tuple(S.shape)}")
    if any(not 1 <= k <= W.numel() for k in ks):
        raise InputError(f"the highest {list(ks)} of {W.numel()} weights")
    total = torch.cumsum(S.flatten().double()[highest_weights(W)], 0)
    chosen = torch.tensor(list(ks), dtype=torch.int64, device=total.device)
    return total[chosen - 1] / chosen


def permuted_correlations(W: Tensor, S: Tensor, *, permutations: int = PERMUTATIONS, seed: int = 0) -> Tensor:
    """The correlation of weights and cosines where each unit has the label of another one.

    The pairs are not independent: a unit's label stands in `K` of them, so the p-value of `correlation` is
    far too sure. Here the labels go round among the units as a whole, which keeps that dependence.

    Args:
        W: `(K, C)`, the weights.
        S: `(K, C)`, the cosines; column `j` belongs to the label of unit `j`.
        permutations: how many draws.
        seed: of the draws.

    Returns:
        `(permutations,)` float64, on the host; NaN where one side is constant.
    """
    w, s = W.detach().double().cpu(), S.detach().double().cpu()
    same = bool(w.amin() == w.amax()) or bool(s.amin() == s.amax())
    w, s = w - w.mean(), s - s.mean()
    norm = math.nan if same else w.norm() * s.norm()
    generator = np.random.default_rng(seed)
    units = w.shape[1]
    # <W, S[:, perm]> = sum_j G[j, perm_j]: the sums over classes are made once.
    products = w.T @ s
    place = torch.arange(units)
    result = torch.empty(permutations, dtype=torch.float64)
    for part in spans(permutations, 64):
        orders = np.tile(np.arange(units), (part.stop - part.start, 1))
        drawn = torch.from_numpy(generator.permuted(orders, axis=1))
        result[part] = products[place, drawn].sum(1)
    null: Tensor = result / norm
    return null


def permutation_p_value(r: float, null: Tensor) -> float:
    """How often the null is at least as high as `r`, with the add-one rule; NaN where `r` is.

    Draws that differ from `r` by rounding alone count as level: 1 where all units have the same label, as
    every permutation is then what was found.

    Args:
        r: the correlation found.
        null: `(R,)`, of `permuted_correlations`.
    """
    if np.isnan(r):
        return float("nan")
    return (1 + int((null >= r - _LEVEL).sum())) / (1 + null.numel())
