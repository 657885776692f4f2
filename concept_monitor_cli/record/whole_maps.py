"""A recording for lenses that look at all values of a layer's maps, not only at the highest."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

from concept_monitor_cli.models.layers import LayerInfo
from concept_monitor_cli.record.consumers import Consumer, MapSpool, PooledWriter, UnitRange
from concept_monitor_cli.record.forward import RecordInfo
from concept_monitor_cli.record.requests import Cost, Pass, PeakImages
from concept_monitor_cli.store import Key, Store


@dataclass(frozen=True)
class WholeMaps:
    """Pooled activations, the maps themselves, and the images in which they peak highest.

    The entry holds `pooled` (`N x C`, float32), `maps` (`N x C x h x w`, float32), `live` (`C`, bool),
    `top_images` and `top_values` (`C x K`).

    Attributes:
        top_k: `K`.
    """

    top_k: int = 20

    kind: ClassVar[str] = "whole_maps"

    def settings(self) -> dict[str, Any]:
        """See `Recording`."""
        return {"top_k": self.top_k}

    def cost(self, layer: LayerInfo, n_images: int) -> Cost:
        """See `Recording`."""
        own = layer.units * (4 * n_images + 12 * self.top_k + 1)
        return Cost(passes=1, bytes=own + MapSpool.nbytes(layer, n_images))

    def begin(self, stack: ExitStack, store: Store, key: Key, layer: LayerInfo, n_images: int) -> Pass:
        """See `Recording`."""
        writer = stack.enter_context(store.writer(key))
        extent, peaks = UnitRange(layer.name), PeakImages(layer.name, self.top_k)

        def complete(info: RecordInfo) -> None:
            writer.put("live", (~extent.dead).numpy())
            writer.put("top_images", peaks.top.indices.numpy())
            writer.put("top_values", peaks.top.values.numpy())
            writer.meta["notes"] = info.notes(layer.name)

        listeners: list[Consumer] = [
            PooledWriter(layer.name, writer),
            MapSpool(layer.name, writer),
            extent,
            peaks,
        ]
        return Pass(listeners, complete)
