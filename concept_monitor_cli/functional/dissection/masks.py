"""Where units fire, as runs of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from concept_monitor_cli.functional.dissection.thresholds import comparable
from concept_monitor_cli.functional.groups import ImageGroups

IntArray = NDArray[np.int64]

# A GPU works on so many times more pairs at a time: each block is waited for.
_DEVICE_BLOCKS = 32


@dataclass(frozen=True)
class UnitMasks:
    """Where units fire, for the pairs of an image and a unit that fires there at all, as runs of pixels.

    Pixels are numbered in reading order, `row * width + column`.

    Attributes:
        n_images: images covered, with those on which nothing fires.
        n_units: units of the layer.
        size: (height, width) of the masks.
        image: (n,) int32, the image of each pair, ascending.
        unit: (n,) int32, the unit of each pair, ascending within an image.
        offsets: (n + 1,) int64; the runs of pair i are `edges[offsets[i]:offsets[i + 1]]`.
        edges: start and stop of each run in turn, uint16 where the size allows, else uint32.
    """

    n_images: int
    n_units: int
    size: tuple[int, int]
    image: NDArray[np.int32]
    unit: NDArray[np.int32]
    offsets: IntArray
    edges: NDArray[Any]

    def __len__(self) -> int:
        return len(self.image)

    @property
    def nbytes(self) -> int:
        """Memory that the arrays take."""
        return self.image.nbytes + self.unit.nbytes + self.offsets.nbytes + self.edges.nbytes

    def areas(self) -> IntArray:
        """Pixels of each pair's mask: (n,)."""
        if not len(self):
            return np.zeros(0, dtype=np.int64)
        run_lengths = self.edges[1::2] - self.edges[0::2]
        areas: IntArray = np.add.reduceat(run_lengths, self.offsets[:-1] // 2, dtype=np.int64)
        return areas

    def firing_groups(self, groups: ImageGroups | None = None) -> IntArray:
        """On how many images, or groups of images, each unit fires: (n_units,)."""
        group = self.image if groups is None else groups.of[self.image]
        pairs = np.unique(np.stack([self.unit, group]), axis=1)
        return np.bincount(pairs[0], minlength=self.n_units).astype(np.int64)

    def image_rows(self) -> IntArray:
        """(n_images + 1,): the pairs of image i are rows `[i]` to `[i + 1]`."""
        return np.searchsorted(self.image, np.arange(self.n_images + 1)).astype(np.int64)

    def pixels(self, first: int, stop: int) -> tuple[IntArray, IntArray]:
        """The pixels of pairs `first` to `stop`: (row counted from `first`, pixel), both (number of
        pixels,)."""
        edges = self.edges[self.offsets[first] : self.offsets[stop]].astype(np.int64)
        starts, lengths = edges[0::2], edges[1::2] - edges[0::2]
        rows = np.repeat(np.arange(stop - first), np.diff(self.offsets[first : stop + 1]) // 2)
        before = np.cumsum(lengths) - lengths
        pixels = np.arange(int(lengths.sum())) + np.repeat(starts - before, lengths)
        return np.repeat(rows, lengths), pixels

    def part(self, images: IntArray, units: IntArray) -> UnitMasks:
        """The masks of some units on some images, renumbered in their order; both ascend."""
        image, unit = (np.full(n, -1, dtype=np.int32) for n in (self.n_images, self.n_units))
        image[images], unit[units] = np.arange(len(images)), np.arange(len(units))
        rows = np.flatnonzero((image[self.image] >= 0) & (unit[self.unit] >= 0))
        edges, offsets = gather_runs(self, rows)
        return UnitMasks(
            len(images),
            len(units),
            self.size,
            image[self.image[rows]],
            unit[self.unit[rows]],
            offsets.astype(np.int64),
            edges,
        )

    def dense(self) -> NDArray[np.bool_]:
        """All masks as booleans (n_images, n_units, height, width): for small sizes and for pictures."""
        masks = np.zeros((self.n_images, self.n_units, self.size[0] * self.size[1]), dtype=bool)
        rows, pixels = self.pixels(0, len(self))
        masks[self.image[rows], self.unit[rows], pixels] = True
        return masks.reshape(self.n_images, self.n_units, *self.size)

    @staticmethod
    def from_dense(masks: NDArray[np.bool_]) -> UnitMasks:
        """The same from booleans (n_images, n_units, height, width)."""
        n_images, n_units, height, width = masks.shape
        pixels = height * width
        flat = masks.reshape(n_images, n_units, pixels)
        image, unit = np.nonzero(flat.any(axis=2))
        pair, pixel = np.nonzero(flat[image, unit])
        counts, edges = _runs(pair * (pixels + 1) + pixel, len(image), pixels)
        return UnitMasks(
            n_images=n_images,
            n_units=n_units,
            size=(height, width),
            image=image.astype(np.int32),
            unit=unit.astype(np.int32),
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            edges=edges,
        )

    @staticmethod
    def join(parts: Sequence[UnitMasks]) -> UnitMasks:
        """The masks of consecutive batches of images as one.

        Raises:
            ValueError: no parts, or parts of another layer or size.
        """
        if not parts:
            raise ValueError("no masks to join")
        n_units, size = parts[0].n_units, parts[0].size
        if any(part.n_units != n_units or part.size != size for part in parts):
            raise ValueError("masks of different layers or sizes cannot be joined")
        first_image = np.cumsum([0, *(part.n_images for part in parts)])
        first_edge = np.cumsum([0, *(len(part.edges) for part in parts)])
        return UnitMasks(
            int(first_image[-1]),
            n_units,
            size,
            np.concatenate([part.image + np.int32(n) for part, n in zip(parts, first_image, strict=False)]),
            np.concatenate([part.unit for part in parts]),
            np.concatenate(
                [
                    np.zeros(1, dtype=np.int64),
                    *(part.offsets[1:] + n for part, n in zip(parts, first_edge, strict=False)),
                ]
            ),
            np.concatenate([part.edges for part in parts]),
        )

    @staticmethod
    def side_by_side(parts: Sequence[UnitMasks]) -> UnitMasks:
        """The masks of different units on the same images as one.

        Raises:
            ValueError: no parts, or parts on other images or of another size.
        """
        if len({(part.n_images, part.size) for part in parts}) != 1:
            raise ValueError("masks of one set of images and one size are needed")
        first = np.cumsum([0, *(part.n_units for part in parts)])
        image = np.concatenate([part.image for part in parts])
        unit = np.concatenate([part.unit + np.int32(n) for part, n in zip(parts, first, strict=False)])
        runs = np.concatenate([np.diff(part.offsets) for part in parts])
        offsets = np.concatenate([[0], np.cumsum(runs)]).astype(np.int64)
        edges = np.concatenate([part.edges for part in parts])
        order = np.lexsort((unit, image))
        whole = UnitMasks(parts[0].n_images, int(first[-1]), parts[0].size, image, unit, offsets, edges)
        edges, offsets = gather_runs(whole, order)
        return replace(
            whole, image=image[order], unit=unit[order], offsets=offsets.astype(np.int64), edges=edges
        )


def unit_masks(
    maps: torch.Tensor, thresholds: torch.Tensor, size: tuple[int, int], *, block: int = 256
) -> UnitMasks:
    """Where each unit's map, upsampled bilinearly to `size`, lies strictly above the unit's threshold.

    As `F.interpolate(mode="bilinear", align_corners=False)`: a map's value stands in the middle of its square
    of the image, as a mask's pixel does, which keeps the two grids aligned at any ratio.
    (`align_corners=True` would stretch the map so that its outer *centres* lie on the image's edge, and shift
    every mask outwards.)

    Interpolation is a weighted mean, so nothing above the threshold lies between values that are not. Pairs
    whose map nowhere exceeds it are skipped, and so is each stretch between two columns of a map that are
    both at or below it in that row of the mask: only the neighbourhood of what fires is computed.

    It is computed in float64, as `a + (b - a) * weight`, and must exceed `T` when rounded to float32: a
    plateau of equal values stays exactly at that value, and no rounding lifts a mean of values at the
    threshold above it (in float32 the weights of a plateau can add up to `T + ulp`). Maps are
    compared as the thresholds are (`comparable`). The result does not depend on what else is in the batch. A
    map that holds NaN and a unit whose threshold is not a finite number fire nowhere.

    Args:
        maps: (B, C, h, w), any float dtype, any device.
        thresholds: (C,) as from `activation_threshold`.
        size: (height, width) of the label masks.
        block: pairs computed at a time, which bounds memory; on a GPU 32 times as many.

    Raises:
        ValueError: shapes that do not fit.
    """
    if maps.ndim != 4 or thresholds.shape != maps.shape[1:2]:
        raise ValueError(
            "expected maps (B, C, h, w) and thresholds (C,), "
            f"not {tuple(maps.shape)} and {tuple(thresholds.shape)}"
        )
    thresholds = thresholds.to(device=maps.device, dtype=torch.float32)
    # (amax passes NaN on, and NaN is not above anything.)
    pairs = ((maps.flatten(2).amax(dim=2) > thresholds) & thresholds.isfinite()).nonzero()
    pixels = size[0] * size[1]
    places = _Places.of((maps.shape[2], maps.shape[3]), size, maps.device)
    if maps.device.type != "cpu":
        block *= _DEVICE_BLOCKS  # for each block the host waits four times
    counts, edges = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=edge_dtype(pixels))]
    for chunk in torch.split(pairs, block):
        image, unit = chunk.T
        fires = _above(comparable(maps[image, unit]), thresholds[unit], places).cpu().numpy()
        chunk_counts, chunk_edges = _runs(fires, len(chunk), pixels)
        counts.append(chunk_counts)
        edges.append(chunk_edges)
    edge_counts = np.concatenate(counts)
    # A peak of a map can lie between mask pixels where a map is finer than the masks: no pixel, no pair.
    pair = pairs.cpu().numpy().astype(np.int32)[edge_counts > 0]
    return UnitMasks(
        n_images=maps.shape[0],
        n_units=maps.shape[1],
        size=size,
        image=np.ascontiguousarray(pair[:, 0]),
        unit=np.ascontiguousarray(pair[:, 1]),
        offsets=np.concatenate([[0], np.cumsum(edge_counts[edge_counts > 0])]).astype(np.int64),
        edges=np.concatenate(edges),
    )


