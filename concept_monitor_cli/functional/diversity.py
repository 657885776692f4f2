"""Do runs that generalise better have more interpretable units? A point for each run.

With few runs everything correlates with everything: the p-value counts orders of the runs, and of three runs
there are six.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.ranks import average_ranks

#: With fewer runs nothing is tested: of five runs in order chance gives one in 60.
LEAST_RUNS = 6
# Up to so many runs all their orders are tried, 40,320 at most; of more runs so many random ones.
_EXACT = 8
_DRAWS = 10_000


@dataclass(frozen=True)
class RankTest:
    """A rank correlation over runs.

    Attributes:
        correlation: Spearman's; NaN where one of both is the same for all runs.
        p: two-sided, of permuted runs: exact up to eight runs. NaN for fewer than six.
        partial: the correlation with what a third number explains taken out of both; NaN where that explains
            one of them wholly.
    """

    correlation: float
    p: float
    partial: float


@torch.no_grad()
def rank_test(first: Tensor, second: Tensor, third: Tensor | None = None, *, seed: int = 0) -> RankTest:
    """Spearman's correlation of two numbers over runs, beside permuted runs, and with a third held fixed.

        p = share of the orders of the runs in which |correlation| is at least as large
        partial = (r_12 - r_13 r_23) / sqrt((1 - r_13^2)(1 - r_23^2))

    Args:
        first, second: `(n,)`, a number for each run.
        third: `(n,)`.
        seed: of the random orders.

    Raises:
        InputError: other lengths, or fewer than two runs.

    Example:
        >>> a = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        >>> round(rank_test(a, a).p * 720)  # all in order, or all in reverse
        2
    """
    n = len(first)
    if n < 2 or any(each is not None and len(each) != n for each in (second, third)):
        raise InputError("a rank correlation needs the same two runs or more on both sides")
    a, b = _standard(first), _standard(second)
    if a is None or b is None:
        return RankTest(math.nan, math.nan, math.nan)
    correlation = float(a @ b)
    p = math.nan
    if n >= LEAST_RUNS:
        bar = abs(correlation) - 1e-9
        if n <= _EXACT:
            orders = torch.tensor(list(permutations(range(n))))
            p = float(((a[orders] @ b).abs() >= bar).double().mean())
        else:
            generator = torch.Generator().manual_seed(seed)
            drawn = torch.rand(_DRAWS, n, generator=generator).argsort(1)
            p = (1.0 + float(((a[drawn] @ b).abs() >= bar).sum())) / (1.0 + _DRAWS)
    c = None if third is None else _standard(third)
    if c is None:
        return RankTest(correlation, p, math.nan)
    one, two = float(a @ c), float(b @ c)
    rest = (1 - one**2) * (1 - two**2)
    return RankTest(correlation, p, (correlation - one * two) / math.sqrt(rest) if rest > 1e-9 else math.nan)


def _standard(values: Tensor) -> Tensor | None:
    """Ranks of mean 0 and length 1; None where all are the same."""
    ranks = average_ranks(values.double()[:, None])[:, 0]
    ranks = ranks - ranks.mean()
    norm = float(ranks.norm())
    return ranks / norm if norm > 0 else None
