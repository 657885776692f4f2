"""How far NaN in a network's weights reaches: one unit, or all of a layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from concept_monitor_cli.models.layers import LayerInfo, evaluation
from concept_monitor_cli.models.pooling import pool
from concept_monitor_cli.models.taps import tap

_IMAGES = 2


def units_without_numbers(model: nn.Module, layers: Sequence[LayerInfo], size: int) -> dict[str, list[int]]:
    """The units of each layer that give NaN or infinity, whatever the image.

    Args:
        model: the network, with its weights.
        layers: what is known of the layers.
        size: height and width of its images.

    Returns:
        Layer -> its units, ascending; tried on two images of noise.
    """
    noise = torch.randn(_IMAGES, layers[0].channels, size, size, generator=torch.Generator().manual_seed(0))
    parameter = next(model.parameters(), noise)
    noise = noise.to(parameter.device, parameter.dtype)
    calls = {layer.name: layer.calls for layer in layers}
    layouts = {layer.name: layer.layout for layer in layers}

    def capture(name: str, output: Tensor) -> Tensor:
        return pool(output, layouts[name], "mean")

    with evaluation(model), tap(model, list(calls), capture=capture, calls=calls) as read:
        outputs = read(noise)
    return {
        name: (~pooled.isfinite()).all(0).nonzero().flatten().tolist() for name, pooled in outputs.items()
    }
