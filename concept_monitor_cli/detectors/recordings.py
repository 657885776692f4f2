"""What detectors ask of the forward pass, as entries of the store.

A recording says which consumers listen to a layer and where they leave what they heard. Everything that is
missing at a checkpoint, for all layers and detectors, is recorded in one forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from concept_monitor_cli.record import Consumer, PooledWriter, TopImages, UnitRange
from concept_monitor_cli.store import Key, Store


class Recording(Protocol):
    """What to keep of one layer's outputs.

    Attributes:
        kind: of the store's entry.
    """

    kind: ClassVar[str]

    def settings(self) -> dict[str, Any]:
        """Every constant that the entry depends on besides network, weights, images and pooling."""

    def begin(
        self, stack: ExitStack, store: Store, key: Key, layer: str
    ) -> tuple[Sequence[Consumer], Callable[[], None]]:
        """Open the entry for writing.

        Args:
            stack: closes the entry: whole when all went well, not at all otherwise.
            store: where it goes.
            key: its address.
            layer: the layer's name.

        Returns:
            the consumers that listen, and what to call after the last image.
        """


@dataclass(frozen=True)
class Activations:
    """Pooled activations and the top images of every unit.

    The entry holds `pooled` (`N x C`, float32), `top_images` (`C x K`, image numbers, -1 where there are
    fewer), `top_values` (`C x K`, float32), `live` (`C`, bool).

    Attributes:
        top_k: `K`; 100 is what SoftWPMI asks for, the most of all similarities that work on few images.
    """

    top_k: int = 100

    kind: ClassVar[str] = "activations"

    def settings(self) -> dict[str, Any]:
        """See `Recording`."""
        return {"top_k": self.top_k}

    def begin(
        self, stack: ExitStack, store: Store, key: Key, layer: str
    ) -> tuple[Sequence[Consumer], Callable[[], None]]:
        """See `Recording`."""
        writer = stack.enter_context(store.writer(key))
        top, extent = TopImages(layer, self.top_k), UnitRange(layer)

        def complete() -> None:
            writer.put("top_images", top.indices.numpy())
            writer.put("top_values", top.values.numpy())
            writer.put("live", (~extent.dead).numpy())
            writer.meta["non_numbers"] = int(np.asarray(extent.non_numbers).sum())

        return [PooledWriter(layer, writer), top, extent], complete
