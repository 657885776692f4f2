"""Masks laid over the wrong images: what a unit that knows nothing of the labels reaches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from concept_monitor_cli.functional.dissection.counts import (
    ImageLabels,
    IoUCounts,
    Normaliser,
    category_bits,
    check_images,
    check_normaliser,
    image_group,
    known_planes,
    mask_groups,
    overlap_ratio,
    pixel_prefix,
    pixels_inside,
)
from concept_monitor_cli.functional.dissection.masks import IntArray, UnitMasks, gather_runs


def shuffled_support(
    labels: Iterable[ImageLabels],
    masks: UnitMasks,
    counts: IoUCounts,
    normaliser: Normaliser = "category",
    *,
    rounds: int = 20,
    seed: int = 0,
    memory: int = 1 << 27,
) -> torch.Tensor:
    """The best `supported_iou` of every unit when its masks are laid over the wrong images: chance.

    In every round the images are put into a random order and each unit's masks are rotated along it by a
    random number of places of its own, never by zero. Every image then meets another image's mask, each mask
    is used once, and shape and number of a unit's masks stay as they are: what is broken is the pairing
    alone. (The rotations of an order form a group, so the rank of the true pairing among them is uniform
    under the null.) All counts are exact recounts.

    20 rounds, because `1 / 0.05 = 20`: pooled over the layer, they are the fewest with which a single unit
    can pass Benjamini-Hochberg at 0.05, as its add-one p-value can fall below `0.05 / C`.

    Args:
        labels: as for `iou_counts`. Read once, or several times where `memory` asks for it.
        masks: the masks of the whole probe set.
        counts: `iou_counts` of the same.
        normaliser: as for `iou`.
        rounds: R, draws per unit.
        seed: of the order and the rotations.
        memory: bytes for the counts of all rounds (8 * R * C * M). Where they take more, the rounds are done
            in several passes over the labels.

    Returns:
        (R, C) float64, for `pooled_p_values`.

    Raises:
        ValueError: fewer than two images, counts of other images, or as `iou_counts`.
    """
    check_normaliser(normaliser)
    if masks.n_images < 2:
        raise ValueError("at least two images are needed to break the pairing of images and masks")
    if len(counts.area) != masks.n_units or counts.n_images != masks.n_images:
        raise ValueError("the counts and the masks are not of the same images and units")
    if isinstance(labels, Iterator):
        labels = list(labels)
    rotations = Rotations.draw(masks.n_images, masks.n_units, rounds, np.random.default_rng(seed))
    row_of = np.full((masks.n_images, masks.n_units), -1, dtype=np.int32)
    row_of[masks.image, masks.unit] = np.arange(len(masks), dtype=np.int32)
    step = max(1, min(rounds, memory // max(1, 8 * counts.intersection.size)))
    best = []
    for first in range(0, rounds, step):
        part = rotations.part(first, min(first + step, rounds))
        best.append(_draws(labels, masks, row_of, part, counts, normaliser))
    return torch.from_numpy(np.concatenate(best))


def shuffled_masks(masks: UnitMasks, *, seed: int = 0) -> UnitMasks:
    """The masks laid over the wrong images, as in one round of `shuffled_support`: for nulls of other scores.

    A formula's null, say: cells of these masks, and the search over them, give one draw for every unit.

    Raises:
        ValueError: fewer than two images.
    """
    if masks.n_images < 2:
        raise ValueError("at least two images are needed to break the pairing of images and masks")
    rotations = Rotations.draw(masks.n_images, masks.n_units, 1, np.random.default_rng(seed))
    place = rotations.place[0, masks.image] - rotations.shift[0, masks.unit]
    image = rotations.order[0, place % masks.n_images]
    rows = np.lexsort((masks.unit, image)).astype(np.int32)
    edges, offsets = gather_runs(masks, rows)
    return UnitMasks(
        masks.n_images,
        masks.n_units,
        masks.size,
        image[rows].astype(np.int32),
        masks.unit[rows],
        offsets.astype(np.int64),
        edges,
    )


@dataclass(frozen=True)
class Rotations:
    """Round r pairs image `order[r, p]` with unit k's mask on image `order[r, (p + shift[r, k]) % N]`."""

    order: IntArray  # (R, N)
    place: IntArray  # (R, N), its inverse
    shift: IntArray  # (R, C), 1..N-1

    @staticmethod
    def draw(n_images: int, n_units: int, rounds: int, generator: np.random.Generator) -> Rotations:
        """Random orders, and shifts that are never zero."""
        order = np.stack([generator.permutation(n_images) for _ in range(rounds)])
        shift = generator.integers(1, n_images, size=(rounds, n_units))
        return Rotations(order, np.argsort(order, axis=1), shift)

    def part(self, first: int, stop: int) -> Rotations:
        """The rounds from `first` to `stop`."""
        return Rotations(self.order[first:stop], self.place[first:stop], self.shift[first:stop])

    def source(self, image: int) -> IntArray:
        """The image whose mask meets this image's labels: (R, C)."""
        places = (self.place[:, image, None] + self.shift) % self.order.shape[1]
        return np.take_along_axis(self.order, places, axis=1)


def _draws(
    labels: Iterable[ImageLabels],
    masks: UnitMasks,
    row_of: NDArray[np.int32],
    rotations: Rotations,
    counts: IoUCounts,
    normaliser: Normaliser,
) -> NDArray[np.float64]:
    """The rotations' rounds, counted in one pass over the labels: (R, C) best supported IoU."""
    n_labels = len(counts.label_area)
    rounds, units = rotations.shift.shape
    bits = category_bits(counts.label_categories)
    categories, column = np.unique(bits, return_inverse=True)
    areas = masks.areas()
    # A unit fires on 0.5 % of the pixels: int32 holds them up to tens of millions of images.
    shared, luckiest = np.zeros((2, rounds * units, n_labels), dtype=np.int32)
    counted = np.zeros((rounds * units, len(categories)), dtype=np.int64)
    unit = np.arange(units)
    seen = 0
    for seen, image in enumerate(labels, start=1):
        if seen > masks.n_images:
            break
        rows = row_of[rotations.source(seen - 1), unit].ravel()
        draws = np.flatnonzero(rows >= 0)
        if not len(draws):
            continue
        indices, planes = known_planes(image, masks.size, n_labels)
        rows = rows[draws]
        edges, offsets = gather_runs(masks, rows)
        inside = pixels_inside(edges, offsets, pixel_prefix(planes))
        cells = np.ix_(draws, indices)
        shared[cells] += inside
        luckiest[cells] = np.maximum(luckiest[cells], inside)
        if normaliser != "none":
            label_bits = bits[indices]
            group = (
                np.full(len(rows), image_group(label_bits))
                if normaliser == "category"
                else mask_groups(inside, label_bits)
            )
            counted[draws] += np.where(group[:, None] & categories, areas[rows][:, None], 0)
    check_images(seen, masks)
    if normaliser == "none":
        counted[:] = np.tile(counts.area, rounds)[:, None]
    best = np.zeros((rounds, units))
    for each in range(rounds):
        part = slice(each * units, (each + 1) * units)
        inside, area = shared[part], counted[part][:, column]
        supported = overlap_ratio(inside - luckiest[part], area, counts.label_area, inside)
        best[each] = supported.max(axis=1, initial=0)
    return best
