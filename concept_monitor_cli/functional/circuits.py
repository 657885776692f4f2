"""Circuits: what a unit of one layer adds to a unit of the next, and what concepts are built of.

`E` is `C x D`: entry `(i, k)` is how much of the mean of unit `k` of a later layer is due to unit `i`.
Positive edges excite, negative ones inhibit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from concept_monitor_cli.errors import InputError

Floats = NDArray[np.float64]
#: Source concepts of a union, and images that show them: see `unions`.
ONE_OF = 0.8
TOP = 0.01
LEAST_IMAGES = 10
# The share of the images that a unit fires on.
FIRES = 0.05
_ROUNDS = 10
# Each case of a union is on at least this share of the target's images.
_CASE = 0.2


# -- which images a unit is knocked out on -------------------------------------------------------------------


def proportional_draws(sizes: Floats, draws: int, *, seed: int = 0) -> tuple[NDArray[np.int64], Floats]:
    """Images on which a unit is changed, so that the mean over all images is estimated without bias.

    What a unit does on an image where it is silent is known: nothing. Elsewhere it is about proportional to
    the unit's activation, so images are drawn in proportion to that (systematic sampling with probability
    proportional to size). An image may be drawn several times; where no more images have a size than are to
    be drawn, all of them are taken, and the mean is exact.

        mean = sum over the images of weight * change

    Args:
        sizes: `(N,)`, not negative: mean absolute activation on each image.
        draws: how many.
        seed: of the random start and order.

    Returns:
        images `(m,)`, rising, and their weights `(m,)`.

    Source: Madow 1949, "On the theory of systematic sampling, II".
    """
    n, total = len(sizes), float(sizes.sum())
    some = np.flatnonzero(sizes > 0)
    if len(some) <= draws:
        return some, np.full(len(some), 1.0 / n)
    generator = np.random.default_rng(seed)
    order = generator.permutation(some)
    edges = np.cumsum(sizes[order])
    points = (np.arange(draws) + generator.random()) * (edges[-1] / draws)
    chosen = order[np.searchsorted(edges, points, side="right").clip(0, len(order) - 1)]
    images, times = np.unique(chosen, return_counts=True)
    return images, times * total / (n * draws * sizes[images])


def sampling_error(contributions: Tensor, times: Tensor) -> Tensor:
    """Standard error of a mean that was estimated from draws.

    As if draws were independent (systematic ones are better than that on average), and as if there were one
    more draw, of an image on which the unit does nothing. Without it, draws that happen to agree would have
    no error, although images on which the later unit is silent may be among those not drawn. With it, `n`
    draws that agree have an error of `1 / (n + 1)` of the mean; three times that is the bound of the rule of
    three: what is in none of `n` draws has a share below `3 / n`, at 95 %.

    Args:
        contributions: `(m, D)`, what the mean would be by each image alone.
        times: `(m,)`, how often each was drawn.

    Returns:
        `(D,)`; NaN for a single draw, 0 where no draw changes anything.

    Source: Hanley & Lippman-Hand 1983 (rule of three); one draw more as in Agresti & Coull 1998.
    """
    count = times.sum()
    if count < 2:
        return torch.full_like(contributions[0], torch.nan)
    total = (times[:, None] * contributions).sum(0)
    mean = total / (count + 1)
    squares = (times[:, None] * (contributions - mean).square()).sum(0) + mean.square()
    return (squares / (count * (count + 1))).sqrt()


# -- weights -------------------------------------------------------------------------------------------------


def tap_shares(
    size: int, out: int, kernel: int, *, stride: int = 1, padding: int = 0, dilation: int = 1
) -> Floats:
    """For each tap of a convolution along one axis, the share of output places at which it sees the input.

    The others see the zeros of the padding: on a map of one place only the middle tap of three counts.

    Args:
        size: input places.
        out: output places.
        kernel, stride, padding, dilation: of the convolution.

    Returns:
        `(kernel,)`.
    """
    starts = np.arange(out)[:, None] * stride - padding
    seen = starts + np.arange(kernel)[None, :] * dilation
    shares: Floats = ((seen >= 0) & (seen < size)).mean(0)
    return shares


def conv_channels(weight: Tensor, shares: Sequence[Floats], groups: int = 1) -> Tensor:
    """What a convolution makes of channels' means: its taps added up, each by how often it sees the input.

    Args:
        weight: `(out, in / groups, ...)`.
        shares: of the taps along each spatial axis (`tap_shares`).
        groups: of the convolution.

    Returns:
        `(out, in)` float64, on the host.
    """
    summed = weight.detach().double().cpu()
    for each in reversed(shares):
        summed = summed @ torch.from_numpy(each)
    out, per_group = summed.shape
    if groups == 1:
        return summed
    whole = torch.zeros(out, per_group * groups, dtype=torch.float64)
    each_out = out // groups
    for group in range(groups):
        rows = slice(group * each_out, (group + 1) * each_out)
        whole[rows, group * per_group : (group + 1) * per_group] = summed[rows]
    return whole


# -- edges ---------------------------------------------------------------------------------------------------


@torch.no_grad()
def standardised(effect: Tensor) -> Tensor:
    """Edges in units of what their two ends usually have, so that those of loud units do not win everywhere.

    Rows and columns are divided by the root of their mean squares in turn, ten times, after which columns
    have a mean square of 1, and rows one near it: within some per cent, where most edges are 0 a half.

    Args:
        effect: `(C, D)`.

    Returns:
        `(C, D)` float64; NaN where a unit has no edges.

    Source: Sinkhorn & Knopp 1967, of the squares.
    """
    z = effect.double().clone()
    silent = (z == 0).all(1, keepdim=True) | (z == 0).all(0, keepdim=True)
    alive = (~silent).double()
    for _ in range(_ROUNDS):
        for axis in (1, 0):
            count = alive.sum(axis, keepdim=True).clamp_min(1)
            z = z / (z.square().sum(axis, keepdim=True) / count).sqrt().clamp_min(1e-300)
    return torch.where(silent, torch.nan, z)


@torch.no_grad()
def edge_p_values(effect: Tensor, untrained: Tensor) -> Tensor:
    """How often a network with random weights has an edge that stands out as much.

        p = (1 + edges of the random network with |z| at least as large) / (1 + edges of the random network)

    Args:
        effect: `(C, D)`.
        untrained: `(c, D)`, edges of some units of the same layers with random weights.

    Returns:
        `(C, D)` float64; NaN where an end has no edges, or the random network none at all.
    """
    null = standardised(untrained).abs().flatten()
    null = null[null.isfinite()].sort().values
    z = standardised(effect).abs()
    if len(null) == 0:
        return torch.full_like(z, torch.nan)
    # Equal up to rounding counts as equal.
    as_large = len(null) - torch.searchsorted(null, (z * (1 - 1e-9)).nan_to_num(0.0))
    return torch.where(z.isnan(), torch.nan, (1.0 + as_large) / (1.0 + len(null)))


def agreement(first: Tensor, second: Tensor) -> tuple[float, float]:
    """Pearson's and Spearman's correlation of two sets of edges, over all edges that both have.

    Args:
        first, second: `(C, D)`.
    """
    from scipy.stats import pearsonr, spearmanr

    first, second = first.cpu(), second.cpu()
    both = (first.isfinite() & second.isfinite()).flatten()
    a, b = (each.flatten()[both].double().numpy() for each in (first, second))
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan"), float("nan")
    return float(pearsonr(a, b).statistic), float(spearmanr(a, b).statistic)


# -- concepts ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ConceptGraph:
    """What the units of each target concept are fed by, concept by concept, for one sign of the edges.

    Attributes:
        strength: `(S, T)`: sum of the edges of that sign from units of the one to units of the other.
        share: of all edges of that sign that end in the target concept, those of all sources together.
        chance: the share's mean over permuted labels of the sources.
        p: one-sided: shares at least as large among those, the true one counted in; NaN for a target without
            edges of that sign.
    """

    strength: Tensor
    share: Tensor
    chance: Tensor
    p: Tensor


@torch.no_grad()
def concept_graph(
    effect: Tensor, sources: Tensor, targets: Tensor, sign: int, *, draws: int = 1000, seed: int = 0
) -> ConceptGraph:
    """Which concepts build (or inhibit) which, beside permuted labels of the source units.

    All live units of the source layer take part in the permutation, those without a sure concept as well.

    Args:
        effect: `(C, D)`, live units only.
        sources: `(C,)` int64, number of the concept of each source, -1 without one.
        targets: `(D,)` likewise.
        sign: 1 for edges that excite, -1 for those that inhibit.
        draws: permutations.
        seed: of the permutations.
    """
    n_sources, n_targets = (int(labels.max()) + 1 if len(labels) else 0 for labels in (sources, targets))
    if n_sources < 1 or n_targets < 1:
        raise InputError("no unit of the one or the other layer has a concept")
    edges = (sign * effect.double()).clamp_min(0)
    into = torch.nn.functional.one_hot(targets + 1, n_targets + 1)[:, 1:].double()
    per_source = edges @ into  # (C, T)
    total = per_source.sum(0)

    def shares(labels: Tensor) -> Tensor:
        # The first row takes in those without a concept.
        summed = per_source.new_zeros(n_sources + 1, n_targets)
        return summed.index_add_(0, labels + 1, per_source)[1:] / total

    share = shares(sources)
    strength = share * total
    generator = torch.Generator().manual_seed(seed)
    as_large = torch.zeros_like(share)
    mean = torch.zeros_like(share)
    orders = [torch.randperm(len(sources), generator=generator) for _ in range(draws)]
    for order in torch.stack(orders).to(effect.device) if orders else ():
        drawn = shares(sources[order])
        as_large += drawn >= share * (1 - 1e-9)
        mean += drawn / draws
    p = (1.0 + as_large) / (1.0 + draws)
    return ConceptGraph(strength.nan_to_num(0.0), share, mean, torch.where(share.isnan(), torch.nan, p))


@dataclass(frozen=True)
class Union:
    """Two concepts that excite a unit and are hardly ever in the same of its images.

    Attributes:
        target: the unit.
        first, second: numbers of the concepts.
        one: of the target's top images, the share with exactly one of them.
        chance: that share in as many images by chance: the share among all images.
        p: chance of as many in random images (hypergeometric).
        shares: of the top images with the first, and the second.
        images: how many top images.
    """

    target: int
    first: int
    second: int
    one: float
    chance: float
    p: float
    shares: tuple[float, float]
    images: int


def fires(Q: Tensor, share: float = FIRES) -> Tensor:
    """On which images each unit fires: the share of the images where its activation is highest.

    Args:
        Q: `(N, C)`.
        share: of the images; at least one, and none where a unit does not rise above its minimum.
    """
    count = max(1, round(share * len(Q)))
    least = Q.topk(count, dim=0).values[-1]
    return Q.ge(least) & Q.gt(Q.amin(0))


@torch.no_grad()
def unions(
    target_q: Tensor, effect: Tensor, shown: Tensor, sources: Tensor, *, least: float = ONE_OF
) -> list[Union]:
    """Units that unite cases: their strongest images show exactly one of two concepts that excite them.

    For each target its top 1 % of the images (at least ten) are looked at, and pairs among the five concepts
    that excite it most. A case must be on a fifth of these images at least, or there is no union.

    Args:
        target_q: `(N, D)`, pooled activations of the targets.
        effect: `(C, D)`.
        shown: `(N, S)` bool: a source unit of that concept fires on the image.
        sources: `(C,)` int64, number of the concept of each source, -1 without one.
        least: share of the images with exactly one.

    Returns:
        the unions, target by target, the clearest first.
    """
    from scipy.stats import hypergeom

    # Few numbers of each target are looked at, one after the other.
    target_q, effect, shown, sources = target_q.cpu(), effect.cpu(), shown.cpu(), sources.cpu()
    n = len(target_q)
    count = min(n, max(LEAST_IMAGES, round(TOP * n)))
    n_sources = shown.shape[1]
    kept = sources >= 0
    excites = torch.zeros(n_sources, effect.shape[1], dtype=torch.float64)
    excites.index_add_(0, sources[kept], effect[kept].double())
    found = []
    for target in range(target_q.shape[1]):
        top = target_q[:, target].topk(count).indices
        if float(target_q[top[-1], target]) <= float(target_q[:, target].min()):
            continue  # it is silent on some of its top images
        best = excites[:, target].topk(min(5, n_sources))
        concepts = [int(c) for c, value in zip(best.indices, best.values, strict=True) if value > 0]
        mine = []
        for place, first in enumerate(concepts):
            for second in concepts[place + 1 :]:
                a, b = shown[:, first], shown[:, second]
                exactly = a ^ b
                hits = int(exactly[top].sum())
                shares = (float(a[top].double().mean()), float(b[top].double().mean()))
                if hits / count < least or min(shares) < _CASE:
                    continue
                p = float(hypergeom.sf(hits - 1, n, int(exactly.sum()), count))
                chance = float(exactly.double().mean())
                mine.append(Union(target, first, second, hits / count, chance, p, shares, count))
        found += sorted(mine, key=lambda each: (each.p, -each.one, each.first, each.second))
    return found
