"""Which factor of one fit is which of another, and how alike the factors of several fits are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

_NOTHING = 1e-300


def cosines(F: Tensor, G: Tensor) -> Tensor:
    """Cosines of all pairs of columns, `(d, e)` float64; 0 for a column of zeros."""
    first, second = (values.double() / values.double().norm(dim=0).clamp_min(_NOTHING) for values in (F, G))
    table: Tensor = first.T @ second
    return table


def matched(F: Tensor, G: Tensor) -> tuple[Tensor, Tensor]:
    """Pair the factors of two fits of the same images so that the sum of cosines is largest (Hungarian).

    Args:
        F: `(N, d)`.
        G: `(N, d)`.

    Returns:
        for each column of `F` the column of `G` that it belongs to, `(d,)` int64, and their cosines, `(d,)`.
    """
    table = cosines(F, G)
    _, columns = linear_sum_assignment(table.cpu().numpy(), maximize=True)
    partner = torch.from_numpy(columns).to(table.device)
    return partner, table.gather(1, partner[:, None])[:, 0]


def factor_stability(F: Tensor, others: Iterable[Tensor]) -> Tensor:
    """For each factor, the mean cosine to its partner in other fits, that began elsewhere.

    Args:
        F: `(N, d)`, the fit.
        others: `(N, d)` each.

    Returns:
        `(d,)` float64; NaN with no other fit.
    """
    found = [matched(F, other)[1] for other in others]
    return torch.stack(found).mean(0) if found else torch.full((F.shape[1],), torch.nan, dtype=torch.float64)


def rank_agreement(fits: Sequence[Tensor]) -> float:
    """How alike the factors of several fits are: the mean matched cosine over all pairs of fits.

    Args:
        fits: `(N, d)` each, two or more, that began elsewhere.
    """
    pairs = [(i, j) for i in range(len(fits)) for j in range(i)]
    return sum(float(matched(fits[i], fits[j])[1].mean()) for i, j in pairs) / len(pairs)
