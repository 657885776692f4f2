"""Would other images have given a unit another concept? The bootstrap over groups of images, made cheap.

Only the best concepts of a unit compete, and what an image adds for a concept is computed once, as the unit
sees it in the whole set: its place among the unit's top images, the prior of the layer, centres and the order
of the images stay those of the whole set. A draw then weighs the images anew, which is a product of matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from concept_monitor_cli.functional._blocks import spans
from concept_monitor_cli.functional.groups import ImageGroups
from concept_monitor_cli.functional.similarity.activations import ConceptActivations
from concept_monitor_cli.functional.similarity.cosine import MIN_NORM
from concept_monitor_cli.functional.similarity.registry import (
    RankSimilarity,
    ValueSimilarity,
    reordered,
)
from concept_monitor_cli.functional.similarity.reorder import MIN_MEAN, POWER, SCALE_POWER, row_ranks

#: Concepts of a unit that compete, and the share of the draws that a concept set must make up.
CANDIDATES = 20
SHARE = 0.9
# Images by concepts whose activations are made in one go.
_VALUES = 1 << 23


@dataclass(frozen=True)
class Stability:
    """How often each candidate is first.

    Attributes:
        shares: `(C, S)` float64, on the host: the share of the draws in which each of a unit's candidates is
            first.
    """

    shares: Tensor

    @property
    def first(self) -> Tensor:
        """`(C,)`, the share of the draws in which the printed concept, the first candidate, stays first."""
        return self.shares[:, 0]

    def sets(self, share: float = SHARE) -> list[list[int]]:
        """For each unit the fewest candidates that make up that share of the draws, most frequent first."""
        order = torch.sort(self.shares, dim=1, descending=True, stable=True)
        needed = (order.values.cumsum(1) < share - 1e-9).sum(1) + 1
        return [
            candidates[:count]
            for candidates, count in zip(order.indices.tolist(), needed.tolist(), strict=True)
        ]


def shares_of_first(scores: Tensor) -> Tensor:
    """How often each candidate is first; of level ones the earlier candidate.

    Args:
        scores: `(R, C, S)`.

    Returns:
        `(C, S)` float64, on the host.
    """
    draws, units, candidates = scores.shape
    highest = (scores == scores.amax(2, keepdim=True)).int().argmax(2)  # the first of the highest
    found = torch.zeros(units, candidates, dtype=torch.float64)
    found.scatter_add_(1, highest.T.cpu(), torch.ones(units, draws, dtype=torch.float64))
    return found / draws


@torch.no_grad()
def rank_stability(
    similarity: RankSimilarity,
    activations: ConceptActivations,
    top: Tensor,
    fires: Tensor,
    size: int,
    candidates: Tensor,
    order: Tensor,
    counts: Tensor,
    spread: Tensor | None = None,
) -> Stability:
    """For similarities of ranks: every draw adds up what the top images that it has say.

    An image that is drawn twice takes two of the `size` places; in those of one that is not drawn, others
    move up. A unit that fires on fewer images than `size` in a draw is scaled to it.

    Args:
        similarity: of the registry.
        activations: `P`, from embeddings or a matrix.
        top: `(L, C)`, top images of every unit, one of each group, `L` beyond `size`, so that draws find
            enough.
        fires: `(C,)`, on how many groups each unit fires; images after them in `top` do not count.
        size: of the set of top images.
        candidates: `(C, S)`, concepts, the printed one first.
        order: `(C, S)`, what sorts them in the whole set.
        counts: `(R, N)`, how often each image is drawn.
        spread: `(C, S)`, units of evidence in which `order` is; 1 by default.
    """
    length, units = top.shape
    scores = torch.empty(len(counts), units, candidates.shape[1])
    place = (torch.arange(length, device=top.device) / size).clamp_max(1)[None, :, None]
    log_z = activations.log_normaliser(similarity.a)
    inside = torch.arange(length, device=top.device)[:, None] < fires.to(top.device)[None]  # (L, C)
    drawn = counts.to(top.device, torch.float32).T.contiguous()  # (N, R): the draws of an image lie together
    for part in spans(units, 64):
        images = top[:, part].T  # (u, L)
        values = _gathered(activations, images, candidates[part])  # (u, L, S)
        softmax = (similarity.a * values - log_z[images][:, :, None]).exp()
        terms = similarity.terms(softmax.double(), place.double())
        whole = terms[:, :size].mul(inside[:size, part].T[:, :, None]).sum(1)  # (u, S)
        scale = torch.ones_like(whole) if spread is None else spread[part].to(whole).clamp_min(1e-9)
        offset = whole - order[part].to(whole) * scale
        taken = drawn[images] * inside[:, part].T[:, :, None]  # (u, L, R)
        before = taken.cumsum(1).sub_(taken)
        weight = before.neg_().add_(size).clamp_min_(0).minimum(taken)
        filled = weight.sum(1)[:, None, :].double()  # (u, 1, R)
        total = torch.bmm(terms.transpose(1, 2), weight.double())  # (u, S, R)
        found = (total * (size / filled.clamp_min(1)) - offset[:, :, None]) / scale[:, :, None]
        scores[:, part] = found.permute(2, 0, 1).float().cpu()
    return Stability(shares_of_first(scores))


@torch.no_grad()
def value_stability(
    similarity: ValueSimilarity,
    activations: ConceptActivations,
    Q: Tensor,
    candidates: Tensor,
    counts: Tensor,
    groups: ImageGroups,
) -> Stability:
    """For similarities of values: weighted cosines, or weighted errors of the order.

    Args:
        similarity: of the registry.
        activations: `P`.
        Q: `(N, C)`.
        candidates: `(C, S)`, concepts, the printed one first.
        counts: `(R, N)`, how often each image is drawn.
        groups: of the images, drawn as a whole.
    """
    drawn = counts.to(Q.device, torch.float32)
    if similarity.name != "rank-reorder":
        cubed = similarity.name == "cos-cubed"
        return Stability(shares_of_first(_weighted_cosines(activations, Q, candidates, drawn, cubed=cubed)))
    scores = torch.empty(len(drawn), *candidates.shape, device=Q.device)
    times = drawn.T.double().contiguous()  # (N, R): the draws of an image lie together
    for each in reordered(Q, groups):
        for part in spans(len(each.units), 16):
            units = each.units[part]
            top = each.images[:, part], each.values[:, part]
            scores[:, units] = _reordered(activations, *top, candidates[units], times)
    return Stability(shares_of_first(scores))


def _weighted_cosines(
    activations: ConceptActivations, Q: Tensor, candidates: Tensor, drawn: Tensor, *, cubed: bool
) -> Tensor:
    """`(R, C, S)`; a unit's own size is the same for all concepts of a draw and left out."""
    concepts, column = torch.unique(candidates.to(Q.device), return_inverse=True)
    mean = Q.mean(0)
    size = (Q - mean if cubed else Q).abs().amax(0).clamp_min(torch.finfo(Q.dtype).tiny)
    norms = torch.cat(
        [
            (drawn @ _cosine_terms(activations, concepts[part], cubed=cubed) ** 2).sqrt()
            for part in spans(len(concepts), max(64, min(512, _VALUES // len(Q))))
        ],
        1,
    ).clamp_min(MIN_NORM if cubed else 1e-12)  # (R, concepts)
    result = torch.empty(len(drawn), *candidates.shape, device=Q.device)
    for part in spans(Q.shape[1], 16):
        own = column[part]  # (u, S)
        here, place = torch.unique(own, return_inverse=True)
        P = _cosine_terms(activations, concepts[here], cubed=cubed)
        q = ((Q[:, part] - mean[part]) / size[part]) ** 3 if cubed else Q[:, part] / size[part]
        products = P[:, place.flatten()].reshape(-1, *own.shape).mul_(q[:, :, None])  # (N, u, S)
        sums = (drawn @ products.flatten(1)).reshape(-1, *own.shape)
        result[:, part] = sums / norms[:, own.flatten()].reshape(-1, *own.shape)
    return result


def _cosine_terms(activations: ConceptActivations, concepts: Tensor, *, cubed: bool) -> Tensor:
    """What the cosine is of: `P` of some concepts, or the cube of its distance from the mean; `(N, n)`."""
    P = _columns(activations, concepts)
    return (P - P.mean(0)) ** 3 if cubed else P


def _reordered(
    activations: ConceptActivations, images: Tensor, values: Tensor, candidates: Tensor, times: Tensor
) -> Tensor:
    """`(R, u, S)`: minus the weighted error of each concept's order, as in `rank_reorder`.

    Of top images and activations `(n, u)`, concepts `(u, S)` and how often images are drawn, `(N, R)`.
    """
    images, order = images.T.sort(1)  # (u, n); of equal values of P the lower image ranks lower
    q = values.T.gather(1, order).double()[:, None]  # (u, 1, n)
    shown = _gathered(activations, images, candidates.to(images.device)).transpose(1, 2)  # (u, S, n)
    rank = row_ranks(shown.flatten(0, 1), _VALUES // shown.shape[2]).view(shown.shape)
    rising = q.sort(2).values
    span = (rising[:, :, -1:] - rising[:, :, :1]).clamp_min(1e-30)
    error = rising.expand(shown.shape).gather(2, rank.long()).sub_(q).div_(span).abs_().pow_(POWER)
    weight = times[images]  # (u, n, R)
    total = weight.sum(1, keepdim=True).clamp_min(1)
    mean = (torch.bmm(shown.double(), weight) / total).clamp_min(MIN_MEAN)
    found: Tensor = -torch.bmm(error, weight) / total / mean**SCALE_POWER  # (u, S, R)
    return found.permute(2, 0, 1).float()


def _columns(activations: ConceptActivations, concepts: Tensor) -> Tensor:
    """`P` of some concepts, `(N, n)`."""
    if activations.embeddings is not None:
        images, texts = activations.embeddings
        return images @ texts[concepts.to(texts.device)].T
    return activations.block(slice(0, activations.n_concepts))[:, concepts]


def _gathered(activations: ConceptActivations, images: Tensor, concepts: Tensor) -> Tensor:
    """`P` of some images and concepts of each unit: `(u, L)`, `(u, S)` -> `(u, L, S)`."""
    if activations.embeddings is not None:
        shown, texts = activations.embeddings
        return torch.bmm(shown[images], texts[concepts.to(texts.device)].transpose(1, 2))
    whole = activations.block(slice(0, activations.n_concepts))
    return torch.stack([whole[own][:, words] for own, words in zip(images, concepts, strict=True)])


def concept_sets(stability: Stability, candidates: Tensor, names: Sequence[str]) -> list[str]:
    """The concepts that make up nine tenths of a unit's draws, `; ` between them."""
    return [
        "; ".join(names[int(own[place])] for place in places)
        for own, places in zip(candidates.cpu(), stability.sets(), strict=True)
    ]
