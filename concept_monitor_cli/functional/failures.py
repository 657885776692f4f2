"""Which units tell cases that failed from cases that did not, among cases of one class.

A unit that detects a difficult class is active wherever the network fails, and says nothing of why. So failed
cases are compared with succeeded ones of the same class only.

`X` is `N x C`: a number of each unit on each image, its pooled activation or what it adds to a score.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.calibration import FDR
from concept_monitor_cli.functional.groups import ImageGroups, permuted_images
from concept_monitor_cli.functional.ranks import average_ranks

#: Permutations that every unit gets, and from which its band is read.
DRAWS = 1000
#: The band holds this share of what permutations give.
BAND = 0.95
# A unit that as many of the first permutations reach has a p-value above .05, and gets no more of them.
_REACHED = 50
# Labels to hold at a time.
_CHUNK = 4_000_000
# AUCs of equal counts differ by less in float64.
_EQUAL = 1e-12


@dataclass(frozen=True)
class Separation:
    """How well each unit tells failed from succeeded cases, and what permutations give.

    Attributes:
        auc: `(C,)` float64; NaN for units that are not finite.
        low, high: `(C,)`, between which 95 % of the AUCs lie when failures are permuted within their class.
        p: `(C,)`, two-sided and add-one.
        failed, succeeded: how many cases were compared: those of classes that have both.
    """

    auc: Tensor
    low: Tensor
    high: Tensor
    p: Tensor
    failed: int
    succeeded: int


@dataclass(frozen=True)
class _Class:
    """The cases of one class: ranks `(n, C)` of the units, who failed `(n,)`, and which belong together."""

    ranks: Tensor
    failed: Tensor
    groups: ImageGroups


def compared(failed: Tensor, classes: Tensor) -> Tensor:
    """Which cases can be compared: those of a class with both failed and succeeded ones.

    Args:
        failed: `(N,)` bool.
        classes: `(N,)` int64; negative where a case is not to count.

    Returns:
        `(N,)` bool.
    """
    names, place = torch.unique(classes, return_inverse=True)
    count, bad = torch.zeros(2, len(names), dtype=torch.int64, device=classes.device)
    count.index_add_(0, place, torch.ones_like(place))
    bad.index_add_(0, place, failed.long())
    both = (names >= 0) & (bad > 0) & (bad < count)
    kept: Tensor = both[place]
    return kept


@torch.no_grad()
def separation(
    X: Tensor, failed: Tensor, classes: Tensor, groups: ImageGroups | None = None, *, seed: int = 0
) -> Separation:
    """The AUC of each unit within class, averaged by pairs over the classes.

        auc_k = P(x_k of a failed case > x_k of a succeeded one of the same class), ties counting half
              = sum_c U_ck / sum_c m_c (n_c - m_c)
        U_ck  = sum of the ranks of the m_c failed of the n_c cases - m_c (m_c + 1) / 2

    1/2 is chance, 1 a unit that is higher on every failed case, 0 one that is lower. Its p-value is how often
    failures that are permuted within their class are as far from 1/2, add-one. Groups of images (copies of a
    photo) are permuted as a whole. There are 1,000 permutations; units that fewer than 50 of them reach get
    more, until those that none reached can pass Benjamini-Hochberg at 5 %. Others have a p-value above that.

    Args:
        X: `(N, C)`.
        failed: `(N,)` bool.
        classes: `(N,)` int64; negative where a case is not to count.
        groups: of the images; every image for itself by default.
        seed: of the permutations.

    Returns:
        of all units.

    Raises:
        InputError: shapes that do not belong together, or no class with failed and succeeded cases.

    Example:
        >>> X = torch.tensor([[1.0, 0.0], [2.0, 0.0], [7.0, 9.0], [8.0, 9.0]])
        >>> found = separation(X, torch.tensor([False, True] * 2), torch.tensor([0, 0, 1, 1]))
        >>> found.auc.tolist()
        [1.0, 0.5]
    """
    if X.ndim != 2 or failed.shape != X.shape[:1] or classes.shape != X.shape[:1]:
        raise InputError(f"{tuple(X.shape)} activations, {tuple(failed.shape)} cases, {tuple(classes.shape)}")
    kept = compared(failed, classes)
    if not bool(kept.any()):
        raise InputError("no class has both failed and succeeded cases")
    finite = X.isfinite().all(0)
    of = np.arange(len(X)) if groups is None else groups.of
    # The cases of one class one after the other, in their order.
    named = np.where(kept.cpu().numpy(), classes.cpu().numpy(), -1)
    order = np.argsort(named, kind="stable")[np.count_nonzero(named < 0) :]
    sizes = np.unique(named[order], return_counts=True)[1].tolist()
    rows = torch.from_numpy(order).to(X.device)
    parts = [
        _Class(average_ranks(values.double()), own.double(), ImageGroups.read(of[cases]))
        for values, own, cases in zip(
            torch.split(X[rows][:, finite], sizes),
            torch.split(failed[rows], sizes),
            np.split(order, np.cumsum(sizes)[:-1]),
            strict=True,
        )
    ]
    auc = _auc(parts, [part.failed[None] for part in parts])[0]
    first, reached = _permuted(parts, auc, DRAWS, seed)
    edge = (1 - BAND) / 2
    band = torch.quantile(first, torch.tensor([edge, 1 - edge], dtype=torch.float64, device=X.device), dim=0)
    p = (1 + reached) / (DRAWS + 1)
    few = reached < _REACHED
    more = math.ceil(X.shape[1] / FDR / max(1, int((reached == 0).sum()))) - DRAWS
    if more > 0 and bool(few.any()):
        rest = [_Class(part.ranks[:, few], part.failed, part.groups) for part in parts]
        _, again = _permuted(rest, auc[few], more, seed + 1, keep=False)
        p[few] = (1 + reached[few] + again) / (DRAWS + more + 1)
    whole = torch.full((4, X.shape[1]), torch.nan, dtype=torch.float64, device=X.device)
    whole[:, finite] = torch.stack([auc, band[0], band[1], p])
    n_failed = int(failed[kept].sum())
    return Separation(whole[0], whole[1], whole[2], whole[3], n_failed, int(kept.sum()) - n_failed)


def _auc(parts: list[_Class], failed: list[Tensor]) -> Tensor:
    """`(B, C)` for `B` sets of failures, `(B, n)` of each class."""
    above = pairs = torch.zeros(1, 1, dtype=torch.float64, device=failed[0].device)
    for part, own in zip(parts, failed, strict=True):
        count = own.sum(1, keepdim=True)
        above = above + own @ part.ranks - count * (count + 1) / 2
        pairs = pairs + count * (own.shape[1] - count)
    # Groups of unequal sizes that change places may leave no failure, or nothing else.
    return torch.where(pairs > 0, above / pairs, 0.5)


def _permuted(
    parts: list[_Class], auc: Tensor, draws: int, seed: int, keep: bool = True
) -> tuple[Tensor, Tensor]:
    """`(draws, C)` AUCs of permuted failures, and `(C,)` how many are as far from 1/2; none kept: no AUCs."""
    distance = (auc - 0.5).abs() - _EQUAL
    found, reached = [], torch.zeros_like(auc)
    for failed in _failures(parts, draws, seed):
        values = _auc(parts, failed)
        reached += ((values - 0.5).abs() >= distance).sum(0)
        if keep:
            found.append(values)
    return torch.cat(found) if found else auc.new_zeros(0, len(auc)), reached


def _failures(parts: list[_Class], draws: int, seed: int) -> Iterator[list[Tensor]]:
    """Failures permuted within each class, whole groups at a time: some draws, `(B, n)` of each class."""
    generator = np.random.default_rng(seed)
    step = max(1, _CHUNK // sum(len(part.failed) for part in parts))
    for start in range(0, draws, step):
        count = min(step, draws - start)
        failed = []
        for part in parts:
            places = np.tile(np.arange(part.groups.n_groups), (count, 1))
            order = generator.permuted(places, axis=1)
            images = torch.from_numpy(permuted_images(part.groups, order)).to(part.failed.device)
            failed.append(part.failed[images])
        yield failed