def interpolated(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Maps (n, h, w) upsampled as for `unit_masks`, computed in float64 and rounded: (n, height, width)
    float32."""
    numbers = maps.double()
    top, bottom, down = (each.to(maps.device) for each in _places(maps.shape[1], size[0]))
    left, right, weights = _places(maps.shape[2], size[1])
    across = weights.to(maps.device)
    upper = numbers[:, top]
    rows = torch.addcmul(upper, numbers[:, bottom] - upper, down[:, None])
    values = rows.new_empty(len(maps), *size)
    # Between two columns of the map at a time: to gather both for every pixel takes several times as long.
    stop = 0
    for column, count in enumerate(torch.bincount(left, minlength=maps.shape[2]).tolist()):
        here = slice(stop, stop + count)
        stop += count
        if count:
            start, end = rows[:, :, column, None], rows[:, :, int(right[here.start]), None]
            torch.addcmul(start, end - start, across[here], out=values[:, :, here])
    return values.float()


@dataclass(frozen=True)
class _Places:
    """How the pixels of a mask lie between the values of a map, on the device that computes.

    Attributes:
        size: of the mask.
        top: for each row of the mask the map's row before it.
        bottom: and the one after it.
        down: the weight of the latter.
        first: of each stretch from one column of the map to the next, the first column of the mask.
        weights: those of its columns, NaN after the last.
    """

    size: tuple[int, int]
    top: torch.Tensor
    bottom: torch.Tensor
    down: torch.Tensor
    first: torch.Tensor
    weights: torch.Tensor

    @classmethod
    @lru_cache(maxsize=16)
    def of(cls, maps: tuple[int, int], size: tuple[int, int], device: torch.device) -> _Places:
        """For maps of a size; found on the host, so that no device is waited for, and sent there once."""
        compute = torch.device("cpu") if device.type == "mps" else device  # MPS has no float64
        left, _, across = _places(maps[1], size[1])
        found = (*_places(maps[0], size[0]), *_stretches(left, across, maps[1]))
        return cls(size, *(each.to(compute) for each in found))


def _above(numbers: torch.Tensor, thresholds: torch.Tensor, places: _Places) -> torch.Tensor:
    """Pixels of upsampled maps (n, h, w) above thresholds (n,): ascending `map * (height * width + 1) +
    pixel`."""
    compute, size, top, bottom = places.top.device, places.size, places.top, places.bottom
    maps, limits = numbers.to(compute, torch.float64), thresholds.to(compute)
    # Half a float32 step above T: what exceeds it is what is above T when rounded to float32.
    limits = (limits.to(torch.float64) + limits.nextafter(torch.full_like(limits, torch.inf))) / 2
    # The mask's rows that lie next to a row of the map with something above the threshold.
    high = maps.amax(dim=2) > limits[:, None]
    found, row = (high[:, top] | high[:, bottom]).nonzero(as_tuple=True)
    v = places.down[row][:, None]
    upper = maps[found, top[row]]
    values = torch.addcmul(upper, maps[found, bottom[row]] - upper, v)  # (rows, w)
    limits = limits[found]
    # In these, the stretches of columns from one column of the map to the next with an end above it.
    high = values > limits[:, None]
    at, place = torch.logical_or(high, torch.cat([high[:, 1:], high[:, -1:]], dim=1)).nonzero(as_tuple=True)
    start, end = values[at, place], values[at, (place + 1).clamp(max=maps.shape[2] - 1)]
    above = torch.addcmul(start[:, None], (end - start)[:, None], places.weights[place]) > limits[at][:, None]
    which, step = above.nonzero(as_tuple=True)
    numbers = found[at] * (size[0] * size[1] + 1) + row[at] * size[1] + places.first[place]
    return numbers[which] + step


def _stretches(left: torch.Tensor, across: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each stretch: its first column of the mask (n,), and the weights of its columns, NaN after the
    last."""
    stretch = torch.arange(n, device=left.device)
    first = torch.searchsorted(left, stretch)
    stop = torch.searchsorted(left, stretch, right=True)
    column = first[:, None] + torch.arange(int((stop - first).max()), device=left.device)
    weights = across[column.clamp(max=len(across) - 1)]
    return first, weights.masked_fill(column >= stop[:, None], torch.nan)  # NaN is above nothing


def _places(n: int, out: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For each of `out` places along an axis of `n` values: the values before and after, and the latter's
    weight."""
    # Twice the numerator of (i + 1/2) n / out - 1/2 over 2 out, in integers: exact.
    numerator = ((2 * torch.arange(out) + 1) * n - out).clamp(min=0)
    before = (numerator // (2 * out)).clamp(max=n - 1)
    weight = (numerator - before * 2 * out).to(torch.float64) / (2 * out)
    return before, (before + 1).clamp(max=n - 1), weight


def _runs(fires: IntArray, n: int, pixels: int) -> tuple[IntArray, NDArray[Any]]:
    """Runs of the pixels `mask * (pixels + 1) + pixel`, ascending: edges per mask (n,), and all edges."""
    # The number left out between two masks ends a run at the end of a mask.
    breaks = np.flatnonzero(np.diff(fires) != 1)
    starts = fires[np.concatenate([[0], breaks + 1])] if len(fires) else fires
    stops = fires[np.concatenate([breaks, [len(fires) - 1]])] + 1 if len(fires) else fires
    mask, start = np.divmod(starts, pixels + 1)
    edges = np.stack([start, stops - mask * (pixels + 1)], axis=1).ravel()
    return 2 * np.bincount(mask, minlength=n), edges.astype(edge_dtype(pixels))


def edge_dtype(pixels: int) -> type[np.uint16] | type[np.uint32]:
    """The type of the ends of runs in masks of so many pixels."""
    return np.uint16 if pixels <= np.iinfo(np.uint16).max else np.uint32


def gather_runs(masks: UnitMasks, rows: NDArray[Any]) -> tuple[NDArray[Any], IntArray]:
    """The runs of these pairs, one after the other: edges and offsets."""
    starts = masks.offsets[rows]
    lengths = masks.offsets[rows + 1] - starts
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return masks.edges[np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)], offsets
