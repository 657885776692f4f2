"""Concept vectors: where in a layer a concept lies, whether it can be read off, what classes make of it.

`Q` is `N x C`, the pooled activations; `L` is `N x M`: 1 where a concept is on an image, 0 where it is not,
NaN where nobody looked: such an image counts neither way. `own` is `N x C`: the gradient of the score of an
image's own class with respect to a shift of the layer's outputs.

Sources: Kim et al. 2018 (TCAV); Schmalwasser et al. 2025 (FastCAV: the difference of means); Pahde et al.
2022 (vectors by regression on the labels instead of the reverse).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.ranks import average_ranks
from concept_monitor_cli.functional.set_means import (
    COUNTED_BELOW,
    DRAWS,
    MeanTest,
    check_images,
    counted_p_values,
    mean_test,
    random_sets,
    too_uneven,
)

Kind = Literal["fast", "ridge", "sgd"]

#: A concept is decodable from the epoch from which this share of the last `auc - 1/2` is there to stay.
DECODABLE_SHARE = 0.9
# Weight of squared coefficients, as a share of the mean variance of a unit.
_RIDGE = 0.01
# Gradients that differ by less than this share of their size are the same up to rounding.
_SAME = 1e-4


# -- vectors -------------------------------------------------------------------------------------------------


@torch.no_grad()
def concept_vectors(Q: Tensor, L: Tensor, kind: Kind = "fast", *, seed: int = 0) -> Tensor:
    """A direction for every concept.

        fast    v_m = mean of q over the images with the concept - mean of q over all images
        ridge   v_m = (Qc'Qc + a I)^-1 Qc' (l_m - mean l_m),   a = 0.01 trace(Qc'Qc) / C
        sgd     v_m = the normal of a linear classifier, fitted by stochastic gradient descent to the images
                with the concept and as many random others (as published, for comparison)

    `fast` and `ridge` take all concepts at once. The kinds point in different directions (`ridge` undoes the
    correlations between units), so vectors of different kinds cannot be compared.

    Args:
        Q: `(N, C)`.
        L: `(N, M)`: 1, 0 or NaN.
        kind: see above.
        seed: of the random others and the order of `sgd`.

    Returns:
        `(C, M)` float64; NaN for a concept that is on no image or on all of them.

    Raises:
        InputError: shapes that do not belong together.

    Example:
        >>> Q = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0], [0.0, 7.0]])
        >>> concept_vectors(Q, torch.tensor([[1.0], [1.0], [0.0], [0.0]]))[:, 0].tolist()
        [1.0, -3.0]
    """
    check_images(Q, L)
    Q, L = Q.double(), L.double()
    known = ~L.isnan()
    there = L.nan_to_num(0.0)
    count, total = there.sum(0), known.sum(0)
    centred = Q - Q.mean(0)
    if kind == "sgd":
        found = _by_descent(centred, L, seed)
    elif kind == "ridge":
        gram = centred.T @ centred
        strength = _RIDGE * gram.diagonal().sum() / gram.shape[0]
        if not bool(strength > 0):
            return torch.full((Q.shape[1], L.shape[1]), torch.nan, dtype=torch.float64, device=Q.device)
        target = torch.where(known, there - count / total, 0.0)
        ridge = gram + strength * torch.eye(gram.shape[0], dtype=gram.dtype, device=gram.device)
        found = torch.linalg.solve(ridge, centred.T @ target)
    else:
        found = centred.T @ there / count - centred.T @ known.double() / total
    return torch.where((count > 0) & (count < total), found, torch.nan)


def _by_descent(Q: Tensor, L: Tensor, seed: int) -> Tensor:
    """Published settings: hinge loss, weight .01, at most 1,000 passes, a third held out."""
    from sklearn.linear_model import SGDClassifier

    generator = np.random.default_rng(seed)
    values, labels = Q.cpu().numpy(), L.cpu().numpy()
    columns = []
    for m in range(labels.shape[1]):
        there, not_there = np.flatnonzero(labels[:, m] == 1), np.flatnonzero(labels[:, m] == 0)
        others = generator.permutation(not_there)[: len(there)]
        rows = generator.permutation(np.concatenate([there, others]))
        rows = rows[: max(2, math.ceil(len(rows) * 2 / 3))]
        if len({*labels[rows, m].tolist()}) < 2:
            columns.append(np.full(values.shape[1], np.nan))
            continue
        classifier = SGDClassifier(alpha=0.01, max_iter=1000, tol=1e-3, random_state=seed)
        columns.append(classifier.fit(values[rows], labels[rows, m]).coef_[0])
    return torch.from_numpy(np.stack(columns, 1)).to(Q.device)


@torch.no_grad()
def cosines(V: Tensor, W: Tensor) -> Tensor:
    """The cosine of each column of `V` `(C, M)` and the same column of `W`; NaN for a column of zeros."""
    norms = V.norm(dim=0) * W.norm(dim=0)
    return torch.where(norms > 0, (V * W).sum(0) / norms, torch.nan)


# -- can it be read off? -------------------------------------------------------------------------------------


@torch.no_grad()
def decodability(scores: Tensor, L: Tensor, *, draws: int = DRAWS, seed: int = 0) -> tuple[Tensor, Tensor]:
    """How well each concept's score tells the images with it from those without, and how likely by chance.

    `auc = P(score on an image with the concept > on one without)`, ties counting half, from the ranks R:
    `(R'l - n(n+1)/2) / (n (N - n))`. Its p-value is that of the mean rank (`mean_test`), which is the
    Mann-Whitney test.

    Args:
        scores: `(N, M)`, on images that had no part in the vectors.
        L: `(N, M)`: 1, 0 or NaN.
        draws, seed: see `mean_test`.

    Returns:
        auc and p, `(M,)` float64; NaN for a concept that is on no image, or all, or has no scores.
    """
    check_images(scores, L)
    known = ~(L.isnan() | scores.isnan())
    L = torch.where(known, L.double(), torch.nan)
    ranks = average_ranks(torch.where(known, scores.double(), torch.nan))
    ranks = torch.where(known, ranks, 0.0)
    total, there = known.sum(0).double(), L.nan_to_num(0.0)
    count = there.sum(0)
    auc = ((ranks * there).sum(0) - count * (count + 1) / 2) / (count * (total - count))
    mean = (total + 1) / 2
    variance, fourth = (torch.where(known, (ranks - mean) ** power, 0.0).sum(0) / total for power in (2, 4))
    difference = (ranks * there).sum(0) / count - mean
    spread = (variance * (total - count) / ((total - 1) * count)).sqrt()
    p = torch.erfc((difference / spread).abs() / math.sqrt(2))
    few = torch.minimum(count, total - count)
    tied = variance < (total**2 - 1) / 12 * (1 - 1e-9)
    kind = torch.where(tied, torch.where(variance > 0, 2.0, 0.0), 1.0)
    kind = torch.where((few > 0) & ((few < COUNTED_BELOW) | too_uneven(few, variance, fourth)), kind, 0.0)
    sizes, smaller, with_it, kinds = torch.stack([total, few, count, kind]).tolist()
    sides = [(int(one), other > one) for one, other in zip(smaller, with_it, strict=True)]
    # Without ties the ranks are 1 to N, so concepts on as many images share their random sets.
    for size in sorted({one for one, each in zip(sizes, kinds, strict=True) if each == 1}):
        columns = [column for column, one in enumerate(sizes) if one == size and kinds[column] == 1]
        numbers = torch.arange(1, int(size) + 1, dtype=torch.float64, device=scores.device)[:, None]
        own_sides = [sides[column] for column in columns]
        p[columns] = counted_p_values(numbers, difference[None, columns], own_sides, draws, seed)[0]
    for column in [column for column, each in enumerate(kinds) if each == 2]:
        one = slice(column, column + 1)
        own = ranks[known[:, column], one]
        p[one] = counted_p_values(own, difference[None, one], sides[one], draws, seed)[0]
    asked = (count > 0) & (count < total)
    p = torch.where(variance > 0, p, 1.0)
    return torch.where(asked, auc, torch.nan), torch.where(asked, p, torch.nan)


def decodable_from(auc: Tensor, significant: Tensor, share: float = DECODABLE_SHARE) -> Tensor:
    """The first of `T` epochs from which a concept can be read off as well as at the end, to stay.

    Args:
        auc: `(T, M)`, over time.
        significant: `(T, M)` bool.
        share: of the last `auc - 1/2`.

    Returns:
        `(M,)` int64, the place of the epoch; -1 where the concept cannot be read off at the last one.

    Example:
        >>> auc = torch.tensor([[0.5], [0.79], [0.8]])
        >>> decodable_from(auc, auc > 0.6).tolist()
        [1]
    """
    gain = auc - 0.5
    holds = (gain >= share * gain[-1]) & significant & (gain > 0)
    staying = holds.flip(0).long().cumprod(0).sum(0)
    return torch.where(staying > 0, len(auc) - staying, -1)


# -- what classes make of it ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClassGradients:
    """The gradients of a layer by class.

    Attributes:
        own: `(N, C)` float64: of the score of each image's class.
        classes: `(N,)` int64: which class that is.
        mean: `(K, C)` float64: the mean over the class's images; NaN for a class without images.
        same: `(K,)` bool: the gradient is the same for all images of the class, as it is where only pooling
            and a linear head follow. A sign share over them is 0 or 1 whatever the direction.
    """

    own: Tensor
    classes: Tensor
    mean: Tensor
    same: Tensor

    @classmethod
    def of(cls, own: Tensor, classes: Tensor, n_classes: int) -> ClassGradients:
        """From the gradient of each image's class.

        Raises:
            InputError: shapes that do not belong together.
        """
        if own.ndim != 2 or classes.shape != own.shape[:1] or len(own) == 0:
            raise InputError(
                f"gradients {tuple(own.shape)} and classes {tuple(classes.shape)}: need (N, C) and (N,)"
            )
        own = own.double()
        member = torch.nn.functional.one_hot(classes, n_classes).double()
        mean = member.T @ own / member.sum(0)[:, None]
        away = (own - mean[classes]).abs().amax(1)
        none = own.new_zeros(n_classes)
        furthest = none.scatter_reduce(0, classes, away, "amax")
        size = none.scatter_reduce(0, classes, own.abs().amax(1), "amax")
        return cls(own, classes, mean, furthest <= _SAME * size)


@torch.no_grad()
def sign_shares(gradients: ClassGradients, V: Tensor) -> Tensor:
    """TCAV: the share of a class's images whose score rises in a concept's direction, `(K, M)`.

    NaN for a class without images, and a concept without a direction.

    Args:
        gradients: of the layer.
        V: `(C, M)`.

    Source: Kim et al. 2018, equation 2.
    """
    member = torch.nn.functional.one_hot(gradients.classes, len(gradients.mean)).double()
    rises = (gradients.own @ V.double() > 0).double()
    found = member.T @ rises / member.sum(0)[:, None]
    return torch.where(V.isnan().any(0), torch.nan, found)


@torch.no_grad()
def chance_of_shares(
    gradients: ClassGradients,
    Q: Tensor,
    shares: Tensor,
    size: int,
    kind: Kind,
    *,
    draws: int = 100,
    seed: int = 0,
) -> Tensor:
    """How often the sign share of a random set of images is as far from 1/2, `(K, M)`.

    Args:
        gradients: of the layer.
        Q: `(N, C)`.
        shares: `(K, M)` of `sign_shares`.
        size: images in a random set. A direction's length has no part in the sign, so that the number hardly
            matters.
        kind: of the vectors.
        draws: random sets.
        seed: of these.
    """
    L = torch.zeros(len(Q), draws)
    L[random_sets(len(Q), size, draws, seed=seed).T, torch.arange(draws)] = 1.0
    L = L.to(Q.device)
    away = (sign_shares(gradients, concept_vectors(Q, L, kind, seed=seed)) - 0.5).abs()  # (K, draws)
    far = (away[:, :, None] >= (shares - 0.5).abs()[:, None, :] - 1e-12).sum(1)
    found = (1.0 + far) / (1.0 + draws)
    return torch.where(shares.isnan(), torch.nan, found)


@torch.no_grad()
def class_effects(gradients: ClassGradients, Q: Tensor, L: Tensor, *, seed: int = 0) -> MeanTest:
    """What a concept's being there does to the score of each class, to first order, `(K, M)`.

        effect[k, m] = gbar_k . (mean of q over the images with m - mean of q over all images)

    with `gbar_k` the mean gradient over the class's images. It is the mean of the numbers `gbar_k . q_i` over
    the concept's images, less that of all, so `mean_test` says what random images give.

    Args:
        gradients: of the layer.
        Q: `(N, C)`.
        L: `(N, M)`: 1, 0 or NaN.
        seed: see `mean_test`.
    """
    known = ~gradients.mean.isnan().any(1)
    found = mean_test(Q.double() @ gradients.mean[known].T, L, seed=seed)
    nothing = gradients.mean.new_full((len(known), L.shape[1]), torch.nan)
    whole = [nothing.clone() for _ in range(3)]
    for out, each in zip(whole, (found.difference, found.spread, found.p), strict=True):
        out[known] = each
    return MeanTest(*whole)


@torch.no_grad()
def unit_effects(gradients: ClassGradients, Q: Tensor, *, seed: int = 0) -> MeanTest:
    """By how much each unit moves the score of a class on the class's own images, to first order, `(K, C)`.

        effect[k, c] = gbar_k[c] (mean of q_c over the images of class k - mean of q_c over all images)

    which is gradient times activation, with the mean image as that on which a unit says nothing. The spread
    is what random images in the place of the class's give; p says whether the unit tells the class's images
    from others at all.

    Args:
        gradients: of the layer.
        Q: `(N, C)`.
        seed: see `mean_test`.
    """
    known = ~gradients.mean.isnan().any(1)
    member = torch.nn.functional.one_hot(gradients.classes, len(known)).double()
    found = mean_test(Q.double(), member[:, known], seed=seed)  # (C, classes)
    slope = gradients.mean[known]
    nothing = gradients.mean.new_full((len(known), Q.shape[1]), torch.nan)
    whole = [nothing.clone() for _ in range(3)]
    for out, each in zip(
        whole, (slope * found.difference.T, slope.abs() * found.spread.T, found.p.T), strict=True
    ):
        out[known] = each
    return MeanTest(*whole)
