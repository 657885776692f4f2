"""What factors of images say: classes they gather, images that are near, how separate they are in a layer.

`F`, `(N, d)`, is how strong each factor is in each image, and `W`, `(p, d)`, how strong in each unit of a
layer (`functional.coupled`). Every number has a null: permuted images, or permuted units.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.factor_matching import cosines

#: Neighbours of an image (Saini & Papalexakis 2021, section 4.1.3).
NEIGHBOURS = 30
#: Draws of every null.
DRAWS = 20
#: Eigenvalues that the paper takes the mean of.
LEADING = 3
_ROWS = 512


def class_weights(F: Tensor, classes: Tensor, count: int) -> Tensor:
    """Each class's share of each factor: `sum F[class, k] / sum F[:, k]`.

    Args:
        F: `(N, d)`, at least 0.
        classes: `(N,)` integers; -1 for an image of no known class, which does not count.
        count: `K`.

    Returns:
        `(d, K)` float64; NaN for a factor that no such image has.
    """
    known = classes >= 0
    sums = F.new_zeros(count, F.shape[1], dtype=torch.float64)
    sums.index_add_(0, classes[known], F[known].double())
    totals = sums.sum(0)
    shares = torch.where(totals > 0, sums / totals.clamp_min(1e-300), torch.nan)
    return shares.T.contiguous()


def purity(weights: Tensor) -> Tensor:
    """The largest class's share, `(d,)`, of shares `(d, K)`."""
    return weights.max(1).values


def entropy(weights: Tensor) -> Tensor:
    """Entropy in bits of shares `(..., K)`: 0 for one class, `log2 K` for all alike."""
    bits: Tensor = torch.special.entr(weights).sum(-1) / float(np.log(2))
    return bits


def chance_purity(F: Tensor, classes: Tensor, count: int, *, draws: int = DRAWS, seed: int = 0) -> Tensor:
    """Mean purity of each factor with the images' classes permuted, `(d,)` float64."""
    rng = np.random.default_rng(seed)
    found = [
        purity(class_weights(F, classes[torch.from_numpy(rng.permutation(len(classes)))], count))
        for _ in range(draws)
    ]
    return torch.stack(found).mean(0)


@dataclass(frozen=True)
class Neighbourhoods:
    """The images nearest to each image among the factors.

    Attributes:
        factor: `(N,)` int64: the strongest factor of each image; -1 for an image that has none.
        nearest: `(N, n)` int64: the nearest other images, nearest first.
        counts: `(N, d)` int64: how many of them have each factor as their strongest.
        impurity: `(N,)` float64: entropy of these counts in bits; NaN where no neighbour has a factor.
        chance: what images drawn at random in place of the neighbours give, the mean over all images.
    """

    factor: Tensor
    nearest: Tensor
    counts: Tensor
    impurity: Tensor
    chance: float

    def expected(self, image: int) -> Tensor:
        """How many neighbours of an image had each factor if they were drawn at random, `(d,)` float64."""
        others = torch.cat([self.factor[:image], self.factor[image + 1 :]])
        found = _counted(others[None], self.counts.shape[1])[0]
        return found.double() * self.nearest.shape[1] / len(others)


@torch.no_grad()
def neighbourhoods(F: Tensor, *, neighbours: int = NEIGHBOURS, seed: int = 0) -> Neighbourhoods:
    """Which factors the images around each image have.

    Args:
        F: `(N, d)`.
        neighbours: how many, at most `N - 1`; by Euclidean distance between rows of `F`, ties by number.
        seed: of the images drawn for chance.

    Raises:
        InputError: fewer than two images.
    """
    if F.ndim != 2 or len(F) < 2:
        raise InputError(f"factors of shape {tuple(F.shape)}: need two images or more to have neighbours")
    values, count = F.double(), min(neighbours, len(F) - 1)
    factor = torch.where(values.sum(1) > 0, values.argmax(1), -1)
    near = []
    for start in range(0, len(values), _ROWS):
        rows = torch.arange(start, min(len(values), start + _ROWS), device=values.device)
        distance = torch.cdist(values[rows], values, compute_mode="donot_use_mm_for_euclid_dist")
        distance[torch.arange(len(rows)), rows] = torch.inf
        near.append(torch.sort(distance, dim=1, stable=True).indices[:, :count])
    nearest = torch.cat(near)
    counts = _counted(factor[nearest], F.shape[1])
    rng = np.random.default_rng(seed)
    drawn = torch.from_numpy(rng.integers(0, len(F) - 1, size=(len(F), count)))
    drawn += (drawn >= torch.arange(len(F))[:, None]).long()  # any image but itself
    by_chance = _impurity(_counted(factor[drawn.to(factor.device)], F.shape[1]))
    return Neighbourhoods(factor, nearest, counts, _impurity(counts), float(by_chance.nanmean()))


def _counted(factors: Tensor, members: int) -> Tensor:
    counts = factors.new_zeros(len(factors), members + 1)
    counts.scatter_add_(1, factors + 1, torch.ones_like(factors))
    return counts[:, 1:]


def _impurity(counts: Tensor) -> Tensor:
    totals = counts.sum(1, keepdim=True)
    shares = counts.double() / totals.clamp_min(1)
    return torch.where(totals[:, 0] > 0, entropy(shares), torch.nan)


@dataclass(frozen=True)
class Spectrum:
    """How separate factors are in a layer, by the cosines of their columns.

    The eigenvalues sum to the number of factors: all are 1 where no unit has a part in two factors, and one
    is `d` where all factors are the same units.

    Attributes:
        eigenvalues: `(d',)` float64, the largest first, of the factors that the layer has.
        leading: the largest.
        mean_of_three: of the three largest, or all where there are fewer.
        effective_rank: `exp` of the entropy of their shares.
    """

    eigenvalues: Tensor
    leading: float
    mean_of_three: float
    effective_rank: float


def similarity(W: Tensor) -> Tensor:
    """Cosines of the columns of `W`, `(d, d)` float64; NaN for factors that the layer has no part in."""
    table = cosines(W, W)
    absent = W.norm(dim=0) == 0
    table[absent], table[:, absent] = torch.nan, torch.nan
    return table


@torch.no_grad()
def spectrum(W: Tensor) -> Spectrum:
    """Of the factors' columns in a layer, `(p, d)`; NaN where the layer has no part in any."""
    present = W[:, W.norm(dim=0) > 0]
    if not present.shape[1]:
        return Spectrum(torch.empty(0, dtype=torch.float64), *[float("nan")] * 3)
    values = torch.linalg.eigvalsh(cosines(present, present)).flip(0).clamp_min(0)
    shares = values / values.sum()
    rank = float(torch.special.entr(shares).sum().exp())
    return Spectrum(values, float(values[0]), float(values[:LEADING].mean()), rank)


@torch.no_grad()
def chance_spectrum(W: Tensor, *, draws: int = DRAWS, seed: int = 0) -> tuple[float, float, float]:
    """Leading eigenvalue, mean of three and effective rank with every factor's units permuted, their means.

    Every factor keeps how many units it has and how strong they are; only which ones is left to chance.
    """
    rng = np.random.default_rng(seed)
    values = W.double().cpu()
    found = []
    for _ in range(draws):
        order = torch.from_numpy(rng.permuted(np.tile(np.arange(len(values)), (values.shape[1], 1)), axis=1))
        each = spectrum(values.gather(0, order.T))
        found.append((each.leading, each.mean_of_three, each.effective_rank))
    means = np.mean(found, axis=0)
    return float(means[0]), float(means[1]), float(means[2])
