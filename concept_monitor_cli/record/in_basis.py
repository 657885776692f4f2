"""A consumer of a layer's channels becomes one of its members in another basis."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from concept_monitor_cli.bases import Basis
from concept_monitor_cli.models.layers import LayerInfo
from concept_monitor_cli.models.pooling import Pooling, resolve_pooling
from concept_monitor_cli.record.consumers import Consumer


def layer_in_basis(layer: LayerInfo, name: str, members: int) -> LayerInfo:
    """What is known of a layer in another basis.

    Args:
        layer: with its channels.
        name: of the layer in the basis, `layer4@pca8`.
        members: `R`.
    """
    return replace(layer, name=name, units=members)


class InBasis:
    """Hands a consumer the activations of a basis's members.

    A member's map is read off the channels at each place, and its pooled activation is that of its map. With
    a linear basis and a pooling that is a mean, that is the same as reading it off the pooled channels, which
    is what is done then.

    Args:
        consumer: what is wanted of the members.
        layer: the layer with its channels.
        members: the layer in the basis.
        basis: the basis.
        pooling: of the run.
    """

    def __init__(
        self, consumer: Consumer, layer: LayerInfo, members: LayerInfo, basis: Basis, pooling: Pooling
    ) -> None:
        self.layers = (layer.name,)
        self._consumer, self._members, self._basis = consumer, members, basis
        how, _ = resolve_pooling(layer.layout, pooling)
        spatial = layer.map_size not in (None, (1, 1))
        self._maximum = how == "max"
        self._from_maps = spatial and how != "cls" and (basis.encoding != "linear" or self._maximum)

    @property
    def needs_maps(self) -> bool:
        """See `Consumer`."""
        return self._from_maps or self._consumer.needs_maps

    def start(self, layer: LayerInfo, n_images: int) -> None:
        """See `Consumer`."""
        self._consumer.start(self._members, n_images)

    def update(self, layer: str, start: int, pooled: Tensor, maps: Tensor | None) -> None:
        """See `Consumer`."""
        own = None
        if maps is not None:
            own = self._basis.encode(maps.movedim(1, -1)).movedim(-1, 1)
        if self._from_maps:
            assert own is not None
            pooled = own.amax((2, 3)) if self._maximum else own.mean((2, 3))
        else:
            pooled = self._basis.encode(pooled)
        self._consumer.update(self._members.name, start, pooled, own if self._consumer.needs_maps else None)

    def finish(self) -> None:
        """See `Consumer`."""
        self._consumer.finish()
