"""Units that respond to several things: into how many groups do their top images fall?

The top images of a unit are clustered in the image space of an encoder, by k-means for each number of groups,
always from the same starts. A division is as clear as its least clear group: the lowest mean silhouette of
its groups. Images that merely fill up a list belong to no clear group, so they do not make a second meaning.

How clear a division must be is not a constant: it depends on the encoder and on the images. Any set of images
can be divided, and a set around one meaning divides a little, too. So the same is asked of sets of the same
size that have at most one meaning: an image drawn at random with its nearest neighbours, filled up with
images drawn at random, for several shares of neighbours, from none to all. The largest of these p-values
counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional._blocks import run_blocks, spans
from concept_monitor_cli.functional.calibration import (
    FDR,
    benjamini_hochberg,
    p_values,
    random_top_images,
)
from concept_monitor_cli.functional.embedding import SAME_DIRECTION
from concept_monitor_cli.functional.similarity.activations import ConceptActivations, as_activations

#: Top images of a unit that are grouped.
TOP_IMAGES = 20
#: Smaller groups than this share of the images are strays and no meaning; so there are five groups at most.
LEAST_SHARE = 0.2
#: Images that are neighbours of each other, as a share of a set with at most one meaning.
NEIGHBOUR_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
# Lloyd's iterations; a few do for twenty points.
_ITERATIONS = 30
# Distances that one block of units holds.
_BLOCK = 1 << 19
# The distances of all pairs of so many images are taken once: 32 MB.
_KEPT = 2048
# Cosines of some images with all that are held at a time.
_COSINES = 1 << 24
#: Sets of each kind that a unit is compared with. Polysemantic units may be few: with 10,000, one unit of 500
#: that is clearer than all sets is found at a false discovery rate of 5 %.
DRAWS = 10_000


@torch.no_grad()
def squared_distances(embeddings: Tensor) -> Tensor:
    """Between all images of every unit, directions only.

    Args:
        embeddings: `(B, n, D)`; the rows' lengths do not matter.

    Returns:
        `(B, n, n)` float64, `2 - 2 cos`; exactly 0 between directions that differ by rounding alone.
    """
    if embeddings.ndim != 3:
        raise InputError(f"embeddings of shape {tuple(embeddings.shape)}: need (units, images, dimensions)")
    rows = embeddings.to(torch.float64, copy=True)
    rows /= torch.linalg.vector_norm(rows, dim=2, keepdim=True)
    square: Tensor = (rows @ rows.transpose(1, 2)).mul_(-2).add_(2)
    torch.nn.functional.threshold(square, SAME_DIRECTION, 0.0, inplace=True)
    square.diagonal(dim1=1, dim2=2).zero_()
    return square


def _chosen(square: Tensor, k: int) -> Tensor:
    """The points that first groups are made around, each the one that lowers the sum of squares most.

    Returns:
        Distances of all points to them, `(B, n, k)`; the first of them are those of fewer groups.
    """
    units, n, _ = square.shape
    row = torch.arange(units, device=square.device)
    near = torch.full((units, 1, n), torch.inf, dtype=square.dtype, device=square.device)
    chosen = []
    for _ in range(k):
        best = torch.minimum(square, near).sum(2).argmin(1)
        chosen.append(square[row, best])
        near = torch.minimum(near, chosen[-1][:, None])
    return torch.stack(chosen, 2)


@torch.no_grad()
def kmeans(square: Tensor, k: int) -> Tensor:
    """k-means of several sets of points at once, from squared distances alone; without any chance.

    The distance of a point to a group's mean needs no coordinates:

        |x - mean(G)|^2 = mean_{j in G} |x - x_j|^2 - mean_{i, j in G} |x_i - x_j|^2 / 2

    The first groups are those of `k` points chosen greedily, each the one that lowers the sum of squares
    most; then Lloyd's algorithm.

    Args:
        square: `(B, n, n)`.
        k: how many groups, from 1 to `n`.

    Returns:
        `(B, n)` int64, numbers of groups from 0; a group may come out empty.
    """
    if square.ndim != 3 or square.shape[1] != square.shape[2] or not 1 <= k <= square.shape[1]:
        raise InputError(f"{k} groups from squared distances of shape {tuple(square.shape)}")
    return _settled(square, _chosen(square, k).argmin(2), k)


def _settled(square: Tensor, labels: Tensor, k: int) -> Tensor:
    """Lloyd's algorithm from some groups `(B, n)` on; what has settled is not looked at again."""
    moving = torch.arange(len(labels), device=labels.device)
    part, now = square, labels
    found = labels.clone()
    for _ in range(_ITERATIONS):
        member = torch.nn.functional.one_hot(now, k).to(square.dtype)
        size = member.sum(1)
        to_group = part @ member / size.clamp_min(1)[:, None]
        within = (member * to_group).sum(1) / size.clamp_min(1) / 2
        distance = (to_group - within[:, None]).masked_fill((size == 0)[:, None], torch.inf)
        after = distance.argmin(2)
        changed = (after != now).any(1).nonzero()[:, 0]
        if not len(changed):
            break
        moving, part, now = moving[changed], part[changed], after[changed]
        found[moving] = now
    return found


