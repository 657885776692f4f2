"""CLIP-Dissect's five similarities of units and concepts: `(P, Q) -> (C, M)`.

Higher is better.

`P` is a matrix `(N, M)` or `ConceptActivations` made from embeddings, which never holds images x concepts.
"""

from __future__ import annotations

from concept_monitor_cli.functional.similarity.activations import ConceptActivations
from concept_monitor_cli.functional.similarity.cosine import cos, cos_cubed
from concept_monitor_cli.functional.similarity.pmi import (
    Evidence,
    soft_wpmi,
    soft_wpmi_evidence,
    wpmi,
    wpmi_evidence,
)
from concept_monitor_cli.functional.similarity.reorder import rank_reorder, rank_reorder_from_top
from concept_monitor_cli.functional.similarity.reorder_chance import RandomSets, rank_reorder_by_chance

__all__ = [
    "ConceptActivations",
    "Evidence",
    "RandomSets",
    "cos",
    "cos_cubed",
    "rank_reorder",
    "rank_reorder_by_chance",
    "rank_reorder_from_top",
    "soft_wpmi",
    "soft_wpmi_evidence",
    "wpmi",
    "wpmi_evidence",
]
