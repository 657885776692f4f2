"""How alike two sets of activations of the same images are, and how many dimensions they fill.

`X` and `Y` are activations of the same `N` images, `(N, p)` and `(N, q)`: of two layers, epochs or networks.

- **CKA** (Kornblith et al. 2019), debiased (Song et al. 2012; Nguyen et al. 2021): 1 for equal spaces up to
  rotation and scale, 0 on average for independent ones whatever `N` and `p` are. The plain estimate is not 0
  there: .95 for 100 images and 2,000 units. It is a ratio of sums over images, so that it can be computed in
  blocks of images and added up (`CenteredGrams`).
- **SVCCA** (Raghu et al. 2017) and **PWCCA** (Morcos et al. 2018): mean canonical correlations. Independent
  data of many units and few images score high: compare with what permuted images give.
- **Procrustes** (Ding et al. 2021): 1 minus half the least squared distance over rotations.
- **Dimension**: `effective_rank`, `participation_ratio`, `two_nearest_neighbours` (Facco et al. 2017).

None of them sees a rotation of the units, so activations of more units than images may be turned into as many
columns as there are images first (`turned`): what decomposes them takes a fraction of the time. What is
compared with several others is centred and decomposed once (`Centred`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional._blocks import on_cpu, one_blas_thread, run_blocks, spans

#: Images in a block of Gram matrices.
BLOCK = 64
#: A block needs this many images for its HSIC to exist.
LEAST_BLOCK = 4
#: Share of the variance that SVCCA keeps.
SVCCA_VARIANCE = 0.99
#: Canonical correlations of fewer images for each unit than this say more of chance than of the data.
IMAGES_PER_UNIT = 10
# From this many rows and columns on, eigenvalues of the Gram matrix cost a third of singular values.
_LARGE = 256
# Eigenvalues below this share of the largest are within the rounding of a Gram matrix.
_ROUNDING = 1e-12
# Images whose distances to all others are taken at a time.
_ROWS = 512
# The inner products of all pairs of so many images are kept: 32 MB.
_KEPT = 2048
# Images whose distance is taken again without the rounding of inner products, to find the two nearest.
_NEAR = 8


def _check(*activations: Tensor, least: int = LEAST_BLOCK) -> None:
    for values in activations:
        if values.ndim != 2 or values.shape[1] == 0 or len(values) < least:
            raise InputError(
                f"activations of shape {tuple(values.shape)}: need (N, units) with N at least {least}"
            )
        if not finite(values):
            raise InputError("activations that are infinite or not a number have no similarity")
    if len({len(values) for values in activations}) > 1:
        raise InputError(
            f"activations of {', '.join(str(len(v)) for v in activations)} images: need the same"
        )


def finite(values: Tensor) -> bool:
    """Whether no value is infinite or not a number; the extremes show it in a tenth of the time.

    Example:
        >>> finite(torch.tensor([1.0, -2.0])), finite(torch.tensor([1.0, torch.nan, torch.inf]))
        (True, False)
    """
    return not values.numel() or bool(torch.stack(torch.aminmax(values)).isfinite().all())


@torch.no_grad()
def turned(X: Tensor) -> Tensor:
    """Activations of more units than images in no more columns than images, `(N, min(N, p))`.

    With `X` centred and `X' = Q R`, `Q` of orthonormal columns, `X = R' Q'`: `R'` has the products of pairs
    of images that centred `X` has, and so every measure here of `X` alone, of `X` and another set, and of
    either with its images permuted.

    Args:
        X: `(N, p)`, finite.

    Returns:
        float64 where `p > N`, else `X` itself.

    Example:
        >>> X = torch.randn(4, 9, generator=torch.Generator().manual_seed(0)).double()
        >>> L, X = turned(X), X - X.mean(0)
        >>> L.shape, bool(torch.allclose(L @ L.T, X @ X.T))
        (torch.Size([4, 4]), True)
    """
    if X.shape[1] <= X.shape[0]:
        return X
    values = X.double()
    # Before: of units that are the same on all images nothing may be left but exact zeros.
    triangle: Tensor = torch.linalg.qr((values - values.mean(0)).T, mode="r").R
    return triangle.T.contiguous()


# -- CKA -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CenteredGrams:
    """What debiased CKA needs of some activations: a centred Gram matrix for each block of images.

    Of two parts of the images, of two shards say, the blocks stand one after the other (`joined`), and
    similarities are the same as of all images at once, in the same order.

    Attributes:
        grams: for each block of `n` images `(n * n,)` float32, divided by `sqrt(n (n - 3))`.
        dropped: images at the end that did not make a block.
    """

    grams: tuple[Tensor, ...]
    dropped: int = 0

    @classmethod
    @torch.no_grad()
    def of(cls, X: Tensor, block: int = BLOCK) -> CenteredGrams:
        """Of activations `(N, p)`, in blocks of `block` images; a last block of fewer than 4 is dropped.

        Raises:
            InputError: fewer than 4 images, a block of fewer than 4, or values that are not finite.
        """
        return cls.in_orders(X, (None,), block)[0]

    @classmethod
    @torch.no_grad()
    def in_orders(cls, X: Tensor, orders: Sequence[Tensor | None], block: int = BLOCK) -> list[CenteredGrams]:
        """`of(X[order])` for several orders of the images; `None` stands for that of `X`.

        Raises:
            InputError: as `of`.
        """
        _check(X)
        if block < LEAST_BLOCK:
            raise InputError(f"blocks of {block} images: need {LEAST_BLOCK} or more")
        starts = [start for start in range(0, len(X), block) if len(X) - start >= LEAST_BLOCK]
        sizes = [min(block, len(X) - start) for start in starts]
        squares = [n * n for n in sizes]
        found = []
        with one_blas_thread():
            for order in orders:
                # What stays is allocated first and in one piece: between what is freed it would leave holes.
                grams = torch.split(torch.empty(sum(squares), device=X.device), squares)
                run_blocks(partial(_fill, grams, X, order, starts, block), spans(len(starts), 1), X.device)
                found.append(cls(tuple(grams), len(X) - sum(sizes)))
        return found

    @staticmethod
    def joined(parts: Sequence[CenteredGrams]) -> CenteredGrams:
        """Of all images of some parts."""
        grams = tuple(gram for part in parts for gram in part.grams)
        return CenteredGrams(grams, sum(part.dropped for part in parts))

    @property
    def images(self) -> int:
        """How many count."""
        return sum(round(len(gram) ** 0.5) for gram in self.grams)


def _fill(
    grams: Sequence[Tensor], X: Tensor, order: Tensor | None, starts: Sequence[int], block: int, which: slice
) -> None:
    """Fill some of the Gram matrices of blocks of `X[order]`."""
    for gram, start in zip(grams[which], starts[which], strict=True):
        rows = slice(start, start + block)
        part = X[rows] if order is None else X.index_select(0, order[rows])
        gram.copy_(_centred_gram(part.to(torch.float64, copy=True)).flatten())


def _centred_gram(X: Tensor) -> Tensor:
    """The U-centred Gram matrix, of unbiased inner products: `(n, n)` float64. Centres `X` in place."""
    n = len(X)
    X -= X.mean(0)  # the result does not depend on it; the rounding errors do
    K = _product(X, X.T)
    K.fill_diagonal_(0)
    rows = K.sum(1)
    K = K - (rows[:, None] + rows[None, :]) / (n - 2) + K.sum() / ((n - 1) * (n - 2))
    K.fill_diagonal_(0)
    scaled: Tensor = K / (n * (n - 3)) ** 0.5
    return scaled


@torch.no_grad()
def cka_matrix(first: Sequence[CenteredGrams], second: Sequence[CenteredGrams] | None = None) -> Tensor:
    """Debiased CKA of all pairs.

    Args:
        first: `A` sets of activations of the same images.
        second: `B` sets; `None`: the same.

    Returns:
        `(A, B)` float64, on the host. Not clipped: independent data give values below 0 as often as above.
        NaN where a set does not vary.
    """
    other = first if second is None else second
    cross = _hsic(first, other)
    own_first = _own_hsic(first)
    own_second = own_first if second is None else _own_hsic(other)
    scale = own_first[:, None] * own_second[None, :]
    return torch.where(scale > 0, cross / scale.clamp_min(1e-300).sqrt(), torch.nan)


def _hsic(first: Sequence[CenteredGrams], second: Sequence[CenteredGrams]) -> Tensor:
    blocks = {tuple(len(gram) for gram in each.grams) for each in (*first, *second)}
    if len(blocks) > 1:
        raise InputError("activations of other images, or in other blocks, have no similarity")
    total = torch.zeros(len(first), len(second), dtype=torch.float64)
    for number in range(len(next(iter(blocks), ()))):
        A = torch.stack([each.grams[number] for each in first]).double()
        B = torch.stack([each.grams[number] for each in second]).double()
        total = total.to(A.device) + A @ B.T
    return total.cpu()


def _own_hsic(sets: Sequence[CenteredGrams]) -> Tensor:
    nothing = torch.zeros((), dtype=torch.float64)
    values = [sum((gram.double().square().sum() for gram in each.grams), nothing) for each in sets]
    return torch.stack(values).cpu() if values else nothing.new_zeros(0)


def cka(X: Tensor, Y: Tensor, *, block: int | None = None) -> float:
    """Debiased CKA of two sets of activations.

    Args:
        X: `(N, p)`.
        Y: `(N, q)`.
        block: images in a block; `None` for all in one.

    Example:
        >>> X = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
        >>> round(cka(X, 3 * X), 6)
        1.0
    """
    _check(X, Y)
    size = len(X) if block is None else block
    return float(cka_matrix([CenteredGrams.of(X, size)], [CenteredGrams.of(Y, size)])[0, 0])


# -- canonical correlations, rotations -----------------------------------------------------------------------


class Centred:
    """Centred activations, and what decomposes them: computed once, whatever they are compared with.

    Every measure below takes them in place of activations.

    Args:
        X: activations `(N, p)`.
        computed_in: their type, where `X` was made from them in another one (`turned`).

    Attributes:
        values: `(N, p)` float64, of mean 0.
        rounding: distances below this share of the root mean square are rounding errors.

    Raises:
        InputError: fewer than two images, no unit, or values that are not finite.

    Example:
        >>> X, Y = (torch.randn(50, 8, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
        >>> procrustes(Centred(X), Centred(Y)) == procrustes(X, Y)
        True
    """

    def __init__(self, X: Tensor, computed_in: torch.dtype | None = None) -> None:
        _check(X, least=2)
        kind = computed_in or X.dtype
        self.rounding = 8 * torch.finfo(kind if kind.is_floating_point else torch.float64).eps
        values = X.double()
        self.values = values - values.mean(0)
        self._source: tuple[Centred, Tensor] | None = None

    def permuted(self, order: Tensor) -> Centred:
        """The same images in another order, `(N,)`; what decomposes them is that of these, in that order."""
        other = object.__new__(Centred)
        other.values = self.values[order]
        other._source, other.rounding = (self, order), self.rounding
        return other

    @cached_property
    def norm(self) -> float:
        """Frobenius norm."""
        return float(self.values.norm())

    def products(self, rows: slice) -> Tensor:
        """Inner products of some images with all of them, `(n, N)`; of few images those of all are kept."""
        if len(self.values) > _KEPT:
            return _product(self.values[rows], self.values.T)
        return self._gram[rows]

    @cached_property
    def _gram(self) -> Tensor:
        return _product(self.values, self.values.T)

    def powers(self) -> Tensor:
        """Eigenvalues of the smaller Gram matrix: squared singular values, ascending."""
        n, p = self.values.shape
        return _eigenvalues(self._gram if n <= min(p, _KEPT) else _small_gram(self.values))

    @cached_property
    def _scores(self) -> tuple[Tensor, Tensor]:
        """Orthonormal scores of all directions `(N, min(N, p))`, and the singular values."""
        if self._source is not None:
            source, order = self._source
            U, S = source._scores
            return U[order], S
        U, S, _ = torch.linalg.svd(self.values, full_matrices=False)
        return U, S

    def principal(self, variance: float) -> Tensor:
        """Orthonormal scores `(N, d)` of the directions that hold a share of the variance."""
        U, S = self._scores
        power = S.square()
        held = power.cumsum(0) / power.sum()
        # Directions within rounding of nothing are none, whatever share is asked for.
        count = min(int((held < variance).sum()) + 1, int((S[0] * 1e-10 * max(self.values.shape) < S).sum()))
        kept: Tensor = U[:, : count if float(power.sum()) > 0 else 0]
        return kept


def _two(X: Tensor | Centred, Y: Tensor | Centred) -> tuple[Centred, Centred]:
    """Both centred, where that is not done already."""
    given = [each.values if isinstance(each, Centred) else each for each in (X, Y)]
    if len(given[0]) != len(given[1]) or len(given[0]) < LEAST_BLOCK:
        _check(*given)
    return _one(X), _one(Y)


@torch.no_grad()
def svcca(X: Tensor | Centred, Y: Tensor | Centred, *, variance: float = SVCCA_VARIANCE) -> float:
    """Mean canonical correlation of the directions that hold 99 % of the variance; NaN without variance.

    Args:
        X: `(N, p)`.
        Y: `(N, q)`.
        variance: the share that is kept of each.
    """
    A, B = (each.principal(variance) for each in _two(X, Y))
    if 0 in (A.shape[1], B.shape[1]):
        return float("nan")
    return float(torch.linalg.svdvals(A.T @ B).clamp_max(1).mean())


@torch.no_grad()
def pwcca(X: Tensor | Centred, Y: Tensor | Centred) -> float:
    """Canonical correlations weighted by how much of `X` each direction accounts for; NaN without variance.

    With `h_i` the canonical directions of `X` over the images and `x_j` its centred units, the weights are
    `sum_j |<h_i, x_j>|`. It is not symmetric.

    Args:
        X: `(N, p)`.
        Y: `(N, q)`.
    """
    first, second = _two(X, Y)
    A, B = first.principal(1.0), second.principal(1.0)
    if 0 in (A.shape[1], B.shape[1]):
        return float("nan")
    U, S, _ = torch.linalg.svd(A.T @ B, full_matrices=False)
    weights = ((A @ U).T @ first.values).abs().sum(1)
    return float((weights * S.clamp_max(1)).sum() / weights.sum())


@torch.no_grad()
def procrustes(X: Tensor | Centred, Y: Tensor | Centred) -> float:
    """`|X'Y|_*` of centred activations of unit norm: 1 for a rotation and a scale; NaN without variance.

    Args:
        X: `(N, p)`.
        Y: `(N, q)`.
    """
    A, B = _two(X, Y)
    norms = A.norm * B.norm
    return float("nan") if norms == 0 else _nuclear_norm(_product(A.values.T, B.values)) / norms


def _nuclear_norm(M: Tensor) -> float:
    """Sum of the singular values of a matrix, float64.

    Of a large one the roots of the eigenvalues of its Gram matrix: each is right to 1e-8 of the largest.
    """
    if min(M.shape) < _LARGE:
        return float(torch.linalg.svdvals(M).sum())
    return float(_eigenvalues(_small_gram(M)).clamp_min(0).sqrt().sum())


def _small_gram(M: Tensor) -> Tensor:
    """`M M'` or `M' M`, whichever is smaller."""
    return _product(M, M.T) if M.shape[0] <= M.shape[1] else _product(M.T, M)


def _product(A: Tensor, B: Tensor) -> Tensor:
    """`A B`. On the host by NumPy, which sees where `B` is `A'` and computes half of it."""
    if not on_cpu(A.device):
        return A @ B
    return torch.from_numpy(A.detach().numpy() @ B.detach().numpy())


def _eigenvalues(M: Tensor) -> Tensor:
    """Of a symmetric matrix, ascending. On the host by NumPy, which takes half as long as torch."""
    if not on_cpu(M.device):
        found: Tensor = torch.linalg.eigvalsh(M)
        return found
    return torch.from_numpy(np.linalg.eigvalsh(M.detach().numpy()))


# -- dimension -----------------------------------------------------------------------------------------------


def _one(X: Tensor | Centred) -> Centred:
    return X if isinstance(X, Centred) else Centred(X)


@torch.no_grad()
def singular_values(X: Tensor | Centred) -> Tensor:
    """Of the centred activations `(N, p)`, `(min(N, p),)` float64, for the two measures below."""
    centred = _one(X)
    if min(centred.values.shape) >= _LARGE:
        powers = centred.powers().flip(0)
        # Centring leaves one that is 0. Of more than one the entropy would count the rounding errors.
        if int((powers < powers[0] * _ROUNDING).sum()) <= 1:
            roots: Tensor = powers.clamp_min(0).sqrt()
            return roots
    found: Tensor = torch.linalg.svdvals(centred.values)
    return found


@torch.no_grad()
def effective_rank(X: Tensor | Centred, values: Tensor | None = None) -> float:
    """`exp(H(s))` of the singular values' shares `s` (Roy & Vetterli 2007); NaN without variance.

    Args:
        X: `(N, p)`.
        values: its `singular_values`, where they are known.
    """
    S = singular_values(X) if values is None else values
    if float(S.sum()) == 0:
        return float("nan")
    return float(torch.special.entr(S / S.sum()).sum().exp())


@torch.no_grad()
def participation_ratio(X: Tensor | Centred, values: Tensor | None = None) -> float:
    """`(sum l)^2 / sum l^2` of the covariance's eigenvalues; NaN without variance.

    Args:
        X: `(N, p)`.
        values: its `singular_values`, where they are known.
    """
    powers = (singular_values(X) if values is None else values).square()
    total = powers.sum()
    return float(1 / (powers / total).square().sum()) if float(total) > 0 else float("nan")


@torch.no_grad()
def two_nearest_neighbours(X: Tensor | Centred) -> float:
    """Intrinsic dimension from the distances to the two nearest neighbours: `n / sum log(r2 / r1)`.

    Images whose nearest neighbour is at distance 0, but for rounding (copies), are left out.

    Args:
        X: `(N, p)`.

    Returns:
        The maximum-likelihood estimate; NaN where fewer than 3 images are left, or all distances are equal.
    """
    centred = _one(X)
    values = centred.values
    if len(values) < 3:
        return float("nan")
    squares = values.square().sum(1)
    nearest = []
    for first_row in range(0, len(values), _ROWS):
        rows = torch.arange(first_row, min(len(values), first_row + _ROWS), device=values.device)
        # By inner products, which round; then the distances of the few that may be nearest without them.
        distance = squares - 2 * centred.products(slice(first_row, first_row + _ROWS))
        distance[rows - first_row, rows] = torch.inf
        near = distance.topk(min(_NEAR, len(values) - 1), largest=False).indices
        exact = torch.stack(
            [torch.linalg.vector_norm(values[rows] - values[each], dim=1) for each in near.T], 1
        )
        nearest.append(exact.topk(2, largest=False).values)
    first, second = torch.cat(nearest).T
    usable = first > centred.rounding * squares.mean().sqrt()
    logs = (second[usable] / first[usable]).log()
    if int(usable.sum()) < 3 or float(logs.sum()) == 0:
        return float("nan")
    return float(len(logs) / logs.sum())
