"""Directions in the space of a layer's activations: random, principal, and non-negative factors.

Non-negative factors are fitted by hierarchical alternating least squares (HALS; Cichocki & Phan 2009): one
column at a time is set to its best value with the others held, so the error never rises.
"""

from __future__ import annotations

import torch
from torch import Tensor

from concept_monitor_cli.errors import InputError

#: Sweeps over all columns, and the relative change of the error at which a fit ends.
SWEEPS = 300
TOLERANCE = 1e-6
# Mean of the activations that a fit begins from.
_START_MEAN = 0.01
# Sweeps for coefficients alone, the factors held.
_COEFFICIENT_SWEEPS = 50


def random_directions(channels: int, members: int, *, seed: int = 0) -> Tensor:
    """Directions that are uniform on the sphere.

    Args:
        channels: `C`.
        members: `R`.
        seed: the first directions do not depend on how many are drawn.

    Returns:
        `(C, R)` float32, columns of unit length.
    """
    if channels < 1 or members < 1:
        raise InputError(f"{members} directions of {channels} channels: each must be at least 1")
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(members, channels, generator=generator, dtype=torch.float64)
    directions: Tensor = drawn / drawn.norm(dim=1, keepdim=True)
    return directions.T.contiguous().float()


@torch.no_grad()
def principal_directions(Q: Tensor, members: int) -> tuple[Tensor, Tensor]:
    """The directions in which activations vary most.

    Args:
        Q: `(N, C)`.
        members: `R`, at most `min(N, C)`.

    Returns:
        the mean `(C,)`, and `(C, R)` columns of unit length, most variance first, each with the sign that
        makes its largest entry positive; float32.
    """
    if Q.ndim != 2 or not 1 <= members <= min(Q.shape):
        raise InputError(f"{members} principal directions of activations of shape {tuple(Q.shape)}")
    values = Q.double()
    centre = values.mean(0)
    directions = torch.linalg.svd(values - centre, full_matrices=False).Vh[:members].T
    largest = directions.abs().argmax(0, keepdim=True)
    return centre.float(), (directions * directions.gather(0, largest).sign()).contiguous().float()


@torch.no_grad()
def nonnegative_factors(
    Q: Tensor, members: int, *, sweeps: int = SWEEPS, tolerance: float = TOLERANCE
) -> Tensor:
    """Non-negative factors of non-negative activations: `Q ~ F W'` with `F`, `W` at least 0.

    Args:
        Q: `(N, C)`, nothing negative.
        members: `R`, at most `min(N, C)`.
        sweeps: at most.
        tolerance: ends where a sweep changes the squared error by a smaller share of it.

    Returns:
        `W`, `(C, R)` float32, columns of unit length (zero for a factor that nothing is left for), the
        largest share of `Q` first.

    Raises:
        InputError: negative values, or more factors than images or channels.
    """
    if Q.ndim != 2 or not 1 <= members <= min(Q.shape):
        raise InputError(f"{members} factors of activations of shape {tuple(Q.shape)}")
    if bool((Q < 0).any()):
        raise InputError("activations below 0 have no non-negative factors")
    # What the start is filled up with must be small beside its numbers, which are of the size of roots of X.
    mean = float(Q.mean(dtype=torch.float64))
    X = Q.to(torch.float64, copy=True).mul_(_START_MEAN / mean if mean > 0 else 1.0)
    F, W = _svd_start(X, members)
    total = (X**2).sum()
    before = float("inf")
    for _ in range(sweeps):
        grams = F.T @ F
        _sweep(W, X.T @ F, grams, _live(grams))
        grams = W.T @ W
        _sweep(F, X @ W, grams, _live(grams))
        error = float(total - 2 * ((X @ W) * F).sum() + ((F.T @ F) * (W.T @ W)).sum())
        if error >= before - tolerance * error:
            break
        before = error
    length = W.norm(dim=0)
    share = length * F.norm(dim=0)
    order = torch.sort(share, descending=True, stable=True).indices
    factors: Tensor = W / length.clamp_min(1e-300)
    return factors[:, order].contiguous().float()


@torch.no_grad()
def nonnegative_coefficients(Q: Tensor, W: Tensor, *, sweeps: int = _COEFFICIENT_SWEEPS) -> Tensor:
    """The coefficients at least 0 whose combination of factors comes nearest to each row.

    Args:
        Q: `(N, C)`.
        W: `(C, R)` factors.
        sweeps: over all factors; each sets one factor's coefficients to their best value.

    Returns:
        `(N, R)` float32, all zero for a factor that is zero.
    """
    products, grams = Q.double() @ W.double(), W.double().T @ W.double()
    F, live = torch.zeros_like(products), _live(grams)
    for _ in range(sweeps):  # always as many: no row's result depends on which others are there
        _sweep(F, products, grams, live)
    return F.float()


def _live(grams: Tensor) -> list[bool]:
    """Which factors are not zero, looked up in one go."""
    found: list[bool] = (~(grams.diagonal() <= 0)).tolist()  # one of no numbers gives none
    return found


def _sweep(F: Tensor, products: Tensor, grams: Tensor, live: list[bool]) -> None:
    """Set every column of `F` in turn to its best value at least 0; 0 beside a factor that is zero."""
    for k, alive in enumerate(live):
        if not alive:
            F[:, k] = 0
            continue
        F[:, k] = (F[:, k] + (products[:, k] - F @ grams[:, k]) / grams[k, k]).clamp_min_(0)


def _svd_start(X: Tensor, members: int) -> tuple[Tensor, Tensor]:
    """NNDSVDa (Boutsidis & Gallopoulos 2008): the larger half of each singular pair, zeros at the mean."""
    U, S, Vh = torch.linalg.svd(X, full_matrices=False)
    F, W = X.new_zeros(X.shape[0], members), X.new_zeros(X.shape[1], members)
    for k in range(members):
        halves = [((sign * U[:, k]).clamp_min(0), (sign * Vh[k]).clamp_min(0)) for sign in (1, -1)]
        u, v = max(halves, key=lambda half: float(half[0].norm() * half[1].norm()))
        lengths = float(u.norm() * v.norm())
        if lengths > 0:
            scale = (float(S[k]) * lengths) ** 0.5
            F[:, k], W[:, k] = scale * u / u.norm(), scale * v / v.norm()
    level = max(float(X.mean()), 1e-12)
    return torch.where(F > 0, F, level), torch.where(W > 0, W, level)
