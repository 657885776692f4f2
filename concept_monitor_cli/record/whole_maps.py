"""A recording for lenses that look at all values of a layer's maps, not only at the highest.

The values of each map are kept in steps of a 65,535th of the way from its lowest to its highest: half of the
bytes of float32. Values that differ may become equal, but none passes another of its map, and the lowest
stays what it is: a zero of a rectified unit stays zero, and nothing else becomes zero.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from concept_monitor_cli.functional.dissection.thresholds import comparable
from concept_monitor_cli.models.layers import LayerInfo
from concept_monitor_cli.record.consumers import (
    Consumer,
    MapSpool,
    PooledWriter,
    RowWriter,
    UnitRange,
)
from concept_monitor_cli.record.forward import RecordInfo
from concept_monitor_cli.record.parts import Place
from concept_monitor_cli.record.requests import Cost, Pass, PeakImages
from concept_monitor_cli.store import Key

if TYPE_CHECKING:
    from concept_monitor_cli.store import Entry

_STEPS = (1 << 16) - 1


@dataclass(frozen=True)
class PackedMaps:
    """Maps of some units on some images.

    Attributes:
        codes: `(N, C, h, w)` uint16, the step that each value is at.
        lowest: `(N, C)` float32, of each map; NaN where a value of the map is.
        step: `(N, C)` float32, the width of a step.
    """

    codes: NDArray[np.uint16]
    lowest: NDArray[np.float32]
    step: NDArray[np.float32]

    @classmethod
    def pack(cls, maps: Tensor) -> PackedMaps:
        """Pack maps `(N, C, h, w)`; infinite values count as the largest numbers there are."""
        values = comparable(maps)
        lowest, highest = values.amin((2, 3)), values.amax((2, 3))  # NaN is passed on
        step = highest / _STEPS - lowest / _STEPS
        above = values - lowest[..., None, None]
        codes = (above / step[..., None, None]).round().clamp(1, _STEPS)
        codes = torch.where(above > 0, codes, 0).nan_to_num(0)
        # All three in one copy: a step's 16 bits, and two times 16 of each of the others.
        ends = torch.stack([lowest, step], 2).view(torch.int16)
        packed = torch.cat([codes.to(torch.int32).to(torch.int16).flatten(2), ends], 2).cpu().numpy()
        pixels = packed.shape[2] - ends.shape[2]
        numbers = np.ascontiguousarray(packed[..., pixels:]).view(np.float32)
        return cls(
            np.ascontiguousarray(packed[..., :pixels]).view(np.uint16).reshape(maps.shape),
            *(np.ascontiguousarray(numbers[..., place]) for place in range(2)),
        )

    @classmethod
    def read(cls, entry: Entry) -> PackedMaps:
        """Those of a recording."""
        return cls(*(entry.read(name) for name in ("codes", "lowest", "step")))

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """As a recording holds them."""
        return {"codes": self.codes, "lowest": self.lowest, "step": self.step}

    def __len__(self) -> int:
        return len(self.codes)

    def of(self, units: slice | NDArray[np.int64]) -> NDArray[np.float32]:
        """The values of some units, `(N, n, h, w)` float32."""
        values = self.codes[:, units].astype(np.float32)
        with np.errstate(over="ignore"):  # from the lowest number there is to the highest
            values *= self.step[:, units, None, None]
        values += self.lowest[:, units, None, None]
        return np.minimum(values, np.finfo(np.float32).max, out=values)  # NaN is passed on

    def part(self, images: NDArray[np.int64], units: NDArray[np.int64]) -> PackedMaps:
        """Some units on some images."""
        some = np.ix_(images, units)
        return PackedMaps(self.codes[some], self.lowest[some], self.step[some])


class _MapPacker(MapSpool):
    """Streams packed maps into a store entry."""

    def __init__(self, layer: str, writer: RowWriter) -> None:
        super().__init__(layer, writer)
        self.datasets = ("codes", "lowest", "step")

    def _declare(self, shape: tuple[int, int, int, int]) -> None:
        self._writer.create("codes", shape, np.uint16)
        self._writer.create("lowest", shape[:2], np.float32)
        self._writer.create("step", shape[:2], np.float32)

    def _write(self, block: tuple[int, Tensor] | None) -> None:
        if block is not None:
            for name, array in PackedMaps.pack(block[1]).arrays.items():
                self._writer.write(name, block[0], array)


@dataclass(frozen=True)
class WholeMaps:
    """Pooled activations, the maps themselves, and the images in which they peak highest.

    The entry holds `pooled` (`N x C`, float32), the arrays of `PackedMaps`, `live` (`C`, bool), `top_images`
    and `top_values` (`C x K`).

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
        height, width = layer.map_size or (0, 0)
        own = n_images * (2 * height * width + 12) + 12 * self.top_k + 1
        return Cost(passes=1, bytes=layer.units * own)

    def begin(self, stack: ExitStack, store: Place, key: Key, layer: LayerInfo, n_images: int) -> Pass:
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
            _MapPacker(layer.name, writer),
            extent,
            peaks,
        ]
        return Pass(listeners, complete)
