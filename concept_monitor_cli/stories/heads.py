"""A linear head that makes the scores of a pooled layer."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.evaluation.classifier import find_classifier

# Scores that a pooled layer and a linear head give differ from the network's by no more than this share.
_EXACT = 1e-4


def linear_head(state_dict: Mapping[str, Tensor], layer: str, Q: Tensor, Z: Tensor) -> Tensor | None:
    """The weights `(K, C)` of the head, where only pooling and that head follow a layer; tried on all images.

    Args:
        state_dict: the weights of a checkpoint.
        layer: the layer.
        Q: `(N, C)`, its pooled activations.
        Z: `(N, K)`, the scores.
    """
    found = find_classifier(state_dict)
    if isinstance(found, InputError) or not found.follows(layer, Q.shape[1]):
        return None
    if found.classes != Z.shape[1]:
        return None
    away = float((Q @ found.weights.T + found.bias - Z).abs().amax())
    return found.weights if away <= _EXACT * float(Z.abs().amax().clamp_min(1e-12)) else None
