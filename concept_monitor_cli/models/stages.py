"""The stages of a network: the few layers that somebody would name who knows the architecture.

A residual network has `layer1` to `layer4`, a transformer its blocks, a plain stack of convolutions what each
size of map ends with. Found from how the network is put together, not from names.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from concept_monitor_cli.models.layers import LayerInfo

#: `--layer auto` takes this many of the last stages.
LAST = 2
# A part of a network that has this share of its layers with weights is its trunk: the stages are inside.
_TRUNK = 0.6


def stages(model: nn.Module, layers: Sequence[LayerInfo]) -> list[LayerInfo]:
    """The stages of a network, in the order of its definition.

    Args:
        model: the network.
        layers: what `list_layers` found in it.

    Returns:
        some of `layers`; all that give maps or tokens, or else all, where no structure is to be seen.
    """
    known = {layer.name: layer for layer in layers}
    name, trunk = _trunk(model)
    parts = [
        known[full]
        for child, module in trunk.named_children()
        if (full := f"{name}.{child}" if name else child) in known and _weighted(module) >= 2
    ]
    parts = _before_the_head(parts)
    if len(parts) >= 2:
        return parts
    inside = [layer for layer in layers if not name or layer.name.startswith(f"{name}.")]
    return _last_of_each_map(inside, model) or _before_the_head(list(layers))


def _trunk(model: nn.Module) -> tuple[str, nn.Module]:
    """The innermost part that has most of the network's layers, and its name."""
    name, trunk = "", model
    while True:
        total = _weighted(trunk)
        inner = [
            (child, module)
            for child, module in trunk.named_children()
            if next(module.children(), None) is not None and _weighted(module) >= _TRUNK * max(total, 1)
        ]
        if not inner or total < 2:
            return name, trunk
        child, trunk = inner[0]
        name = f"{name}.{child}" if name else child


def _weighted(module: nn.Module) -> int:
    """How many layers inside have weights of their own."""
    return sum(any(True for _ in part.parameters(recurse=False)) for part in module.modules())


def _before_the_head(layers: list[LayerInfo]) -> list[LayerInfo]:
    """Without those that give one vector for an image, where others give maps or tokens."""
    spatial = [layer for layer in layers if len(layer.shape) > 1 and layer.map_size != (1, 1)]
    return spatial or layers


def _last_of_each_map(layers: Sequence[LayerInfo], model: nn.Module) -> list[LayerInfo]:
    """The last layer of each size of map."""
    modules = dict(model.named_modules())
    last: dict[tuple[int, int], LayerInfo] = {}
    for layer in layers:
        if layer.map_size in (None, (1, 1)) or isinstance(modules.get(layer.name), nn.Identity):
            continue
        assert layer.map_size is not None
        last[layer.map_size] = layer
    return list(last.values())
