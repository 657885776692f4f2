"""Which few concepts add up to what a unit does? Sparse linear explanations, by forward selection.

A unit's activations are taken for a sum over concepts, `q ~ sum_m w_m p_m`, all columns centred and of unit
variance over the images that it is fitted on. Concepts join one at a time, each the one that lowers the
squared error most. With the chosen ones swept out of the Gram matrix (its Schur complement),

    G = P'P,   b = P'q;   gain_m = b_m^2 / G_mm
    m joins:  G <- G - G_m G_m' / G_mm,   b <- b - G_m b_m / G_mm

every step is that of refitting all weights for every candidate, without a single fit.

The images are cut in three. On the first part weights are fitted; on the second it is seen how much of the
variance they explain there, and selection ends with the first concept that adds too little; the third, which
has no part in choosing anything, says how well the sum predicts the unit: the correlation `r`.

Source: "Linear Explanations for Individual Neurons" (Oikarinen & Weng, ICML 2024), which fits a candidate's
weights by 100 steps of Adam.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.groups import ImageGroups

#: Most concepts in a sum, and the share of held-out variance that each of them must add (Oikarinen & Weng).
MOST, LEAST_GAIN = 10, 0.02
# What is left of a concept, as a share of its variance, below which those before it make it up.
_NOTHING_LEFT = 1e-8


@dataclass(frozen=True)
class Sums:
    """The sum of every unit.

    Attributes:
        concepts: `(C, k)` int64, in the order in which they joined; -1 after the last.
        weights: `(C, k)` float64, standard deviations of the unit for one of the concept; 0 after the last.
        gains: `(C, k)` float64, the share of held-out variance that each added; NaN after the last.
    """

    concepts: Tensor
    weights: Tensor
    gains: Tensor

    @property
    def lengths(self) -> Tensor:
        """`(C,)` int64, how many concepts each has."""
        return (self.concepts >= 0).sum(1)


def three_parts(groups: ImageGroups, *, seed: int = 0) -> Tensor:
    """Half of the images to fit on, a quarter to stop by and a quarter to judge by; whole groups each.

    Returns:
        `(N,)` int64: 0, 1 or 2.

    Example:
        >>> three_parts(ImageGroups.single(8)).bincount().tolist()
        [4, 2, 2]
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(groups.n_groups)
    filled = np.cumsum(groups.sizes[order])
    part = np.searchsorted([0.5 * filled[-1], 0.75 * filled[-1]], filled - groups.sizes[order], side="right")
    of_group = np.empty(groups.n_groups, dtype=np.int64)
    of_group[order] = part
    return torch.from_numpy(of_group[groups.of])


def standardise(values: Tensor, fitted_on: Tensor) -> Tensor:
    """Columns minus their mean, over their standard deviation, both over some of the images.

    What is not known (NaN) becomes 0, the mean. A column that is the same on all these images becomes 0.

    Args:
        values: `(N, M)`.
        fitted_on: `(N,)` bool.

    Returns:
        `(N, M)` float64.
    """
    numbers = values.double()
    own = numbers[fitted_on]
    mean = own.nanmean(0)
    away = numbers - mean
    spread = (away[fitted_on] ** 2).nanmean(0).sqrt()
    flat = ~(spread > 1e-9 * (own**2).nanmean(0).sqrt())
    return torch.where(flat, 0.0, away / spread.masked_fill(flat, 1.0)).nan_to_num(0.0)


@torch.no_grad()
def forward_selection(P: Tensor, q: Tensor, steps: int) -> tuple[list[int], list[Tensor]]:
    """The concepts that join, and the weights after each step.

    Args:
        P: `(n, M)`, float64.
        q: `(n,)`.
        steps: most.

    Returns:
        concepts, of level ones the first, and for each step the weights of those so far. Fewer than `steps`
        where no concept lowers the error.
    """
    chosen, weights = _select((P.T @ P).cpu(), (P.T @ q).cpu(), steps)
    return chosen, [own.to(P.device) for own in weights]


