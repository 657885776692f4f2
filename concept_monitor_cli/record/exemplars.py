"""A recording for lenses that look at exemplars: images in which units peak highest, and where in them."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from concept_monitor_cli.models.geometry import Geometry
from concept_monitor_cli.models.layers import LayerInfo
from concept_monitor_cli.record.consumers import Consumer, PooledWriter, UnitRange
from concept_monitor_cli.record.forward import RecordInfo
from concept_monitor_cli.record.parts import Place, Put, SeenPart
from concept_monitor_cli.record.quantile import UnitQuantile
from concept_monitor_cli.record.requests import Activations, Cost, Pass
from concept_monitor_cli.record.top_images import read_keys, sort_keys
from concept_monitor_cli.record.whole_maps import WholeMaps
from concept_monitor_cli.store import Entry, Key

#: Top images that are kept of a unit: copies and frames of one video are found among them later.
KEPT = 60
#: Share of all positions above a unit's threshold: its region is what lies above its .99 quantile (MILAN).
FRACTION = 0.01
#: Regions are kept in at most this many cells a side.
CELLS = 14

_NONE = torch.iinfo(torch.int64).min


@dataclass(frozen=True)
class Exemplars:
    """Pooled activations, the images in which every unit peaks highest, and its region in each.

    The entry holds `pooled` (`N x C`, float32), `live` (`C`, bool), `top_images` (`C x K`, -1 where there are
    fewer), `top_values` (`C x K`, the highest value of the map; of a layer without maps the activation),
    `lowest` (`C`, the lowest of these over all images), `thresholds` (`C`) and `regions` (`C x K x h x w`,
    bool: cells in which the map is above the unit's threshold anywhere; `h` and `w` at most `CELLS`, 1 for a
    layer without maps, whose only cell is the whole image). Its meta has the `geometry` of the images.

    Attributes:
        top_k: `K`.
        fraction: of all positions, above a unit's threshold.
        cells: see above.
    """

    top_k: int = KEPT
    fraction: float = FRACTION
    cells: int = CELLS

    kind: ClassVar[str] = "exemplars"

    def settings(self) -> dict[str, Any]:
        """See `Recording`."""
        return {"top_k": self.top_k, "fraction": self.fraction, "cells": self.cells}

    def cost(self, layer: LayerInfo, n_images: int) -> Cost:
        """See `Recording`."""
        height, width = _cells(layer, self.cells)
        return Cost(1, layer.units * (4 * n_images + (12 + height * width) * self.top_k + 9))

    def begin(self, stack: ExitStack, store: Place, key: Key, layer: LayerInfo, n_images: int) -> Pass:
        """See `Recording`."""
        writer = stack.enter_context(store.writer(key))
        peaks, extent = _Peaks(layer, self.top_k, self.cells), UnitRange(layer.name)
        quantile = UnitQuantile(layer.name, self.fraction) if _has_maps(layer) else None

        def complete(info: RecordInfo) -> None:
            images, values = peaks.found()
            if quantile is None:
                limits, regions = peaks.lowest.clone(), torch.ones(*images.shape, 1, 1, dtype=torch.bool)
            else:
                limits = quantile.threshold()
                regions = peaks.maps > limits[:, None, None, None]
            writer.put("top_images", images.numpy())
            writer.put("top_values", values.numpy())
            writer.put("lowest", peaks.lowest.numpy())
            writer.put("live", (~extent.dead).numpy())
            writer.put("thresholds", limits.numpy())
            writer.put("regions", regions.numpy())
            writer.meta["geometry"] = info.geometry.to_json()
            writer.meta["notes"] = info.notes(layer.name)

        listeners: list[Consumer] = [PooledWriter(layer.name, writer), extent, peaks]
        if quantile is not None:
            listeners.append(quantile)
        return Pass(listeners, complete)


#: Kinds of recordings that hold the pooled activations of all images.
POOLED_KINDS = (Activations.kind, Exemplars.kind, WholeMaps.kind)


def holds_pooled(recording: str) -> bool:
    """Whether a recording, as a table's record names it, holds the pooled activations of all images."""
    return recording.partition("/")[0] in POOLED_KINDS


def geometry_of(entry: Entry) -> Geometry:
    """Which part of each image the network saw, of an entry that `Exemplars` made."""
    return Geometry(**entry.meta["geometry"])


def _has_maps(layer: LayerInfo) -> bool:
    return layer.map_size not in (None, (1, 1))


def _cells(layer: LayerInfo, most: int) -> tuple[int, int]:
    height, width = layer.map_size or (1, 1)
    return min(height, most), min(width, most)


class _Peaks:
    """The images in which every unit peaks highest with its maps there, while they pass by.

    Ties go to the lower image, as in `TopImages`.

    Attributes:
        needs_maps: whether the layer has any.
        lowest: `(C,)` float32, the lowest peak; +inf for a unit that never gave a number.
        maps: `(C, K, h, w)` float32, the highest value of each cell.
    """

    def __init__(self, layer: LayerInfo, k: int, cells: int) -> None:
        self.layers = (layer.name,)
        self.needs_maps = _has_maps(layer)
        self._k, self._cells = k, _cells(layer, cells)
        self._keys = self.maps = self.lowest = torch.empty(0)

    def start(self, layer: LayerInfo, n_images: int) -> None:
        """Forgets everything."""
        self._keys = torch.full((layer.units, self._k), _NONE)
        self.lowest = torch.full((layer.units,), torch.inf)
        self.maps = torch.full((layer.units, self._k, *self._cells), -torch.inf)

    def update(self, layer: str, start: int, pooled: Tensor, maps: Tensor | None) -> None:
        """Takes in a batch."""
        cells = pooled[:, :, None, None] if maps is None else adaptive_max_pool2d(maps.float(), self._cells)
        # Few of a batch's maps are among the highest: what is kept stays on the CPU.
        cells = cells.transpose(0, 1).float().cpu()
        peaks = cells.amax((2, 3))
        numbers = peaks.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)
        self.lowest = torch.minimum(self.lowest, numbers.amin(1))
        images = torch.arange(start, start + peaks.shape[1])
        keys = sort_keys(peaks, images)
        # After the first images few units have a new one among their highest.
        rows = torch.nonzero(keys.amax(1) > self._keys[:, -1])[:, 0]
        self._take(rows, keys[rows], cells[rows])

    def finish(self) -> None:
        """Nothing is left to do."""

    def save(self, put: Put) -> None:
        """See `parts.Joinable`."""
        put("keys", self._keys.numpy())
        put("lowest", self.lowest.numpy())
        put("maps", self.maps.numpy())

    def join(self, part: SeenPart) -> None:
        """See `parts.Joinable`."""
        self.lowest = torch.minimum(self.lowest, part.read("lowest"))
        self._take(torch.arange(len(self._keys)), part.read("keys"), part.read("maps"))

    def _take(self, rows: Tensor, keys: Tensor, maps: Tensor) -> None:
        """Takes in other images of some units, `(n, b)` keys with their maps."""
        self._keys[rows], places = torch.cat([self._keys[rows], keys], 1).topk(self._k, dim=1)
        own = places[:, :, None, None].expand(-1, -1, *self._cells)
        self.maps[rows] = torch.cat([self.maps[rows], maps], 1).gather(1, own)

    def found(self) -> tuple[Tensor, Tensor]:
        """`(C, K)` images, -1 where there were fewer, and their peaks, -inf there."""
        values, images = read_keys(self._keys)
        return images, values
