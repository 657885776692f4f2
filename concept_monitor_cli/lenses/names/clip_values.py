"""CLIP-Dissect by the activations of all images: `cos`, `cos-cubed` and `rank-reorder`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from concept_monitor_cli.functional.calibration import (
    best_of_permutations,
    p_values,
    pooled_p_values,
    standardised,
)
from concept_monitor_cli.functional.firing import firing
from concept_monitor_cli.functional.similarity.activations import ConceptActivations
from concept_monitor_cli.functional.similarity.registry import ValueSimilarity
from concept_monitor_cli.functional.stability import Stability, value_stability
from concept_monitor_cli.functional.topk import dead_units
from concept_monitor_cli.lenses.names.clip_named import Named

if TYPE_CHECKING:
    from concept_monitor_cli.store import Entry, Writer
    from concept_monitor_cli.study.context import Context

#: Null scores of a layer, all units together: a small layer is permuted more often.
NULL_SCORES = 500
#: Activations of permutations that are scored together, so that what is made of the concepts serves them all.
TOGETHER = 1 << 26
#: Less work than this many products of a layer is done one layer at a time: for very small matrices a library
#: multiplies in another order, which changes the last digit. Layers of fewer units likewise.
ENOUGH, ENOUGH_UNITS = 1 << 20, 16
#: What stands in keys for chance by random top images; earlier versions permuted layers for every similarity.
RANDOM_SETS = "random sets"


class ValuedLayer:
    """The named units of a layer, by their activations.

    Args:
        similarity: of the registry.
        pooled: `(N, U)`, activations of the units that are to be named.
        context: images, concepts, groups.
    """

    def __init__(self, similarity: ValueSimilarity, pooled: Tensor, context: Context) -> None:
        # In one piece: a library multiplies columns that lie among others in another order.
        self.similarity, self.pooled, self.context = similarity, pooled.contiguous(), context

    def name(self, untrained: Sequence[Entry]) -> Named:
        """Scores, p-values and effect; see `RankedLayer.name`."""
        scores, best, null = self._scored(self.pooled)
        # Of the best concept, as the p-value: any concept may be the best by luck.
        effect = standardised(best, null).float()
        if untrained:
            chance = torch.cat([self._untrained_excess(entry) for entry in untrained])
            return Named(scores, scores, p_values(standardised(best, null), chance), effect, len(chance))
        return Named(scores, scores, pooled_p_values(best, null), effect, null.numel())

    def scored(self) -> tuple[Tensor, Tensor]:
        """Scores and order alone, `(U, M)` each, which are the same."""
        scores = self.similarity.function(self.context.activations, self.pooled, self.context.groups)
        return scores, scores

    def pair_scores(self, texts: Tensor) -> Tensor:
        """Scores of further concepts, `(U, n)`."""
        joining = ConceptActivations.from_embeddings(self.context.image_embeddings, texts)
        return self.similarity.function(joining, self.pooled, self.context.groups)

    def stability(self, candidates: Tensor, values: Tensor, counts: Tensor) -> Stability:
        """See `RankedLayer.stability`."""
        return value_stability(
            self.similarity, self.context.activations, self.pooled, candidates, counts, self.context.groups
        )

    def _scored(self, pooled: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores and chance.

        Returns:
            scores `(U, M)`; of the best ones, what is compared with chance, `(U,)`; the same by chance,
            `(B, U)`: with the groups of images permuted for every unit, or with random top images.
        """
        context, compared = self.context, self.similarity.compared
        rounds = max(self.similarity.permutations, -(-NULL_SCORES // pooled.shape[1]))
        scores = self.similarity.function(context.activations, pooled, context.groups)
        if self.similarity.chance is not None:
            null = self.similarity.chance(context.activations, pooled, context.groups, rounds, context.seed)
        else:
            null = self._best_of_permutations(pooled, rounds)
        return scores, compared(scores.amax(1)).float().cpu(), compared(null).float().cpu()

    def _best_of_permutations(self, pooled: Tensor, rounds: int) -> Tensor:
        """The best scores with the groups of images permuted for every unit, `(B, U)`."""
        context, best = self.context, self.similarity.best
        assert best is not None
        units, n_concepts = pooled.shape[1], context.activations.n_concepts
        large = units >= ENOUGH_UNITS and pooled.numel() * n_concepts >= ENOUGH
        return best_of_permutations(
            partial(best, context.activations),
            pooled,
            groups=context.groups,
            permutations=rounds,
            seed=context.seed,
            together=TOGETHER // pooled.numel() if large else 1,
        )

    def _untrained_excess(self, entry: Entry) -> Tensor:
        """How far the units of an untrained network are beyond their own chance; kept."""
        context = self.context
        key = context.store.key(
            "null",
            **context.digests,
            similarity=self.similarity.name,
            permutations=self.similarity.permutations,
            recording=entry.key.digest,
            seed=context.seed,
            **({"chance": RANDOM_SETS} if self.similarity.chance is not None else {}),
        )

        def make(writer: Writer) -> None:
            pooled = torch.from_numpy(entry.read("pooled")).to(context.device)
            sparse = firing(pooled, context.groups).sparse(context.groups.n_groups)
            named = ~sparse & ~dead_units(pooled)
            if not bool(named.any()):
                writer.put("excess", torch.empty(0, dtype=torch.float64).numpy())
                return
            _, best, null = self._scored(pooled[:, named])
            writer.put("excess", standardised(best, null).numpy())

        with context.store.get_or_make(key, make) as kept:
            return torch.from_numpy(kept.read("excess"))
