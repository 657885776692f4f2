"""The units of a layer, to be named by a similarity: for the detector, and for whoever judges it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from concept_monitor_cli.functional.similarity.registry import (
    RankSimilarity,
    ValueSimilarity,
)
from concept_monitor_cli.lenses.names.clip_ranks import RankedLayer
from concept_monitor_cli.lenses.names.clip_values import ValuedLayer

if TYPE_CHECKING:
    from concept_monitor_cli.study.context import Context


def layer_by(
    similarity: RankSimilarity | ValueSimilarity,
    pooled: Tensor,
    context: Context,
    top_k: int | None = None,
) -> RankedLayer | ValuedLayer:
    """The units of a layer as a similarity sees them.

    Args:
        similarity: of the registry.
        pooled: `(N, U)`, activations of the units that are to be named.
        context: images, concepts, groups.
        top_k: top images of a unit that count, one of each group; `None` for what suits the number of groups.
    """
    if isinstance(similarity, RankSimilarity):
        return RankedLayer(similarity, pooled, context, similarity.images(context.groups.n_groups, top_k))
    return ValuedLayer(similarity, pooled, context)
