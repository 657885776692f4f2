"""Scores of CLIP-Dissect's five similarities on any images, as the detector gives them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from concept_monitor_cli.functional.similarity import ConceptActivations
from concept_monitor_cli.functional.similarity.registry import ValueSimilarity, similarity_named
from concept_monitor_cli.functional.topk import top_images


class Scored(NamedTuple):
    """The score of every concept for every unit, `(C, M)` float32, and what sorts them (`Evidence.order`)."""

    scores: Tensor
    order: Tensor


@torch.no_grad()
def similarity_scores(
    similarity: str, activations: ConceptActivations, pooled: Tensor, live: Tensor
) -> Scored:
    """The score of every concept for every unit.

    Args:
        similarity: one of the five, with the constants of the detector.
        activations: `P` of some images.
        pooled: `Q` of the same images, `(N, C)`.
        live: `(C,)` bool; the prior of a layer is that of its live units.

    Returns:
        scores and their order. Rows of dead units mean nothing.
    """
    pooled = pooled.to(activations.device)
    rank = similarity_named(similarity)
    if isinstance(rank, ValueSimilarity):
        scores = rank.function(activations, pooled)
        return Scored(scores, scores)
    top = top_images(pooled, rank.images(pooled.shape[0]))[0]
    evidence = rank.evidence(activations, top, a=rank.a)
    if not live.any():
        return Scored(evidence.scores(rank.lam), evidence.values)
    return Scored(*evidence.scored(rank.lam, live, evidence.among(live)))
