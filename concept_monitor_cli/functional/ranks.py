"""Ranks of numbers, with the mean rank for equal ones."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def average_ranks(values: Tensor) -> Tensor:
    """Rank of each number in its column from 1, the mean rank for equal ones.

    Args:
        values: `(n, L)`, finite or NaN. NaN is not ranked: the others' ranks are among themselves, and its
            own means nothing.

    Returns:
        `(n, L)` float64; whole numbers and halves, exactly.

    Example:
        >>> average_ranks(torch.tensor([[3.0], [1.0], [3.0]])).flatten().tolist()
        [2.5, 1.0, 2.5]
    """
    # After all others; the search below needs numbers that can be compared.
    columns = torch.where(values.isnan(), torch.inf, values).T.contiguous()
    ascending = columns.sort(1).values
    below = torch.searchsorted(ascending, columns)
    up_to = torch.searchsorted(ascending, columns, right=True)
    return ((below + up_to + 1).double() / 2).T
