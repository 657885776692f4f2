"""What is lost when units or directions are cut out: scores without them, and random ones that are like them.

`Z` is `N x K`, the scores of the classes; `Q` is `N x C`, the pooled activations of a layer; `W` is `K x C`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from concept_monitor_cli.errors import InputError

# A matched unit is drawn among this many that are nearest in mean activation.
_NEAREST = 10
# So many random directions are tried for each that is kept.
_TRIED = 100
# Variances along axes of a layer count as no smaller than this share of the largest.
_QUIET = 1e-4


@torch.no_grad()
def linear_scores(
    Z: Tensor, Q: Tensor, W: Tensor, units: Sequence[int], values: Tensor | float = 0.0
) -> Tensor:
    """The scores when some units have a fixed value, where only pooling and a linear head follow: exact.

        Z' = Z - (Q_S - values) W_S'

    Args:
        Z: `(N, K)`.
        Q: `(N, C)`.
        W: `(K, C)`.
        units: `S`.
        values: of the units: 0, or `(len(units),)`, their means.

    Returns:
        `(N, K)`.

    Example:
        >>> Z, Q, W = torch.tensor([[5.0]]), torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 2.0]])
        >>> linear_scores(Z, Q, W, [1]).tolist()
        [[1.0]]
    """
    if Q.shape[1] != W.shape[1] or Z.shape != (len(Q), len(W)):
        raise InputError(
            f"scores {tuple(Z.shape)}, activations {tuple(Q.shape)} and weights {tuple(W.shape)}: need "
            "(N, K), (N, C) and (K, C)"
        )
    index = torch.as_tensor(list(units), dtype=torch.int64, device=Q.device)
    return Z - (Q[:, index] - values) @ W[:, index].T


@torch.no_grad()
def scores_along(Z: Tensor, Q: Tensor, W: Tensor, directions: Tensor, values: Tensor | float = 0.0) -> Tensor:
    """The scores when what is read along some directions has a fixed value, before a linear head: exact.

        Z' = Z - (Q U - values) (W U)'

    Args:
        Z: `(N, K)`.
        Q: `(N, C)`.
        W: `(K, C)`.
        directions: `U`, `(C, r)`, orthonormal columns.
        values: 0, or `(r,)`.

    Returns:
        `(N, K)`.
    """
    return Z - (Q @ directions - values) @ (W @ directions).T


@torch.no_grad()
def matched_directions(
    Q: Tensor, directions: Tensor, draws: int, *, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Random directions along which images have nearly the same mean and spread.

    How much is lost with a direction depends on how much of the activations lies along it, and along most
    directions lies little. So candidates are Gaussian vectors shaped by a random power of the covariance,
    from -3/4 (mostly quiet directions) to 3/4 (mostly the leading ones). They are made orthogonal to the
    directions that are cut, so that none holds a part of these, and for each of these those are kept that
    come nearest in the mean and the standard deviation over images. Signs do not matter.

    Args:
        Q: `(N, C)`, pooled activations.
        directions: `(C, r)`, orthonormal columns.
        draws: how many random sets of `r` directions.
        seed: of the draws.

    Returns:
        the random directions `(draws, C, r)`, orthonormal columns each, none where no three of `C` would be
            free of them; the root mean square over images along the directions `(r,)`, and along the random
            ones `(draws, r)`.
    """
    Q, U = Q.double(), directions.double()
    channels, r = U.shape
    size = (Q @ U).square().mean(0).sqrt()
    if channels < 2 * r + 2:
        return Q.new_zeros(0, channels, r).float(), size, Q.new_zeros(0, r)
    centred = Q - Q.mean(0)
    values, axes = torch.linalg.eigh(centred.T @ centred / len(Q))
    values = (values / values.amax().clamp_min(1e-300)).clamp_min(_QUIET)
    generator = torch.Generator().manual_seed(seed)
    tried = _TRIED * draws
    power = 1.5 * torch.rand(tried, generator=generator, dtype=torch.float64) - 0.75
    noise = torch.randn(channels, tried, generator=generator, dtype=torch.float64)
    # In another order for each direction, so that sets do not join the best with the best.
    orders = torch.stack([torch.randperm(draws, generator=generator) for _ in range(r)])
    power, noise, orders = power.to(Q.device), noise.to(Q.device), orders.to(Q.device)
    drawn = axes @ (values[:, None] ** power * noise)
    drawn = drawn - U @ (U.T @ drawn)
    drawn = drawn / drawn.norm(dim=0)
    along, own = Q @ drawn, Q @ U
    means, spreads = along.mean(0).abs(), along.std(0, correction=0)
    free = torch.ones(tried, dtype=torch.bool, device=Q.device)
    chosen = Q.new_zeros(draws, channels, r)
    for k in range(r):
        away = (means - own[:, k].mean().abs()).square() + (spreads - own[:, k].std(correction=0)).square()
        nearest = torch.where(free, away, torch.inf).argsort(stable=True)[:draws]
        free[nearest] = False
        chosen[:, :, k] = drawn[:, nearest[orders[k]]].T
    if r > 1:
        chosen = torch.linalg.qr(chosen)[0]
    return chosen.float(), size, (Q @ chosen).square().mean(1).sqrt()


