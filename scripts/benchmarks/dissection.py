"""Network Dissection and compositional explanations against the literal loops: time, equal results.

The probe set is made up in the manner of the built-in one: shapes in colours over textures, with labels of
pixels in several maps and labels of whole images. Both sides get the same maps, thresholds and labels.

The literal threshold collects the values of every unit on every image and sorts them. The literal counting
resizes the map of every unit on every image and compares it with every label of the image; the literal beam
builds every candidate formula as a mask over all pixels. They run on few images, the beam for few units of
the layer. Compared is the processor time of one thread, which a busy machine changes little: of the counting
for the same images and units, of the search for the same images and per unit, as the cells of a layer are
counted once.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from concept_monitor_cli.functional import compositional as comp
from concept_monitor_cli.functional import dissection as nd
from concept_monitor_cli.models.layers import LayerInfo
from concept_monitor_cli.models.pooling import Layout
from concept_monitor_cli.record import UnitQuantile
from scripts.benchmarks.measure import Report, Row
from tests.functional import twins_dissection as twins

SIZE = (112, 112)
COLOURS, SHAPES, PARTS, TEXTURES, SCENES = 11, 24, 12, 12, 8
CATEGORIES = [0] * COLOURS + [1] * SHAPES + [2] * PARTS + [3] * TEXTURES + [4] * SCENES
#: Times faster than the literal loop that is asked for.
ASKED = {"thresholds": None, "counts": 20.0, "search": None}
#: Seconds that 512 masks and 20 labels of one image take as packed bits: one pass, nothing found twice.
PACKED_POPCOUNT = 2.0e-3


def probe_set(n: int, seed: int = 0) -> list[twins.Labels]:
    """Images with three coloured shapes of two parts each, and a scene or a texture."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    images = []
    for i in range(n):
        colour = np.full(SIZE, generator.integers(COLOURS), dtype=np.int32)
        shape, part = np.full(SIZE, -1, dtype=np.int32), np.full(SIZE, -1, dtype=np.int32)
        for _ in range(3):
            y, x = generator.integers(0, 112, size=2)
            radius = generator.integers(12, 36)
            inside = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
            kind = generator.integers(SHAPES)
            shape[inside] = COLOURS + kind
            colour[inside] = generator.integers(COLOURS)
            for half, where in enumerate((rows < y, rows >= y)):
                part[inside & where] = COLOURS + SHAPES + (2 * kind + half) % PARTS
        first = COLOURS + SHAPES + PARTS
        scalar = generator.integers(TEXTURES) if i % 2 else TEXTURES + generator.integers(SCENES)
        images.append(twins.Labels((colour, shape, part), (int(first + scalar),)))
    return images


