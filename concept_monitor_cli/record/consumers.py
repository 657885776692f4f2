"""What is done with a layer's outputs while they pass by.

`record` runs a network once and hands every batch to every consumer of the layer. A consumer keeps what it
needs and no more: memory does not grow with the number of images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.topk import activation_range, without_range
from concept_monitor_cli.models.layers import LayerInfo

if TYPE_CHECKING:
    from concept_monitor_cli.record.parts import Put, SeenPart

# Rows kept back until it pays to handle them: one merge, one write, one wait for the GPU for this many.
BLOCK_ROWS = 1024
_BLOCK_BYTES = 32 << 20


class Consumer(Protocol):
    """Takes in the outputs of one or more layers, batch by batch, images in order."""

    @property
    def layers(self) -> Sequence[str]:
        """The layers that it wants to see."""

    @property
    def needs_maps(self) -> bool:
        """Whether it wants activation maps, not only pooled activations."""

    def start(self, layer: LayerInfo, n_images: int) -> None:
        """Called once per layer before the first batch."""

    def update(self, layer: str, start: int, pooled: Tensor, maps: Tensor | None) -> None:
        """Takes in the images `start`, `start + 1`, ...

        Args:
            layer: its name.
            start: index of the first image of the batch.
            pooled: (B, C) float32 on the network's device; may be kept.
            maps: (B, C, h, w) float32, in any memory order, or None where `needs_maps` is false.
        """

    def finish(self) -> None:
        """Called once after the last batch, not after a failure."""


class RowWriter(Protocol):
    """The part of the store's `Writer` that consumers use."""

    def create(self, name: str, shape: tuple[int, ...], dtype: Any) -> None:
        """Declare an array."""

    def write(self, name: str, start_row: int, array: np.ndarray[Any, Any]) -> None:
        """Write rows of it."""


