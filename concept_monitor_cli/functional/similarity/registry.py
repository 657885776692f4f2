"""The one table of similarities: what each needs, and its constants.

Similarities are of two kinds. Those of *ranks* see only which images excite a unit most: evidence over those
images, minus a prior over the layer. Those of *values* compare the activations of all images.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.firing import firing, set_sizes
from concept_monitor_cli.functional.groups import ImageGroups
from concept_monitor_cli.functional.similarity import pmi
from concept_monitor_cli.functional.similarity.activations import ConceptActivations
from concept_monitor_cli.functional.similarity.cosine import best_cos, best_cos_cubed, cos, cos_cubed
from concept_monitor_cli.functional.similarity.pmi import Evidence
from concept_monitor_cli.functional.similarity.reorder import TOP_FRACTION, Reordered, rank_reorder_of
from concept_monitor_cli.functional.similarity.reorder_chance import OnSets, RandomSets, rank_reorder_of_sets
from concept_monitor_cli.functional.topk import top_images_of_groups

#: From this many images on, the published number of top images counts; of fewer a number in proportion,
#: but at least `LEAST_TOP_K`.
FULL_SET, LEAST_TOP_K = 3000, 10
#: Rank reorder looks at a share of the images, but at no fewer than these: the order of ten images is a
#: matter of luck (docs/calibration.md).
LEAST_REORDERED = 20
#: Errors below this are none.
SMALLEST_ERROR = 1e-3


@dataclass(frozen=True)
class RankSimilarity:
    """A similarity of the top images alone.

    Attributes:
        name: as on the command line.
        evidence: `(P, top images, a=...) -> E`.
        terms: `(s, place) -> ` what an image adds to the evidence, from its softmax and its rank as a share
            of the number of images (1 from the last one on).
        top_k: how many images of a unit count, in a large probing set.
        a: temperature of the softmax over concepts.
        lam: weight of the prior.
        most: share of all images that can be a unit's own. A sum over all images is the same for every unit,
            where their ranks do not weigh.
    """

    name: str
    evidence: Callable[..., Evidence]
    terms: Callable[[Tensor, Tensor], Tensor]
    top_k: int
    a: float
    lam: float
    most: float = 1.0

    def images(self, n_groups: int, top_k: int | None = None) -> int:
        """How many top images of a unit count, one of each group.

        The published constants were chosen for 60,000 images. In a small set they are no longer the unit's
        own, so no more than a share of the images counts, measured on photos (docs/calibration.md).

        Args:
            n_groups: `G`, groups of images: copies of a photo count once.
            top_k: the user's choice; `None` for what suits their number.
        """
        if top_k is not None:
            return min(top_k, n_groups)
        suits = min(self.top_k, max(LEAST_TOP_K, self.top_k * n_groups // FULL_SET))
        return min(suits, max(1, math.ceil(self.most * n_groups)))


@dataclass(frozen=True)
class ValueSimilarity:
    """A similarity of the activations themselves.

    Attributes:
        name: as on the command line.
        function: `(P, Q, groups of the images) -> (C, M)`.
        permutations: of the layer in a null distribution, or draws.
        compared: what is compared with chance, rising with the score. A cosine itself; of an error, which
            ends at 0, the logarithm, or a perfect unit would be no more standard deviations from chance than
            a good one.
        best: `(P, Q) -> (C,)`, the best scores alone, by which permutations of a layer are scored; `Q` is
            overwritten.
        chance: `(P, Q, groups of the images, B, seed) -> (B, C)`, the best scores of the units had they
            random top images, where that is all there is to chance: then nothing is permuted.
    """

    name: str
    function: Callable[..., Tensor]
    permutations: int
    compared: Callable[[Tensor], Tensor] = torch.Tensor.clone
    best: Callable[[ConceptActivations, Tensor], Tensor] | None = None
    chance: Callable[..., Tensor] | None = None


def reordered_images(n_groups: int) -> int:
    """Through how many top images, one of each group, `rank-reorder` looks at a unit.

    Example:
        >>> reordered_images(1000), reordered_images(100), reordered_images(12)
        (50, 20, 12)
    """
    return min(n_groups, max(LEAST_REORDERED, int(n_groups * TOP_FRACTION)))


def _cos(P: Tensor | ConceptActivations, Q: Tensor, groups: ImageGroups) -> Tensor:
    return cos(P, Q)


def _cos_cubed(P: Tensor | ConceptActivations, Q: Tensor, groups: ImageGroups) -> Tensor:
    return cos_cubed(P, Q)


def reordered(Q: Tensor, groups: ImageGroups) -> list[Reordered]:
    """The top images whose order counts: of `reordered_images` those on which a unit fires."""
    top = reordered_images(groups.n_groups)
    images, values = top_images_of_groups(Q, top, groups)
    sizes = set_sizes(firing(Q, groups).groups, top, 1).clamp_min(1)
    found = []
    for size in sorted(set(sizes.tolist())):
        units = (sizes == size).nonzero()[:, 0].to(Q.device)
        found.append(Reordered(units, images[:size, units], values[:size, units]))
    return found


def _rank_reorder(P: Tensor | ConceptActivations, Q: Tensor, groups: ImageGroups) -> Tensor:
    return rank_reorder_of(P, reordered(Q, groups))


def _reordered_by_chance(
    P: Tensor | ConceptActivations, Q: Tensor, groups: ImageGroups, draws: int, seed: int
) -> Tensor:
    parts = [
        OnSets(
            part.units,
            part.values,
            RandomSets.draw(groups, len(part.values), len(part.units), draws, seed=seed),
        )
        for part in reordered(Q, groups)
    ]
    return rank_reorder_of_sets(P, parts)


def _log_error(scores: Tensor) -> Tensor:
    return scores.neg().clamp_min(SMALLEST_ERROR).log().neg()


def _soft_terms(s: Tensor, place: Tensor) -> Tensor:
    belongs = pmi.P_START - place * (pmi.P_START - pmi.P_END)
    return torch.log(1 + belongs * (s - 1) + pmi.MIN_PROB)


def _hard_terms(s: Tensor, place: Tensor) -> Tensor:
    return torch.log(s + pmi.MIN_PROB)


SIMILARITIES: dict[str, RankSimilarity | ValueSimilarity] = {
    each.name: each
    for each in (
        RankSimilarity(
            "soft-wpmi",
            pmi.soft_wpmi_evidence,
            _soft_terms,
            pmi.SOFT_WPMI_TOP_K,
            pmi.SOFT_WPMI_A,
            pmi.SOFT_WPMI_LAM,
        ),
        RankSimilarity(
            "wpmi", pmi.wpmi_evidence, _hard_terms, pmi.WPMI_TOP_K, pmi.WPMI_A, pmi.WPMI_LAM, most=0.5
        ),
        ValueSimilarity("cos", _cos, 20, best=best_cos),
        ValueSimilarity("cos-cubed", _cos_cubed, 20, best=best_cos_cubed),
        ValueSimilarity("rank-reorder", _rank_reorder, 20, _log_error, chance=_reordered_by_chance),
    )
}


def similarity_named(name: str) -> RankSimilarity | ValueSimilarity:
    """The similarity of that name.

    Raises:
        InputError: there is none.
    """
    if name not in SIMILARITIES:
        raise InputError(
            f"there is no similarity {name!r}",
            where="--similarity",
            hint=f"choose from {', '.join(SIMILARITIES)}",
        )
    return SIMILARITIES[name]
