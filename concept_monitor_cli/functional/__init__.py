"""The mathematics: pure functions over tensors, no files, no printing.

Shapes are in the symbols of the literature: `P` `(N, M)` concept activations, `Q` `(N, C)` pooled activations
of a layer, `T` `(M, D)` text embeddings. Tensors go in and come out, on any device; scores are float32. All
tensors of a call are on one device, and so is what comes out, unless the docstring says "on the host".
"""

from __future__ import annotations

from concept_monitor_cli.functional.calibration import (
    benjamini_hochberg,
    label_evidence,
    p_values,
    permuted_best_scores,
    pooled_p_values,
    random_top_images,
    shuffled,
)
from concept_monitor_cli.functional.dissection import (
    activation_threshold,
    iou,
    iou_counts,
    shuffled_support,
    supported_iou,
    unit_masks,
)
from concept_monitor_cli.functional.embedding import (
    nearest_anchor,
    neuron_embedding,
    neuron_embedding_from_top,
    spread,
)
from concept_monitor_cli.functional.similarity import (
    ConceptActivations,
    Evidence,
    cos,
    cos_cubed,
    rank_reorder,
    rank_reorder_from_top,
    soft_wpmi,
    soft_wpmi_evidence,
    wpmi,
    wpmi_evidence,
)
from concept_monitor_cli.functional.topk import dead_units, exciting_images, top_images, top_rows

__all__ = [
    "ConceptActivations",
    "Evidence",
    "activation_threshold",
    "benjamini_hochberg",
    "cos",
    "cos_cubed",
    "dead_units",
    "exciting_images",
    "iou",
    "iou_counts",
    "label_evidence",
    "nearest_anchor",
    "neuron_embedding",
    "neuron_embedding_from_top",
    "p_values",
    "permuted_best_scores",
    "pooled_p_values",
    "random_top_images",
    "rank_reorder",
    "rank_reorder_from_top",
    "shuffled",
    "shuffled_support",
    "soft_wpmi",
    "soft_wpmi_evidence",
    "spread",
    "supported_iou",
    "top_images",
    "top_rows",
    "unit_masks",
    "wpmi",
    "wpmi_evidence",
]