@torch.no_grad()
def group_silhouettes(square: Tensor, labels: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Mean silhouette of each group, and how many points it has.

        s(i) = (b - a) / max(a, b),   a: mean distance to the others of i's group,
                                      b: to the group that is nearest without being i's; alone in a group: 0

    Args:
        square: `(B, n, n)`, squared distances.
        labels: `(B, n)`, from `kmeans`.
        k: how many groups.

    Returns:
        `(B, k)` float64, NaN for an empty group, and `(B, k)` int64.

    Source: Rousseeuw 1987; `sklearn.metrics.silhouette_samples`.
    """
    return _silhouettes(square.sqrt(), labels, k)


def _silhouettes(distance: Tensor, labels: Tensor, k: int) -> tuple[Tensor, Tensor]:
    member = torch.nn.functional.one_hot(labels, k).to(distance.dtype)
    size = member.sum(1)
    total = distance @ member
    own_size = size.gather(1, labels)
    a = total.gather(2, labels[:, :, None])[:, :, 0] / (own_size - 1).clamp_min(1)
    mean = (total / size.clamp_min(1)[:, None]).masked_fill((size == 0)[:, None], torch.inf)
    b = mean.scatter(2, labels[:, :, None], torch.inf).amin(2)
    larger = torch.maximum(a, b)
    # Images that are all the same are one group, however they are divided.
    s = torch.where((own_size > 1) & (larger > 0) & larger.isfinite(), (b - a) / larger, 0.0)
    means = (s[:, None] @ member)[:, 0] / size
    return means, size.long()


def most_groups(n_images: int) -> int:
    """The largest number of groups that is asked about."""
    return max(1, n_images // _least(n_images))


def _least(n_images: int) -> int:
    return max(2, math.ceil(LEAST_SHARE * n_images - 1e-9))


@torch.no_grad()
def division_clarity(embeddings: Tensor, sets: Tensor) -> Tensor:
    """How clear each division is: the lowest mean silhouette of its groups.

    Args:
        embeddings: `(N, D)`, all images; the rows' lengths do not matter.
        sets: `(B, n)` int64, the top images of each unit.

    Returns:
        `(B, most_groups(n) - 1)` float64, for 2, 3, ... groups; -1 where a group is too small
        (`LEAST_SHARE`).
    """
    units, n = sets.shape
    numbers = range(2, most_groups(n) + 1)
    found = torch.full((units, len(numbers)), -1.0, dtype=torch.float64, device=embeddings.device)

    pairs = squared_distances(embeddings[None])[0] if len(embeddings) <= _KEPT else None

    def divide(part: slice) -> None:
        own = sets[part]
        if pairs is None:
            square = squared_distances(embeddings[own])
        else:
            square = pairs.take(own[:, :, None] * len(pairs) + own[:, None])
        chosen, distance = _chosen(square, numbers.stop - 1), square.sqrt()
        for column, k in enumerate(numbers):
            labels = _settled(square, chosen[:, :, :k].argmin(2), k)
            silhouettes, sizes = _silhouettes(distance, labels, k)
            clear = silhouettes.nan_to_num(-1.0).amin(1)
            found[part, column] = torch.where(sizes.amin(1) >= _least(n), clear, -1.0)

    run_blocks(divide, spans(units, _BLOCK // (n * n)), embeddings.device)
    return found


@torch.no_grad()
def single_meanings(embeddings: Tensor, size: int, *, draws: int = DRAWS, seed: int = 0) -> Tensor:
    """Sets of images with at most one meaning: neighbours of a random image, filled up with random ones.

    Args:
        embeddings: `(N, D)`, unit rows: all images.
        size: of each set.
        draws: sets for each of `NEIGHBOUR_SHARES`, all around the same images.
        seed: which ones; the first sets do not depend on how many are drawn.

    Returns:
        `(len(NEIGHBOUR_SHARES), draws, size)` int64; in a set every image once, the neighbours first.

    Raises:
        InputError: fewer than `2 * size` images.
    """
    n = len(embeddings)
    if n < 2 * size or size < 1:
        raise InputError(f"sets of {size} images out of {n} say nothing", hint="take at least twice as many")
    # Twice as many as are needed: as many as there are neighbours may have to be passed over.
    random = random_top_images(n, 2 * size, draws, seed=seed, device=embeddings.device).T
    centre = random[:, 0]
    neighbours = torch.empty(draws, size, dtype=torch.int64, device=embeddings.device)
    for part in spans(draws, max(1, _COSINES // n)):
        cosine = embeddings[centre[part]] @ embeddings.T
        cosine.scatter_(1, centre[part, None], torch.inf)  # nearest to itself, also among copies of it
        neighbours[part] = cosine.topk(size, dim=1).indices
    kinds = []
    for share in NEIGHBOUR_SHARES:
        near = neighbours[:, : round(share * size)]
        taken = (random[:, :, None] == near[:, None]).any(2)
        others = random.gather(1, taken.long().argsort(dim=1, stable=True))
        kinds.append(torch.cat([near, others], 1)[:, :size])
    return torch.stack(kinds)


@torch.no_grad()
def single_meaning_clarity(embeddings: Tensor, size: int, *, draws: int = DRAWS, seed: int = 0) -> Tensor:
    """How clear the clearest division is of sets with at most one meaning: the same for all units and layers.

    Args:
        embeddings: `(N, D)`, unit rows: all images.
        size: of the sets.
        draws: sets for each of `NEIGHBOUR_SHARES`.
        seed: which ones.

    Returns:
        `(len(NEIGHBOUR_SHARES), draws)` float64, on the host.

    Raises:
        InputError: fewer than `2 * size` images.
    """
    sets = single_meanings(embeddings, size, draws=draws, seed=seed)
    return division_clarity(embeddings, sets.flatten(0, 1)).amax(1).view(sets.shape[:2]).cpu()


@dataclass(frozen=True)
class Groups:
    """Into how many groups the top images of each unit fall; on the host.

    Attributes:
        count: `(C,)` int64, 1 or more; 0 for units that take no part.
        clarity: `(C,)` float64, of the least clear group of that division (of the clearest division for a
            unit of one group); NaN for units that take no part.
        p_values: `(C,)` float64, of falling into more than one.
        labels: `(C, n)` int64, the group of each top image, from the largest group on; -1: takes no part.
    """

    count: Tensor
    clarity: Tensor
    p_values: Tensor
    labels: Tensor


@torch.no_grad()
def image_groups(embeddings: Tensor, top: Tensor, null: Tensor, *, fdr: float = FDR) -> Groups:
    """Find units whose top images fall into several groups.

    A unit has more than one group where its clearest division is clearer than that of sets with at most one
    meaning, controlled over the layer (Benjamini-Hochberg). It has then the largest number of groups of which
    every one is as clear as that.

    Args:
        embeddings: `(N, D)`, unit rows: all images in the encoder's space.
        top: `(n, C)` int64, the top images of each unit; a column of -1 for a unit that takes no part.
        null: `(kinds, draws)`, from `single_meaning_clarity` for sets of `n`.
        fdr: share of the calls that is expected to be wrong.
    """
    n, units = top.shape
    alive = (top >= 0).all(0)
    count = torch.zeros(units, dtype=torch.int64)
    clarity = torch.full((units,), torch.nan, dtype=torch.float64)
    p = torch.full((units,), torch.nan, dtype=torch.float64)
    labels = torch.full((units, n), -1, dtype=torch.int64)
    if most_groups(n) < 2:
        raise InputError(f"{n} images do not fall into groups", hint="look at 4 or more of each unit")
    if not bool(alive.any()):
        return Groups(count, clarity, p, labels)
    sets = top.T[alive]
    own = division_clarity(embeddings, sets).cpu()
    chance = torch.zeros_like(own)
    for kind in null:
        chance = torch.maximum(chance, p_values(own.flatten(), kind).view_as(own))
    best = chance.amin(1)
    several = benjamini_hochberg(best, fdr)
    clear = several[:, None] & (chance <= best[several].amax()) if bool(several.any()) else chance < 0
    numbers = torch.arange(2, own.shape[1] + 2)
    found = torch.where(clear, numbers, 1).amax(1)
    column = torch.where(several, found - 2, own.argmax(1))
    count[alive.cpu()] = found
    clarity[alive.cpu()] = own.gather(1, column[:, None])[:, 0]
    p[alive.cpu()] = best
    labels[alive.cpu()] = _labels(embeddings, sets, found)
    return Groups(count, clarity, p, labels)


@torch.no_grad()
def several_by_chance(null: Tensor, units: int, *, fdr: float = FDR) -> float:
    """The share of a layer's units that `image_groups` calls where all of them have at most one meaning.

    Sets of one meaning stand for the units, as many at a time as the layer has: the mean over all such layers
    that the null has, each of sets of one kind.

    Args:
        null: `(kinds, draws)`, as for `image_groups`.
        units: of the layer that take part.
        fdr: as for `image_groups`.

    Returns:
        From 0 to 1; NaN for a layer without a unit.
    """
    if units < 1:
        return math.nan
    null = null.cpu()
    size = min(units, null.shape[1])
    called = []
    for kind in null:
        p = torch.stack([p_values(kind, other) for other in null]).amax(0)
        called.append(benjamini_hochberg(p[: len(p) // size * size].view(-1, size), fdr))
    return float(torch.cat(called).double().mean())


def _labels(embeddings: Tensor, sets: Tensor, count: Tensor) -> Tensor:
    """The groups of some units, the largest first; of equals the one with the first image first."""
    labels = torch.zeros(sets.shape, dtype=torch.int64)
    for k in sorted(set(count.tolist())):
        rows = (count == k).nonzero()[:, 0]
        for part in spans(len(rows), _BLOCK // sets.shape[1] ** 2):
            which = rows[part]
            found = kmeans(squared_distances(embeddings[sets[which.to(sets.device)]]), k).cpu()
            labels[which] = _by_size(found, k)
    return labels


def _by_size(labels: Tensor, k: int) -> Tensor:
    member = torch.nn.functional.one_hot(labels, k)
    n = labels.shape[1]
    first = member.argmax(1)
    order = (member.sum(1) * (n + 1) - first).argsort(1, descending=True)
    return order.argsort(1).gather(1, labels)


@torch.no_grad()
def name_groups(P: Tensor | ConceptActivations, images: Tensor, *, a: float = 10.0) -> Tensor:
    """How well each concept names a group of images.

        score[g, m] = mean_{i in g} log s[i, m] - log mean_i s[i, m],    s = softmax(a P) over the concepts

    the evidence of the group's images for the concept, over what all images say of it: as in WPMI, with the
    probing images in the place of the layer's units.

    Args:
        P: concept activations `(N, M)`, or `ConceptActivations`.
        images: `(G, n)` int64, the images of each group; -1 for none.
        a: sharpness of the softmax, as in SoftWPMI.

    Returns:
        `(G, M)` float32; NaN for a group without images.
    """
    activations = as_activations(P)
    device, m = activations.device, activations.n_concepts
    there = (images >= 0).to(device)
    rows = images.clamp_min(0).to(device)
    size = there.sum(1)
    normaliser = activations.log_normaliser(a)
    used, place = torch.unique(rows, return_inverse=True)
    scores = torch.empty(len(images), m, device=device)
    # One row per group: how much each of the images that occur anywhere counts for it.
    weight = torch.zeros(len(images), len(used), device=device)
    weight.scatter_add_(1, place.view_as(rows), there.float())
    weight /= size[:, None]
    offset, chosen = weight @ normaliser[used], activations.select(used)
    for part in spans(m, max(1, _BLOCK // activations.n_images)):
        prior = activations.block(part).mul_(a).sub_(normaliser[:, None]).exp_().mean(0).log()
        evidence = a * (weight @ chosen.block(part)) - offset[:, None]
        scores[:, part] = evidence - prior
    return torch.where(size[:, None] > 0, scores, torch.nan)