@dataclass(frozen=True)
class Outcome:
    """What some scores mean for each image.

    Attributes:
        correct: `(..., N)` bool: the image's class has the highest score.
        margin: `(..., N)`: that class's score less the highest of the others.
        own: `(..., N)`: that class's score.
    """

    correct: Tensor
    margin: Tensor
    own: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, scores: Tensor, classes: Tensor) -> Outcome:
        """From scores.

        Args:
            scores: `(..., N, K)`, `K` at least 2.
            classes: `(N,)` int64.
        """
        if scores.shape[-1] < 2:
            raise InputError("a network with one score has no margin between classes")
        place = classes.expand(scores.shape[:-1])[..., None]
        own = scores.gather(-1, place)[..., 0]
        others = scores.scatter(-1, place, -torch.inf).amax(-1)
        # A tie goes to the class of the lower number, as argmax has it.
        return cls(scores.argmax(-1) == classes, own - others, own)

    def by_class(self, classes: Tensor, n_classes: int) -> tuple[Tensor, Tensor, Tensor]:
        """Means over all images, then over those of each class: `(..., 1 + K)` float64 each.

        NaN for a class without images.
        """
        member = torch.nn.functional.one_hot(classes, n_classes).double()
        member = torch.cat([member.new_ones(len(classes), 1), member], 1)
        weights = member / member.sum(0)
        correct, margin, own = (each.double() @ weights for each in (self.correct, self.margin, self.own))
        return correct, margin, own


@torch.no_grad()
def matched_sets(means: Tensor, units: Sequence[int], draws: int, *, seed: int = 0) -> Tensor:
    """Random sets of other units with nearly the same mean activations.

    For each unit in turn one of the ten others is drawn whose means are nearest to its own and that are not
    in the set yet.

    Args:
        means: `(C,)`, mean activation of every unit.
        units: the set; none of it is in a random one.
        draws: how many.
        seed: of the draws.

    Returns:
        `(draws, len(units))` int64; no rows where there are fewer others than units.
    """
    device, means = means.device, means.cpu()  # units are drawn one after the other
    taken = set(units)
    others = torch.tensor([unit for unit in range(len(means)) if unit not in taken], dtype=torch.int64)
    if len(others) < len(taken) or not taken:
        return torch.zeros(0, len(taken), dtype=torch.int64, device=device)
    generator = torch.Generator().manual_seed(seed)
    away = (means[others][None, :] - means[torch.tensor(list(units))][:, None]).abs()
    order = away.argsort(dim=1, stable=True)
    rows = []
    for _ in range(draws):
        free = torch.ones(len(others), dtype=torch.bool)
        chosen = torch.zeros(len(units), dtype=torch.int64)
        for place in torch.randperm(len(units), generator=generator).tolist():
            near = order[place][free[order[place]]][:_NEAREST]
            pick = int(near[torch.randint(len(near), (1,), generator=generator)])
            free[pick] = False
            chosen[place] = others[pick]
        rows.append(chosen)
    return torch.stack(rows).to(device)


def beside_controls(value: Tensor, controls: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A number beside those of random sets: their mean and standard deviation, and a two-sided p-value.

        p = (1 + controls as far from the middle as the number) / (1 + controls)

    with the mean of the number and the controls as the middle, so that a random set is no special one.

    Args:
        value: `(...)`.
        controls: `(R, ...)`.

    Returns:
        mean, deviation, p, each `(...)`; NaN without controls.
    """
    if len(controls) == 0:
        nothing = torch.full_like(value, torch.nan)
        return nothing, nothing, nothing
    mean = controls.mean(0)
    deviation = controls.std(0) if len(controls) > 1 else torch.full_like(value, torch.nan)
    middle = (controls.sum(0) + value) / (len(controls) + 1)
    far = ((controls - middle).abs() >= (value - middle).abs() * (1 - 1e-9)).sum(0)
    p = (1.0 + far) / (1.0 + len(controls))
    return mean, deviation, torch.where(value.isnan(), torch.nan, p)