def _select(gram: Tensor, b: Tensor, steps: int) -> tuple[list[int], list[Tensor]]:
    """`forward_selection` from `P'P` and `P'q`: of the chosen concepts alone the columns are swept.

    On the host: every step waits for the one before it.
    """
    own, left = gram.diagonal().clone(), gram.diagonal().clone()
    rest = b.clone()
    # The swept columns: G_m / sqrt(G_mm) at the time that m joined, so that G is gram minus their products.
    swept = gram.new_empty(steps, len(b))
    chosen: list[int] = []
    weights: list[Tensor] = []
    for step in range(min(steps, len(b))):
        usable = left > _NOTHING_LEFT * own
        usable[chosen] = False
        gain = torch.where(usable, rest**2 / left.masked_fill(~usable, 1.0), 0.0)
        best = int(gain.argmax())
        if not float(gain[best]) > 0:
            break
        column = gram[best] - swept[:step, best] @ swept[:step]
        swept[step] = column / left[best].sqrt()
        rest = rest - swept[step] * (rest[best] / left[best].sqrt())
        left = left - swept[step] ** 2
        chosen.append(best)
        part = gram[chosen][:, chosen]
        weights.append(torch.linalg.solve(part, b[chosen]))
    return chosen, weights


@torch.no_grad()
def sparse_sums(
    P: Tensor, Q: Tensor, parts: Tensor, *, most: int = MOST, least_gain: float = LEAST_GAIN
) -> Sums:
    """The sum of concepts of every unit.

    Args:
        P: `(N, M)`, from `standardise` on part 0.
        Q: `(N, C)`, likewise.
        parts: `(N,)`, of `three_parts`; 0 is fitted on and 1 stops the selection.
        most: concepts in a sum.
        least_gain: of the variance on part 1 that a concept must add to join.

    Raises:
        InputError: no image in one of the two parts, or other shapes.
    """
    if P.ndim != 2 or Q.ndim != 2 or len(P) != len(Q) or len(parts) != len(P):
        raise InputError(f"concepts {tuple(P.shape)}, activations {tuple(Q.shape)}: need (N, M) and (N, C)")
    fit, stop = parts == 0, parts == 1
    if not (bool(fit.any()) and bool(stop.any())):
        raise InputError("there are no images to fit weights on, or none to stop by")
    of_fit = P[fit]
    gram, products = (of_fit.T @ of_fit).cpu(), (of_fit.T @ Q[fit]).cpu()
    held_P, held_Q = P[stop].cpu(), Q[stop].cpu()
    total = ((held_Q - held_Q.mean(0)) ** 2).sum(0)
    units = Q.shape[1]
    concepts = torch.full((units, most), -1, dtype=torch.int64)
    weights = torch.zeros(units, most, dtype=torch.float64)
    gains = torch.full((units, most), torch.nan, dtype=torch.float64)
    for unit in range(units):
        if not float(total[unit]) > 0:
            continue
        chosen, steps = _select(gram, products[:, unit], most)
        before = _error(held_Q[:, unit])
        for step, own in enumerate(steps):
            left = _error(held_Q[:, unit] - held_P[:, chosen[: step + 1]] @ own)
            gain = (before - left) / float(total[unit])
            if not gain >= least_gain:
                break
            before = left
            concepts[unit, step], gains[unit, step] = chosen[step], gain
            weights[unit] = 0
            weights[unit, : step + 1] = own
    return Sums(concepts.to(P.device), weights.to(P.device), gains.to(P.device))


def _error(residual: Tensor) -> float:
    """The squared error around its mean: what a constant makes good does not count."""
    return float(((residual - residual.mean()) ** 2).sum())


@torch.no_grad()
def predicted(sums: Sums, P: Tensor) -> Tensor:
    """What the sums say of images, `(n, C)` float64; 0 for a unit without one.

    Of its row of concepts those before the first -1 count, as `Sums` has them.
    """
    columns = [
        P[:, own[:count]] @ weights[:count]
        for own, weights, count in zip(sums.concepts, sums.weights, sums.lengths.tolist(), strict=True)
    ]
    return torch.stack(columns, 1)


@torch.no_grad()
def correlations(one: Tensor, other: Tensor) -> Tensor:
    """Pearson's of columns, `(C,)` float64; 0 where one of them is the same everywhere."""
    a, b = _varying(one), _varying(other)
    return torch.where(a.isnan().any(0) | b.isnan().any(0), 0.0, (a * b).sum(0))


def _varying(values: Tensor) -> Tensor:
    """Columns of mean 0 and length 1; NaN where one is the same everywhere, but for rounding."""
    values = values.double()
    away = values - values.mean(0)
    norm = away.norm(dim=0)
    same = ~(norm > 1e-9 * len(values) ** 0.5 * values.abs().amax(0))
    unit: Tensor = away / torch.where(same, torch.nan, norm)
    return unit
