"""The class of an image, read off the description of its most active unit (CLIP-Dissect, A.6)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional._blocks import spans

_ROWS = 4096


@torch.no_grad()
def most_contributing_unit(Q: Tensor, W: Tensor, classes: Tensor) -> Tensor:
    """The unit with the highest positive contribution to a class, for every image.

        k_i = argmax_j W[c_i, j] * Q[i, j]

    Args:
        Q: `(N, C)`, activations of the layer before the classifier.
        W: `(K, C)`, the classifier's weights.
        classes: `(N,)`, the class `c_i` of each image; the paper takes the one that the network predicts.

    Returns:
        `(N,)` int64, the unit; -1 where no contribution is positive. Of level ones, the lower unit.

    Raises:
        InputError: shapes that do not fit.

    Source: CLIP-Dissect, A.6, step 2.

    Example:
        >>> Q = torch.tensor([[1.0, 2.0], [3.0, 1.0]])
        >>> W = torch.tensor([[1.0, 0.2], [0.0, 1.0]])
        >>> most_contributing_unit(Q, W, torch.tensor([0, 1])).tolist()
        [0, 1]
    """
    if Q.ndim != 2 or W.ndim != 2 or Q.shape[1] != W.shape[1] or classes.shape != Q.shape[:1]:
        shapes = f"{tuple(Q.shape)}, {tuple(W.shape)} and {tuple(classes.shape)}"
        raise InputError(f"activations, weights and classes of shapes {shapes}: need (N, C), (K, C) and (N,)")
    units = torch.empty(len(Q), dtype=torch.int64, device=Q.device)
    for rows in spans(len(Q), _ROWS):
        share = Q[rows].double() * W[classes[rows]].double()
        # The first of the largest: torch.argmax promises no order among equals.
        best = share.amax(1, keepdim=True)
        units[rows] = torch.where(best[:, 0] > 0, (share == best).long().argmax(1), -1)
    return units


@torch.no_grad()
def described_class(descriptions: Sequence[Tensor], classes: Sequence[Tensor]) -> Tensor:
    """The class whose name is most like each unit's description.

    Args:
        descriptions: `(C, D_s)` for each space of texts `s`, rows of unit length.
        classes: `(K, D_s)` likewise, the class names.

    Returns:
        `(C,)` int64: the class with the highest cosine, averaged over the spaces. Of level ones, the first.

    Source: CLIP-Dissect, A.6, step 4: the average over the CLIP text space and mpnet's.

    Example:
        >>> described_class([torch.tensor([[0.6, 0.8], [1.0, 0.0]])], [torch.eye(2)]).tolist()
        [1, 0]
    """
    cosines = [text.double() @ name.double().T for text, name in zip(descriptions, classes, strict=True)]
    if not cosines:
        raise InputError("no space of texts to compare descriptions and class names in")
    mean = torch.stack(cosines).mean(0)
    return (mean == mean.amax(1, keepdim=True)).long().argmax(1)
