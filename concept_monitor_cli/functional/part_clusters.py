"""Concepts that nobody named: parts of images that a layer sees alike (ACE, at the positions of its maps).

A part is a position of a layer's maps. Its vector of activations, at unit length, says what the layer makes
of it. Clusters of these are concepts that need no labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from concept_monitor_cli.errors import InputError

# Centres are found on so many positions at most, drawn at random; all positions are then assigned.
_SAMPLE = 20_000
_STARTS = 3
_ROWS = 65_536
# A cluster has more members than this.
_MEMBERS = 20


@dataclass(frozen=True)
class PartClusters:
    """Clusters of positions.

    Attributes:
        cluster: `(N, P)` int64, of each position; -1 where all units are 0.
        nearness: `(N, P)` float32, cosine to the centre of its cluster.
        share: `(N, M)` float64, of an image's positions that are in a cluster.
        kept: `M` numbers of the clusters with more than 20 members, that of the most images first.
    """

    cluster: Tensor
    nearness: Tensor
    share: Tensor
    kept: tuple[int, ...]


def part_clusters(maps: Tensor, count: int, *, seed: int = 0) -> PartClusters:
    """Cluster the positions of a layer's maps by the directions of their activations.

    Published are superpixels of three sizes, each shown to the network on grey (a pass for each), clustered
    by Euclidean distance. Here the positions of one pass are clustered by angle: a position has seen what is
    round it, too. The published rule on the images of a cluster (more than half as many as members, and so
    on) counts superpixels; of positions a thing covers several, and the rule would leave it out.

    Args:
        maps: `(N, C, ...)`.
        count: clusters.
        seed: of the sample and of the starts.

    Raises:
        InputError: fewer positions than clusters.

    Source: Ghorbani et al. 2019, "Towards automatic concept-based explanations", and its code.
    """
    from sklearn.cluster import KMeans

    flat = maps.flatten(2).movedim(1, 2)  # (N, P, C)
    n, positions, channels = flat.shape
    vectors = flat.reshape(-1, channels).float()
    lengths = vectors.norm(dim=1)
    usable = (lengths > 0) & lengths.isfinite()
    places = torch.nonzero(usable)[:, 0]
    if len(places) < count:
        raise InputError(
            f"{len(places):,} positions with any activation, and {count} clusters are asked for",
            hint="fewer clusters, or more images",
        )
    generator = torch.Generator().manual_seed(seed)
    some = torch.randperm(len(places), generator=generator)[:_SAMPLE].to(maps.device)
    drawn = places[some].sort().values
    sample = (vectors[drawn] / lengths[drawn, None]).cpu().numpy()
    fitted = KMeans(count, n_init=_STARTS, random_state=seed).fit(sample)
    centres = torch.from_numpy(fitted.cluster_centers_).float().to(maps.device)
    centres = torch.nn.functional.normalize(centres, dim=1)
    cluster = torch.full((len(vectors),), -1, dtype=torch.int64, device=maps.device)
    nearness = torch.full((len(vectors),), torch.nan, device=maps.device)
    for start in range(0, len(places), _ROWS):
        own = places[start : start + _ROWS]
        best = ((vectors[own] / lengths[own, None]) @ centres.T).max(1)
        cluster[own], nearness[own] = best.indices, best.values
    cluster, nearness = cluster.view(n, positions), nearness.view(n, positions)
    member = torch.nn.functional.one_hot(cluster + 1, count + 1)[..., 1:]
    counts = member.sum(1)
    images = (counts > 0).sum(0).tolist()
    large = (counts.sum(0) > _MEMBERS).nonzero()[:, 0].tolist()
    kept = tuple(sorted(large, key=lambda each: (-images[each], each)))
    return PartClusters(cluster, nearness, (counts.double() / positions)[:, list(kept)], kept)
