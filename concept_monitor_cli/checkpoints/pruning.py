"""Pruned networks: masks beside their weights, and how much of a network is zero.

`torch.nn.utils.prune` keeps a pruned tensor `weight` as `weight_orig` and `weight_mask`; the network that
computes with them has `weight = weight_orig * weight_mask`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_ORIGINAL, _MASK = "_orig", "_mask"


def fold_masks(state_dict: Mapping[str, Tensor], *, lazy: bool = False) -> dict[str, Tensor]:
    """The state dict that the unpruned architecture would have: `X_orig` and `X_mask` become `X`.

    Args:
        state_dict: names and tensors; without masks it comes back as it is.
        lazy: only the names matter yet: leave the values of `X_orig` unmasked.

    Returns:
        name -> tensor, in the old order.

    Example:
        >>> weight, mask = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 1.0]])
        >>> fold_masks({"fc.weight_orig": weight, "fc.weight_mask": mask})
        {'fc.weight': tensor([[0., 2.]])}
    """
    pruned = {
        name.removesuffix(_ORIGINAL)
        for name, tensor in state_dict.items()
        if name.endswith(_ORIGINAL)
        and (mask := state_dict.get(name.removesuffix(_ORIGINAL) + _MASK)) is not None
        and mask.shape == tensor.shape
        and name.removesuffix(_ORIGINAL) not in state_dict
    }
    if not pruned:
        return dict(state_dict)
    folded: dict[str, Tensor] = {}
    for name, tensor in state_dict.items():
        base = name.removesuffix(_ORIGINAL)
        if name.endswith(_ORIGINAL) and base in pruned:
            folded[base] = tensor if lazy else tensor * state_dict[base + _MASK].to(tensor.dtype)
        elif not (name.endswith(_MASK) and name.removesuffix(_MASK) in pruned):
            folded[name] = tensor
    return folded


def sparsity(state_dict: Mapping[str, Tensor]) -> float | None:
    """Share of the weights that are exactly zero.

    Weights are the entries of floating-point tensors with two or more axes (convolutions, linear layers,
    embeddings): what pruning acts on. Biases and the numbers of normalisation layers are not counted.

    Returns:
        between 0 and 1; None where there are no such tensors.

    Example:
        >>> sparsity({"fc.weight": torch.tensor([[0.0, 2.0]]), "fc.bias": torch.zeros(2)})
        0.5
    """
    count = zeros = 0
    for tensor in fold_masks(state_dict).values():
        if tensor.ndim >= 2 and tensor.is_floating_point():
            count += tensor.numel()
            zeros += tensor.numel() - int(torch.count_nonzero(tensor))
    return zeros / count if count else None