def smooth_maps(n: int, units: int, side: int, seed: int = 0) -> torch.Tensor:
    """Maps (n, units, side, side) that are smooth, as a network's are, and mostly zero."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(n, units, 4, 4, generator=generator)
    return F.interpolate(coarse, (side, side), mode="bicubic").relu_().half()


def literal_counts(
    images: list[twins.Labels], maps: torch.Tensor, thresholds: torch.Tensor
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """I and A (`mask`), image by image and unit by unit, with a resize each, as the public code does it."""
    units = maps.shape[1]
    shared = np.zeros((units, len(CATEGORIES)), dtype=np.int64)
    area = np.zeros((units, max(CATEGORIES) + 1), dtype=np.int64)
    category = np.array(CATEGORIES)
    for image, unit_maps in zip(images, maps, strict=True):
        stacked = np.stack([each.ravel() for each in image.maps])
        for k in range(units):
            resized = F.interpolate(unit_maps[k][None, None].double(), SIZE, mode="bilinear")[0, 0]
            mask = (resized.float() > thresholds[k]).numpy().ravel()
            pixels = int(mask.sum())
            if not pixels:
                continue
            labels = stacked[:, mask]
            found = np.bincount(labels[labels >= 0], minlength=len(CATEGORIES))
            for scalar in image.scalars:
                found[scalar] += pixels
            shared[k] += found
            for c in np.unique(category[found > 0]):
                area[k, c] += pixels
    return shared, area


def counting(n_images: int, units: int, side: int, literal_images: int) -> dict[str, Any]:
    """Masks and counts: seconds, bytes, and the ratio to the literal loop."""
    images, maps = probe_set(n_images), smooth_maps(n_images, units, side)
    thresholds = nd.activation_threshold(maps)
    few, few_maps = images[:literal_images], maps[:literal_images]

    def count(
        images: list[twins.Labels], maps: torch.Tensor
    ) -> tuple[nd.UnitMasks, nd.IoUCounts, float, float]:
        start = time.process_time()
        parts = [nd.unit_masks(batch, thresholds, SIZE) for batch in maps.split(64)]
        masks = nd.UnitMasks.join(parts)
        middle = time.process_time()
        counts = nd.iou_counts(images, masks, CATEGORIES)
        return masks, counts, middle - start, time.process_time() - middle

    start = time.process_time()
    shared, area = literal_counts(few, few_maps, thresholds)
    literal = time.process_time() - start
    count(few[:2], few_maps[:2])  # what is loaded at the first call
    counted_thrice = [count(few, few_maps) for _ in range(3)]
    _, counts, masked, counted = sorted(counted_thrice, key=lambda each: each[2] + each[3])[1]
    equal = np.array_equal(counts.intersection, shared) and all(
        np.array_equal(counts.area_for(1 << c, "mask"), area[:, c]) for c in range(area.shape[1])
    )
    masks, counts, all_masked, all_counted = count(images, maps)
    start = time.process_time()
    nd.shuffled_support(images, masks, counts)
    return {
        "images": n_images,
        "units": units,
        "map": side,
        "masks_seconds": all_masked,
        "counts_seconds": all_counted,
        "twenty_shuffled_recounts_seconds": time.process_time() - start,
        "mask_bytes_per_image_and_unit": masks.nbytes / n_images / units,
        "literal_images": literal_images,
        "literal_seconds": literal,
        "seconds_for_the_same": masked + counted,
        "ratio": literal / (masked + counted),
        "equal": bool(equal),
    }


def searching(
    n_images: int, units: int, side: int, literal_images: int, literal_units: int
) -> dict[str, Any]:
    """The beam search of length 3 and beam 10: seconds a unit, and the ratio to the literal beam."""

    def prepare(n: int, units: int) -> tuple[list[twins.Labels], nd.UnitMasks, nd.IoUCounts]:
        images, maps = probe_set(n), smooth_maps(n, units, side)
        masks = nd.unit_masks(maps, nd.activation_threshold(maps), SIZE)
        return images, masks, nd.iou_counts(images, masks, CATEGORIES)

    def search(
        images: list[twins.Labels], masks: nd.UnitMasks, counts: nd.IoUCounts
    ) -> tuple[comp.LabelCells, list[list[comp.Explanation]], float, float]:
        start = time.process_time()
        counter = comp.CellCounter(masks.n_units, len(CATEGORIES))
        counter.update(images, masks)
        cells = counter.cells()
        middle = time.process_time()
        found = comp.compositional(cells, counts)
        return cells, found, middle - start, time.process_time() - middle

    images, masks, counts = prepare(literal_images, units)
    planes = twins.planes(images, len(CATEGORIES), SIZE)
    chosen = masks.dense()[:, :literal_units].swapaxes(0, 1).reshape(literal_units, -1)
    start = time.process_time()
    literal_found = [
        twins.beam_search(planes, pixels, lambda names, pixels=pixels: int(pixels.sum()), length=3, beam=10)
        for pixels in chosen
    ]
    literal = time.process_time() - start
    _, found, cut, searched = search(images, masks, counts)
    equal = [[each.formula for each in unit] for unit in found[:literal_units]] == [
        [each.formula for each in unit] for unit in literal_found
    ]
    cells, _, all_cut, all_searched = search(*prepare(n_images, units))
    return {
        "images": n_images,
        "units": units,
        "cells": len(cells.sizes),
        "cells_megabytes": 12 * cells.inside.nnz / 1e6,
        "cells_seconds": all_cut,
        "search_seconds": all_searched,
        "literal_images": literal_images,
        "literal_units": literal_units,
        "literal_seconds_a_unit": literal / literal_units,
        "seconds_a_unit_for_the_same": (cut + searched) / units,
        "ratio": literal / literal_units / ((cut + searched) / units),
        "equal": equal,
    }


def thresholds(n_images: int, units: int, side: int, batch: int = 32) -> dict[str, Any]:
    """The value that a unit exceeds at 0.5 % of all positions: seconds, and the ratio to the literal loop."""
    maps = smooth_maps(n_images, units, side).float()
    layer = LayerInfo(
        "layer", "Conv2d", (units, side, side), Layout("channels-first", grid=(side, side)), units, 0
    )

    def literal() -> torch.Tensor:
        found = []
        for unit in range(units):
            values = torch.cat([image[unit].flatten() for image in maps]).float()
            allowed = int(values.numel() * nd.QUANTILE)
            found.append(values.sort(descending=True).values[allowed])
        return torch.stack(found)

    def ours() -> torch.Tensor:
        quantile = UnitQuantile("layer", nd.QUANTILE)
        quantile.start(layer, n_images)
        for start in range(0, n_images, batch):
            quantile.update("layer", start, maps[:0], maps[start : start + batch])
        quantile.finish()
        return quantile.threshold()

    start = time.process_time()
    expected = literal()
    middle = time.process_time()
    found = ours()
    spent = time.process_time() - middle
    start_reading = time.process_time()
    maps.amax()
    return {
        "images": n_images,
        "units": units,
        "literal_seconds": middle - start,
        "seconds": spent,
        "seconds_to_read_the_maps_once": time.process_time() - start_reading,
        "ratio": (middle - start) / spent,
        "equal": bool(torch.equal(found, expected)),
    }


def bench(report: Report, *, quick: bool) -> None:
    """Thresholds, counts and search, on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = thresholds(64, 16, 7) if quick else thresholds(200, 512, 14)
        report(_row("thresholds", found, found["literal_seconds"] / found["seconds_to_read_the_maps_once"],
                    "the maps read once from memory"))  # fmt: skip
        found = counting(12, 16, 7, 4) if quick else counting(300, 512, 7, 40)
        per_image = found["literal_seconds"] / found["literal_images"]
        report(_row("counts", found, None if quick else per_image / PACKED_POPCOUNT,
                    "packed bits and popcount, 2 ms an image"))  # fmt: skip
        found = searching(8, 8, 7, 4, 1) if quick else searching(300, 512, 7, 40, 2)
        report(_row("search", found, None, "not known"))
    finally:
        torch.set_num_threads(before)


_TITLES = {
    "thresholds": "quantile of every unit's map",
    "counts": "masks and IoU counts",
    "search": "beam search, length 3, beam 10",
}


def _row(name: str, found: dict[str, Any], limit: float | None, limit_is: str) -> Row:
    # Not equal is not fast.
    ratio = found["ratio"] if found["equal"] else 0.0
    same = "equal" if found["equal"] else "NOT EQUAL"
    return Row(
        "masks", _TITLES[name], ratio, "x faster", ASKED[name],
        limit=limit, limit_is=limit_is, details=found, remark=f"results {same}",
    )  # fmt: skip
