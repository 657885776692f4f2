"""Coupled non-negative factorisation: pixels and layers explained by the same factors of the images.

Blocks `X_b`, `(N, p_b)`, hold `N` images: a channel of their pixels, or a layer's activations. With one `F`
for all of them, `X_b ~ F W_b'`, it is plain non-negative factorisation of the blocks side by side (Saini &
Papalexakis 2021, eq. 3.1, with images as rows instead of columns). Three ways to solve it:

- `coupled_factors`: hierarchical alternating least squares (HALS; Cichocki & Phan 2009). Each column is set
  to its best value with the others held, so the objective never rises.
- `published_factors`: the paper's own iteration, for comparison. It multiplies, so a zero of its start stays
  one, and it scales every block's columns to unit length, so a factor cannot be strong in one block and weak
  in another: it ends far from the least residual.
- `group_sparse_factors`: groups of images (classes, say) that a factor has no part in get exact zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.factors import SWEEPS, TOLERANCE

#: Updates of a side's columns for each time that its products with the data are computed.
INNER = 2
#: Iterations and the number that keeps denominators from being 0, of the published code.
PUBLISHED_ITERATIONS = 50
PUBLISHED_EPSILON = 1e-9
#: Weight of the group penalty on balanced blocks, and proximal steps in a sweep.
GROUP_WEIGHT = 0.005
GROUP_STEPS = 10
# Of loadings alone: sweeps at most, and the relative change at which they end.
_LOADING_SWEEPS = 500
_LOADING_TOLERANCE = 1e-8
# Leading singular pairs are found by subspace iteration, on matrices larger than this.
_EXACT_SIDE = 256
_MORE_DIRECTIONS = 10
_POWER_STEPS = 8
_NOTHING = 1e-300


@dataclass(frozen=True)
class Factorisation:
    """Factors of images and of everything that was factorised with them.

    Attributes:
        F: `(N, d)` float64: how strong each factor is in each image.
        W: for each block `(p_b, d)` float64. Side by side their columns have unit length, unless they were
            penalised or published, so that `F` carries the scale.
        objective: the objective after each sweep; half of it where groups are sparse.
    """

    F: Tensor
    W: tuple[Tensor, ...]
    objective: tuple[float, ...]

    @property
    def strength(self) -> Tensor:
        """`(B, d)`: `|W_b column| |F column|` of every block and factor."""
        return torch.stack([W.norm(dim=0) * self.F.norm(dim=0) for W in self.W])


def balanced(blocks: Sequence[Tensor]) -> tuple[list[Tensor], list[float]]:
    """Blocks divided by their Frobenius norms, and the norms; a block of zeros stays as it is.

    Without it the largest block decides: pixels had 95 % of the sum of squares, and factors were colours.
    """
    norms = [float(block.double().norm()) for block in blocks]
    return [
        block.double() / norm if norm > 0 else block.double()
        for block, norm in zip(blocks, norms, strict=True)
    ], norms


@torch.no_grad()
def coupled_factors(
    blocks: Sequence[Tensor],
    members: int,
    *,
    start: tuple[Tensor, Sequence[Tensor]] | None = None,
    seed: int | None = None,
    ridge: Sequence[float] = (),
    ridge_images: float = 0.0,
    sweeps: int = SWEEPS,
    tolerance: float = TOLERANCE,
    inner: int = INNER,
) -> Factorisation:
    """Factors of all blocks together, by HALS.

    Minimises `sum_b |X_b - F W_b'|^2 + sum_b ridge_b |W_b|^2 + ridge_images |F|^2` over `F`, `W_b` of at
    least 0. A factor that vanishes begins again at the image that is explained worst.

    Args:
        blocks: `(N, p_b)` each, nothing negative.
        members: `d`, at most `N` and the sum of all `p_b`.
        start: `F` and each `W_b` to begin with.
        seed: begin at random; without either, NNDSVDa of the blocks side by side.
        ridge: a weight for each block; none means 0.
        ridge_images: the weight of `|F|^2`.
        sweeps: over all columns, `W` first, at most.
        tolerance: ends where a sweep changes the objective by a smaller share of it.
        inner: updates of all columns of a side in a sweep. With 1, a sweep is that of scikit-learn's
            coordinate descent.

    Raises:
        InputError: negative or infinite values, blocks of different images, or too many factors.
    """
    X, sizes = _side_by_side(blocks, members)
    Ft, Wt = _begin(X, sizes, members, start, seed)
    weights = _repeated(ridge or [0.0] * len(sizes), sizes, X)
    penalised = bool(ridge_images) or any(ridge)
    total = X.square().sum()
    objective: list[float] = []
    for _ in range(sweeps):
        products, grams = Ft @ X, Ft @ Ft.T
        for _ in range(inner):
            _update_rows(Wt, products, grams, weights)
        if not penalised:
            _revive(X, Ft, Wt)
        products, grams = Wt @ X.T, Wt @ Wt.T
        for _ in range(inner):
            _update_rows(Ft, products, grams, ridge_images)
        left = total - 2 * (products * Ft).sum() + (grams * (Ft @ Ft.T)).sum()
        error = float(left + ((weights * Wt.square()).sum() + ridge_images * Ft.square().sum()))
        objective.append(max(error, 0.0))
        if len(objective) > 1 and objective[-2] - error <= tolerance * max(error, _NOTHING):
            break
    if not penalised:
        _move_scale(Ft, Wt)
    return _result(Ft, Wt, sizes, objective)


@torch.no_grad()
def published_factors(
    pixels: Sequence[Tensor],
    layers: Sequence[Tensor],
    members: int,
    *,
    start: Tensor | None = None,
    seed: int = 0,
    penalties: tuple[float, float, float] = (0.0, 0.0, 0.0),
    iterations: int = PUBLISHED_ITERATIONS,
) -> Factorisation:
    """The iteration of Saini & Papalexakis 2021, eq. 3.2, as their code does it.

    In order `F`, every `P_i`, every `O_j`, with `e` = 1e-9: `F <- F * (X W) / (F W'W + lF (1 + F) + e)`,
    `P <- P * (D'F) / (P F'F + lP P + e)`, `O <- O * (A'F) / (O F'F + lO (1 + O) + e)`; after each update of a
    block its columns are scaled to unit length. `P_i` and `O_j` start at NNDSVD of their block, zeros kept,
    `F` uniform. (The code adds the 1 to the text's ridge.) The objective it reports is without penalties.

    Args:
        pixels: `D_i`, `(N, p_i)`, a channel each.
        layers: `A_j`, `(N, p_j)`.
        members: `d`, at most `N` and the smallest `p`.
        start: `F`, `(N, d)`; `None` for uniform random numbers.
        seed: of these.
        penalties: `lP`, `lO`, `lF`.
        iterations: how many; nothing says when to stop.

    Raises:
        InputError: as `coupled_factors`; or a block has fewer features than factors.
    """
    blocks = [*pixels, *layers]
    X, sizes = _side_by_side(blocks, members)
    if min(sizes) < members:
        raise InputError(
            f"{members} factors, and a block has {min(sizes)} features",
            hint="the published solver starts from singular vectors of every block: ask for fewer factors",
        )
    parts = list(torch.split(X, sizes, dim=1))
    Ws = [_nndsvd(part, members)[1] for part in parts]
    lP, lO, lF = penalties
    if start is None:
        F = torch.from_numpy(np.random.default_rng(seed).random((members, len(X)))).T.to(X.device)
    else:
        F = start.double().clone()
    objective = []
    for _ in range(iterations):
        above = sum((part @ W for part, W in zip(parts, Ws, strict=True)), torch.zeros_like(F))
        below = sum((F @ (W.T @ W) for W in Ws), torch.zeros_like(F))
        F = F * above / (below + lF * (1 + F) + PUBLISHED_EPSILON)
        grams = F.T @ F
        for place, (part, W) in enumerate(zip(parts, Ws, strict=True)):
            penalty = lP * W if place < len(pixels) else lO * (1 + W)
            W = W * (part.T @ F) / (W @ grams + penalty + PUBLISHED_EPSILON)
            length = W.norm(dim=0)
            Ws[place] = W / torch.where(length > 0, length, 1)
        left = [(part - F @ W.T).square().sum() for part, W in zip(parts, Ws, strict=True)]
        objective.append(float(sum(left, torch.zeros_like(left[0]))))
    return Factorisation(F, tuple(Ws), tuple(objective))


@torch.no_grad()
def group_sparse_factors(
    blocks: Sequence[Tensor],
    members: int,
    groups: Tensor,
    *,
    weight: float = GROUP_WEIGHT,
    start: tuple[Tensor, Sequence[Tensor]] | None = None,
    seed: int | None = None,
    sweeps: int = SWEEPS,
    tolerance: float = TOLERANCE,
    steps: int = GROUP_STEPS,
) -> Factorisation:
    """Factors that are exactly zero in groups of images they have no part in (after Kim et al. 2012).

    Minimises `1/2 sum_b |X_b - F W_b'|^2 + weight sum_k,g |F[g, k]|` over `F`, `W` of at least 0, the columns
    of all `W_b` side by side of unit length. A sweep sets each column of `W` to its best value, then takes
    accelerated proximal steps in `F`; where these raised the objective, plain ones, which cannot.

    Args:
        blocks: `(N, p_b)` each, nothing negative.
        members: `d`.
        groups: `(N,)` integers: the group of each image.
        weight: of the penalty; .005 suits blocks of unit norm.
        start: as in `coupled_factors`.
        seed: as there.
        sweeps: at most.
        tolerance: as there.
        steps: in `F`, in each sweep.

    Raises:
        InputError: as `coupled_factors`.
    """
    X, sizes = _side_by_side(blocks, members)
    names, index = torch.unique(groups.to(X.device), return_inverse=True)
    member = _Groups(index, len(names))
    if index.shape != (len(X),):
        raise InputError(f"groups of {tuple(groups.shape)} images, and activations of {len(X)}")
    Ft, Wt = _begin(X, sizes, members, start, seed)
    _move_scale(Ft, Wt)
    total = X.square().sum()
    objective: list[float] = []
    for _ in range(sweeps):
        products, grams = Ft @ X, Ft @ Ft.T
        for k in range(members):
            best = (products[k] - grams[k] @ Wt + grams[k, k] * Wt[k]).clamp_min_(0)
            length = best.norm()
            Wt[k] = torch.where(length > 0, best / length, Wt[k])
        products, grams = Wt @ X.T, Wt @ Wt.T
        step = 1 / float(torch.linalg.matrix_norm(grams, 2))
        before = _group_cost(Ft, products, grams, member, weight, total)
        moved = _proximal(Ft, products, grams, member, weight, step, steps, accelerated=True)
        after = _group_cost(moved, products, grams, member, weight, total)
        if after > before:
            moved = _proximal(Ft, products, grams, member, weight, step, steps, accelerated=False)
            after = _group_cost(moved, products, grams, member, weight, total)
        Ft = moved
        objective.append(max(after, 0.0))
        if len(objective) > 1 and objective[-2] - objective[-1] <= tolerance * max(objective[-1], _NOTHING):
            break
    return _result(Ft, Wt, sizes, objective)


@torch.no_grad()
def nonnegative_loadings(X: Tensor, F: Tensor, *, tolerance: float = _LOADING_TOLERANCE) -> Tensor:
    """The loadings at least 0 with which fixed factors of the images come nearest to a block.

    Args:
        X: `(N, p)`.
        F: `(N, d)`.
        tolerance: ends where a sweep changes the loadings by a smaller share of them.

    Returns:
        `W`, `(p, d)` float64: least squares under `W >= 0`; zero for a factor that is zero.
    """
    Ft = F.double().T.contiguous()
    products, grams = Ft @ X.double(), Ft @ Ft.T
    Wt = torch.zeros_like(products)
    for _ in range(_LOADING_SWEEPS):
        before = Wt.clone()
        _update_rows(Wt, products, grams, 0.0)
        if bool((Wt - before).norm() <= tolerance * Wt.norm()):
            break
    return Wt.T.contiguous()


@torch.no_grad()
def residual(X: Tensor, F: Tensor, W: Tensor) -> float:
    """The share of a block's sum of squares that its factors leave: `|X - F W'|^2 / |X|^2`; NaN for zeros."""
    total = float(X.double().square().sum())
    if total == 0:
        return float("nan")
    return float((X.double() - F.double() @ W.double().T).square().sum()) / total


# -- parts ---------------------------------------------------------------------------------------------------


def _side_by_side(blocks: Sequence[Tensor], members: int) -> tuple[Tensor, list[int]]:
    """All blocks as `(N, sum p_b)` float64, and each `p_b`."""
    if not blocks or any(block.ndim != 2 or 0 in block.shape for block in blocks):
        raise InputError(f"blocks of shapes {[tuple(b.shape) for b in blocks]}: need (images, features) each")
    if len({len(block) for block in blocks}) > 1:
        raise InputError(f"blocks of {', '.join(str(len(b)) for b in blocks)} images: need the same")
    X = torch.cat([block.double() for block in blocks], dim=1)
    if not bool(X.isfinite().all()):
        raise InputError("activations that are infinite or not a number have no factors")
    if bool((X < 0).any()):
        raise InputError("activations below 0 have no non-negative factors")
    if not bool(X.any()):
        raise InputError("activations that are all 0 have no factors")
    if not 1 <= members <= min(X.shape):
        raise InputError(
            f"{members} factors of {len(X)} images with {X.shape[1]} features: at most {min(X.shape)}"
        )
    return X, [block.shape[1] for block in blocks]


def _begin(
    X: Tensor,
    sizes: Sequence[int],
    members: int,
    start: tuple[Tensor, Sequence[Tensor]] | None,
    seed: int | None,
) -> tuple[Tensor, Tensor]:
    """`F'`, `(d, N)`, and `W'`, `(d, sum p_b)`, to begin with."""
    if start is not None:
        F, Ws = start
        Ft, Wt = F.double().T.contiguous().clone(), torch.cat(list(Ws)).double().T.contiguous().clone()
        if Ft.shape != (members, len(X)) or Wt.shape != (members, sum(sizes)):
            raise InputError(f"a start of shapes {tuple(Ft.T.shape)} and {tuple(Wt.T.shape)} does not fit")
        return Ft, Wt
    if seed is not None:
        rng = np.random.default_rng(seed)
        scale = (float(X.mean()) / members) ** 0.5
        drawn = (np.abs(rng.normal(size=(members, length))) * scale for length in X.shape)
        Ft, Wt = (torch.from_numpy(values).to(X.device) for values in drawn)
        return Ft, Wt
    F, W = _nndsvd(X, members)
    level = max(float(X.mean()), 1e-12)
    return (
        torch.where(F > 0, F, level).T.contiguous(),
        torch.where(W > 0, W, level).T.contiguous(),
    )


def _nndsvd(X: Tensor, members: int) -> tuple[Tensor, Tensor]:
    """NNDSVD (Boutsidis & Gallopoulos 2008): the larger half of each singular pair; `(N, d)` and `(p, d)`."""
    U, S, V = _leading(X, members)
    F, W = X.new_zeros(X.shape[0], members), X.new_zeros(X.shape[1], members)
    for k in range(members):
        halves = [((sign * U[:, k]).clamp_min(0), (sign * V[:, k]).clamp_min(0)) for sign in (1, -1)]
        u, v = max(halves, key=lambda half: float(half[0].norm() * half[1].norm()))
        lengths = float(u.norm() * v.norm())
        if lengths > 0:
            scale = (float(S[k]) * lengths) ** 0.5
            F[:, k], W[:, k] = scale * u / u.norm(), scale * v / v.norm()
    return F, W


def _leading(X: Tensor, members: int) -> tuple[Tensor, Tensor, Tensor]:
    """The leading singular triplets: `(N, d)`, `(d,)`, `(p, d)`."""
    if min(X.shape) <= max(_EXACT_SIDE, members + _MORE_DIRECTIONS):
        U, S, Vh = torch.linalg.svd(X, full_matrices=False)
        return U[:, :members], S[:members], Vh[:members].T
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(X.shape[1], members + _MORE_DIRECTIONS, generator=generator, dtype=X.dtype)
    basis = torch.linalg.qr(X @ drawn.to(X.device)).Q
    for _ in range(_POWER_STEPS):
        basis = torch.linalg.qr(X @ torch.linalg.qr(X.T @ basis).Q).Q
    small, S, Vh = torch.linalg.svd(basis.T @ X, full_matrices=False)
    return (basis @ small)[:, :members], S[:members], Vh[:members].T


def _update_rows(rows: Tensor, products: Tensor, grams: Tensor, ridge: Tensor | float) -> None:
    """Set each factor's row in turn to its best value at least 0; `ridge` is added to the Gram diagonal."""
    live = [] if isinstance(ridge, Tensor) else (grams.diagonal() + ridge > 0).tolist()
    for k in range(len(rows)):
        weight = grams[k, k] + ridge
        step = products[k] - grams[k] @ rows
        if isinstance(ridge, Tensor) or ridge:
            step -= ridge * rows[k]
        if isinstance(ridge, Tensor):
            rows[k] = torch.where(weight > 0, (rows[k] + step / weight.clamp_min(_NOTHING)).clamp_min(0), 0)
        elif live[k]:
            rows[k].add_(step / weight).clamp_min_(0)
        else:
            rows[k] = 0


def _revive(X: Tensor, Ft: Tensor, Wt: Tensor) -> None:
    """Point factors that have vanished at the images that are explained worst; the objective stays."""
    gone = (Ft.norm(dim=1) == 0) | (Wt.norm(dim=1) == 0)
    if not bool(gone.any()):
        return
    Ft[gone], Wt[gone] = 0, 0
    left = (X - Ft.T @ Wt).clamp_min_(0)
    worst = left.norm(dim=1).topk(int(gone.sum()))
    for k, image, size in zip(
        gone.nonzero()[:, 0].tolist(), worst.indices.tolist(), worst.values.tolist(), strict=True
    ):
        if size > 0:
            Wt[k] = left[image] / size


def _move_scale(Ft: Tensor, Wt: Tensor) -> None:
    """Columns of all blocks side by side to unit length; `F` takes their scale."""
    length = Wt.norm(dim=1, keepdim=True)
    Wt /= torch.where(length > 0, length, 1)
    Ft *= torch.where(length > 0, length, 0)


@dataclass(frozen=True)
class _Groups:
    """The group of each image, `(N,)` from 0, and how many there are."""

    index: Tensor
    count: int


def _proximal(
    Ft: Tensor,
    products: Tensor,
    grams: Tensor,
    groups: _Groups,
    weight: float,
    step: float,
    steps: int,
    *,
    accelerated: bool,
) -> Tensor:
    """Proximal steps in `F'` (Beck & Teboulle 2009): down the gradient, clip at 0, shrink every group."""
    current, ahead, pace = Ft, Ft, 1.0
    for _ in range(steps):
        moved = (ahead - step * (grams @ ahead - products)).clamp_min_(0)
        lengths = _group_norms(moved, groups)
        kept = (1 - weight * step / lengths.clamp_min(_NOTHING)).clamp_min_(0)
        moved *= kept[:, groups.index]
        if accelerated:
            following = (1 + (1 + 4 * pace**2) ** 0.5) / 2
            ahead = moved + (pace - 1) / following * (moved - current)
            pace = following
        else:
            ahead = moved
        current = moved
    return current


def _group_cost(
    Ft: Tensor, products: Tensor, grams: Tensor, groups: _Groups, weight: float, total: Tensor
) -> float:
    error = total - 2 * (products * Ft).sum() + (grams * (Ft @ Ft.T)).sum()
    return float(error / 2 + weight * _group_norms(Ft, groups).sum())


def _group_norms(Ft: Tensor, groups: _Groups) -> Tensor:
    """`(d, G)`: the length of every factor in every group of images."""
    sums = Ft.new_zeros(len(Ft), groups.count)
    return sums.index_add_(1, groups.index, Ft.square()).sqrt_()


def _repeated(values: Sequence[float], sizes: Sequence[int], X: Tensor) -> Tensor | float:
    """A weight for every feature; 0.0 where all are."""
    if len(values) != len(sizes):
        raise InputError(f"{len(values)} penalties for {len(sizes)} blocks")
    if not any(values):
        return 0.0
    return torch.cat([X.new_full((size,), value) for value, size in zip(values, sizes, strict=True)])


def _result(Ft: Tensor, Wt: Tensor, sizes: Sequence[int], objective: Sequence[float]) -> Factorisation:
    """The factors, the strongest first."""
    share = Ft.norm(dim=1) * Wt.norm(dim=1)
    order = torch.sort(share, descending=True, stable=True).indices
    parts = torch.split(Wt[order].T.contiguous(), list(sizes))
    return Factorisation(Ft[order].T.contiguous(), tuple(parts), tuple(objective))