class RowBuffer:
    """Collects rows on the device and gives them back in blocks.

    Args:
        limit: rows that make a block.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[Tensor] = []
        self._start = 0
        self._rows = 0

    def add(self, start: int, rows: Tensor) -> tuple[int, Tensor] | None:
        """Takes in rows that follow the last ones; a full block comes back as (its first row, rows)."""
        if not self._parts:
            self._start = start
        elif start != self._start + self._rows:
            raise ValueError(f"row {self._start + self._rows} expected next, not {start}")
        self._parts.append(rows)
        self._rows += len(rows)
        return self.take() if self._rows >= self._limit else None

    def take(self) -> tuple[int, Tensor] | None:
        """What is left, as (first row, rows); None where nothing is."""
        if not self._parts:
            return None
        block = self._parts[0] if len(self._parts) == 1 else torch.cat(self._parts)
        self._parts, self._rows = [], 0
        return self._start, block


class PooledWriter:
    """Streams the pooled activations Q (N, C), float32, into a store entry.

    Args:
        layer: whose.
        writer: of the entry; the caller opens and publishes it.
        dataset: name of the array.
    """

    needs_maps = False

    def __init__(self, layer: str, writer: RowWriter, dataset: str = "pooled") -> None:
        self.layers = (layer,)
        self._writer = writer
        self._dataset = dataset
        self._buffer = RowBuffer(BLOCK_ROWS)

    def start(self, layer: LayerInfo, n_images: int) -> None:
        """Declares the array."""
        self._writer.create(self._dataset, (n_images, layer.units), np.float32)

    def update(self, layer: str, start: int, pooled: Tensor, maps: Tensor | None) -> None:
        """Takes in a batch."""
        self._write(self._buffer.add(start, pooled))

    def finish(self) -> None:
        """Writes what is left."""
        self._write(self._buffer.take())

    def save(self, put: Put) -> None:
        """See `parts.Joinable`: there are rows only."""

    def join(self, part: SeenPart) -> None:
        """See `parts.Joinable`."""
        copy_rows(part, self._writer, self._dataset)

    def _write(self, block: tuple[int, Tensor] | None) -> None:
        if block is not None:
            self._writer.write(self._dataset, block[0], block[1].cpu().numpy())


def copy_rows(part: SeenPart, writer: RowWriter, *names: str) -> None:
    """Write the rows of a part to their places among those of all images."""
    for name in names:
        for start, rows in part.rows(name):
            writer.write(name, start, rows)


class MapSpool:
    """Streams the activation maps (N, C, h, w), float32, into a store entry.

    Args:
        layer: whose.
        writer: of the entry; the caller opens and publishes it.
        dataset: name of the array.
    """

    needs_maps = True

    def __init__(self, layer: str, writer: RowWriter, dataset: str = "maps") -> None:
        self.layers = (layer,)
        self.datasets: tuple[str, ...] = (dataset,)
        self._writer = writer
        self._dataset = dataset
        self._buffer = RowBuffer(1)

    @staticmethod
    def nbytes(layer: LayerInfo, n_images: int) -> int:
        """Bytes that the spool of a layer takes; 0 for a layer without maps."""
        height, width = layer.map_size or (0, 0)
        return 4 * n_images * layer.units * height * width

    def start(self, layer: LayerInfo, n_images: int) -> None:
        """Declares the array.

        Raises:
            InputError: where the layer has no maps.
        """
        self._declare((n_images, layer.units, *map_size(layer)))
        self._buffer = RowBuffer(max(1, _BLOCK_BYTES // max(1, self.nbytes(layer, 1))))

    def update(self, layer: str, start: int, pooled: Tensor, maps: Tensor | None) -> None:
        """Takes in a batch."""
        assert maps is not None
        self._write(self._buffer.add(start, maps.contiguous()))

    def finish(self) -> None:
        """Writes what is left."""
        self._write(self._buffer.take())

    def save(self, put: Put) -> None:
        """See `parts.Joinable`: there are rows only."""

    def join(self, part: SeenPart) -> None:
        """See `parts.Joinable`."""
        copy_rows(part, self._writer, *self.datasets)

    def _declare(self, shape: tuple[int, int, int, int]) -> None:
        self._writer.create(self._dataset, shape, np.float32)

    def _write(self, block: tuple[int, Tensor] | None) -> None:
        if block is not None:
            self._writer.write(self._dataset, block[0], block[1].cpu().numpy())


def map_size(layer: LayerInfo) -> tuple[int, int]:
    """Height and width of a layer's maps.

    Raises:
        InputError: where it has none.
    """
    if layer.map_size is None:
        raise InputError(
            f"layer {layer.name!r} has no activation maps: its tokens form no square",
            where=layer.name,
            hint="use a detector that works on pooled activations",
        )
    return layer.map_size


class UnitRange:
    """Smallest and largest pooled activation of each unit, and with them the dead units.

    Args:
        layer: whose.

    Attributes:
        minimum: (C,) float32 on the CPU after `finish`; +inf for a unit that never gave a number.
        maximum: likewise; -inf for a unit that never gave a number.
        non_numbers: (C,) int64, how many images gave NaN.
    """

    needs_maps = False

    def __init__(self, layer: str) -> None:
        self.layers = (layer,)
        self.minimum = self.maximum = torch.empty(0)
        self.non_numbers = torch.empty(0, dtype=torch.int64)

    def start(self, layer: LayerInfo, n_images: int) -> None:
        """Forgets everything."""
        self.minimum = torch.full((layer.units,), torch.inf)
        self.maximum = -self.minimum
        self.non_numbers = torch.zeros(layer.units, dtype=torch.int64)

    def update(self, layer: str, start: int, pooled: Tensor, maps: Tensor | None) -> None:
        """Takes in a batch; the state follows it to its device."""
        device = pooled.device
        low, high = activation_range(pooled)
        self.minimum = torch.minimum(self.minimum.to(device), low)
        self.maximum = torch.maximum(self.maximum.to(device), high)
        self.non_numbers = self.non_numbers.to(device) + pooled.isnan().sum(0)

    def finish(self) -> None:
        """Brings the result to the CPU."""
        self.minimum, self.maximum = self.minimum.cpu(), self.maximum.cpu()
        self.non_numbers = self.non_numbers.cpu()

    @property
    def dead(self) -> Tensor:
        """(C,) bool: units whose activation is the same for all images, or never a number."""
        return without_range(self.minimum, self.maximum)

    def merge(self, other: UnitRange) -> None:
        """Takes in what another run saw of other images of the same set."""
        self.minimum = torch.minimum(self.minimum, other.minimum)
        self.maximum = torch.maximum(self.maximum, other.maximum)
        self.non_numbers = self.non_numbers + other.non_numbers

    def save(self, put: Put) -> None:
        """See `parts.Joinable`."""
        for name in ("minimum", "maximum", "non_numbers"):
            put(name, getattr(self, name).numpy())

    def join(self, part: SeenPart) -> None:
        """See `parts.Joinable`."""
        other = UnitRange(self.layers[0])
        for name in ("minimum", "maximum", "non_numbers"):
            setattr(other, name, part.read(name))
        self.merge(other)
