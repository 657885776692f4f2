"""Scores of the similarities on any images, by the rule by which a detector names units."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from concept_monitor_cli.functional.firing import firing
from concept_monitor_cli.functional.similarity.registry import similarity_named
from concept_monitor_cli.functional.topk import dead_units
from concept_monitor_cli.lenses.similarity import layer_by
from concept_monitor_cli.study.context import Context


class Scored(NamedTuple):
    """The score of every concept for every unit, `(C, M)` float32, and what sorts them (`Evidence.order`)."""

    scores: Tensor
    order: Tensor


def nameable(pooled: Tensor, context: Context) -> Tensor:
    """Units that a similarity names, `(C,)` bool: neither dead nor sparse.

    Args:
        pooled: `(N, C)`.
        context: whose images these are.
    """
    sparse = firing(pooled, context.groups).sparse(context.groups.n_groups)
    return (~dead_units(pooled) & ~sparse.to(pooled.device)).cpu()


@torch.no_grad()
def similarity_scores(
    similarity: str, context: Context, pooled: Tensor, named: Tensor, top_k: int | None = None
) -> Scored:
    """The score of every concept for every unit.

    Args:
        similarity: one of the registry.
        context: images, concepts and groups.
        pooled: `Q` of the same images, `(N, C)`.
        named: `(C,)` bool, the units that are named; the others have no part in the prior.
        top_k: as for `--top-k`.

    Returns:
        scores and their order; rows of the other units are 0.
    """
    pooled = pooled.to(context.device)
    shape = (pooled.shape[1], len(context.concepts))
    scores, order = (torch.zeros(shape, device=pooled.device) for _ in range(2))
    if bool(named.any()):
        chosen = named.to(pooled.device)
        layer = layer_by(similarity_named(similarity), pooled[:, chosen], context, top_k)
        scores[chosen], order[chosen] = layer.scored()
    return Scored(scores, order)
