"""Network Dissection and the beam search once more, written slowly and literally from their definitions.

Nothing here shares a line with the package, except that the beam search breaks ties in the order that the
package documents, by `Formula.key`. Pixels are looked at one by one, or, for real photos, mask by mask.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from concept_monitor_cli.functional.compositional import Formula

Masks = NDArray[np.bool_]


@dataclass(frozen=True)
class Labels:
    """What is labelled in an image: label maps, -1 where unlabelled, and labels of the whole image."""

    maps: tuple[NDArray[np.int32], ...]
    scalars: tuple[int, ...] = ()


def threshold(values: Sequence[float], fraction: Fraction) -> float:
    """The smallest value that occurs with at most this share of the values above it."""
    for candidate in sorted(set(values)):
        if Fraction(sum(value > candidate for value in values), len(values)) <= fraction:
            return candidate
    raise AssertionError("the largest value has nothing above it")


def bilinear(values: NDArray[Any], size: tuple[int, int]) -> list[list[Fraction]]:
    """Bilinear upsampling with half-pixel centres, in exact fractions."""
    height, width = values.shape

    def source(i: int, n: int, out: int) -> tuple[int, int, Fraction]:
        place = max(Fraction(2 * i + 1, 2) * Fraction(n, out) - Fraction(1, 2), Fraction(0))
        low = min(math.floor(place), n - 1)
        return low, min(low + 1, n - 1), place - low

    result = []
    for i in range(size[0]):
        top, bottom, v = source(i, height, size[0])
        row = []
        for j in range(size[1]):
            left, right, u = source(j, width, size[1])
            a, b, c, d = (
                Fraction(float(values[y, x]))
                for y, x in ((top, left), (top, right), (bottom, left), (bottom, right))
            )
            row.append((1 - v) * ((1 - u) * a + u * b) + v * ((1 - u) * c + u * d))
        result.append(row)
    return result


def labels_at(image: Labels, y: int, x: int) -> set[int]:
    """All labels of a pixel."""
    return {int(each[y, x]) for each in image.maps if each[y, x] >= 0} | set(image.scalars)


def count_by_pixel(
    images: Sequence[Labels], masks: Masks, categories: Sequence[int]
) -> tuple[NDArray[Any], NDArray[Any], dict[str, NDArray[Any]]]:
    """I (C, M), G (M,) and A (C, M) for each normaliser, pixel by pixel; masks (N, C, h, w)."""
    n, units, height, width = masks.shape
    m = len(categories)
    shared, size = np.zeros((units, m), dtype=int), np.zeros(m, dtype=int)
    area = {each: np.zeros((units, m), dtype=int) for each in ("category", "mask", "none")}
    for i in range(n):
        in_image = {
            categories[c] for y in range(height) for x in range(width) for c in labels_at(images[i], y, x)
        }
        for y in range(height):
            for x in range(width):
                for c in labels_at(images[i], y, x):
                    size[c] += 1
        for k in range(units):
            under: set[int] = set()
            pixels = 0
            for y in range(height):
                for x in range(width):
                    if masks[i, k, y, x]:
                        pixels += 1
                        for c in labels_at(images[i], y, x):
                            shared[k, c] += 1
                            under.add(categories[c])
            for c in range(m):
                area["none"][k, c] += pixels
                if categories[c] >= 0 and categories[c] in in_image:
                    area["category"][k, c] += pixels
                if categories[c] >= 0 and categories[c] in under:
                    area["mask"][k, c] += pixels
    return shared, size, area


def count_by_mask(
    images: Sequence[Labels], masks: Masks, categories: Sequence[int]
) -> tuple[NDArray[Any], NDArray[Any], dict[str, NDArray[Any]]]:
    """The same with one boolean mask per image, unit and label: for real photos."""
    n, units, height, width = masks.shape
    m = len(categories)
    shared, size = np.zeros((units, m), dtype=int), np.zeros(m, dtype=int)
    area = {each: np.zeros((units, m), dtype=int) for each in ("category", "mask", "none")}
    for i in range(n):
        planes = {}
        for c in sorted(
            {int(v) for each in images[i].maps for v in np.unique(each)} | set(images[i].scalars)
        ):
            if c < 0:
                continue
            plane = np.full((height, width), c in images[i].scalars)
            for each in images[i].maps:
                plane |= each == c
            planes[c] = plane
            size[c] += plane.sum()
        for k in range(units):
            mask = masks[i, k]
            pixels = mask.sum()
            under = set()
            for c, plane in planes.items():
                both = (mask & plane).sum()
                shared[k, c] += both
                if both:
                    under.add(categories[c])
            if not pixels:
                continue
            carried = {categories[p] for p in planes} - {-1}
            for c in range(m):
                area["none"][k, c] += pixels
                area["category"][k, c] += pixels * (categories[c] in carried)
                area["mask"][k, c] += pixels * (categories[c] in under - {-1})
    return shared, size, area


def iou(shared: NDArray[Any], size: NDArray[Any], area: NDArray[Any]) -> NDArray[np.float64]:
    """I / (A + G - I), 0 for 0 / 0."""
    result = np.zeros(shared.shape)
    for k, c in np.ndindex(*shared.shape):
        union = area[k, c] + size[c] - shared[k, c]
        result[k, c] = shared[k, c] / union if union else 0.0
    return result


def supported_iou(
    shared_by_image: Sequence[NDArray[Any]], size: NDArray[Any], area: NDArray[Any]
) -> NDArray[np.float64]:
    """IoU of which the intersection with the luckiest image is taken away; from I (C, M) of each image."""
    result = np.zeros(shared_by_image[0].shape)
    for k, c in np.ndindex(*result.shape):
        parts = sorted(int(shared[k, c]) for shared in shared_by_image)
        union = area[k, c] + size[c] - sum(parts)
        result[k, c] = sum(parts[:-1]) / union if union else 0.0
    return result


def luckiest(
    images: Sequence[Labels], masks: Masks, categories: Sequence[int], groups: Sequence[int]
) -> NDArray[Any]:
    """The most that the images of one group add to the intersection of a unit and a label: (C, M)."""
    sums = []
    for group in sorted(set(groups)):
        members = [i for i, each in enumerate(groups) if each == group]
        sums.append(sum(count_by_mask([images[i]], masks[i : i + 1], categories)[0] for i in members))
    return np.max(sums, axis=0)


def tested_label(
    images: Sequence[Labels],
    masks: Masks,
    categories: Sequence[int],
    groups: Sequence[int],
    normaliser: str,
    rule: str,
) -> NDArray[np.float64]:
    """The supported IoU of the label that comes first by the rule, or 0 where a unit has none: (C,)."""
    shared, size, area = count_by_mask(images, masks, categories)
    most = luckiest(images, masks, categories, groups)
    plain, found = iou(shared, size, area[normaliser]), np.zeros(len(shared))
    for k in range(len(shared)):
        supported = []
        for c in range(len(categories)):
            union = area["none"][k, c] + size[c] - shared[k, c]
            supported.append((shared[k, c] - most[k, c]) / union if union else 0.0)
        ranking = supported if rule == "supported" else plain[k].tolist()
        first = ranking.index(max(ranking))
        found[k] = supported[first]
    return found


def stable_label(
    images: Sequence[Labels],
    masks: Masks,
    concepts: Sequence[Masks],
    counted: Sequence[Masks],
    groups: Sequence[int],
    draw: Sequence[int],
    rule: str,
) -> int:
    """Which of some concepts is the best of one unit in a resample of the groups; -1 for none.

    Args:
        images: of the set.
        masks: (N, h, w) of the unit.
        concepts: for each candidate where it is, (N, h, w).
        counted: for each candidate the pixels of the unit that count against it, (N, h, w).
        groups: of each image.
        draw: how often each group was drawn.
        rule: `supported` or `iou`.
    """
    scores = []
    for concept, own in zip(concepts, counted, strict=True):
        both = area = size = 0
        of_group = [0] * len(draw)
        for i in range(len(images)):
            weight = draw[groups[i]]
            inside = int((concept[i] & masks[i]).sum())
            both += weight * inside
            of_group[groups[i]] += weight * inside
            area += weight * int(own[i].sum())
            size += weight * int(concept[i].sum())
        part = both - max(of_group) if rule == "supported" else both
        union = area + size - both
        scores.append(part / union if union else 0.0)
    return scores.index(max(scores)) if max(scores) > 0 else -1


def planes(images: Sequence[Labels], n_labels: int, size: tuple[int, int]) -> Masks:
    """The mask of every label over the whole set: (M, N * h * w)."""
    result = np.zeros((n_labels, len(images), *size), dtype=bool)
    for i, image in enumerate(images):
        for c in image.scalars:
            result[c, i] = True
        for each in image.maps:
            for c in np.unique(each[each >= 0]):
                result[c, i] |= each == c
    return result.reshape(n_labels, -1)


@dataclass(frozen=True)
class Scored:
    """A formula, where it holds, and how well it fits."""

    formula: Formula
    holds: Masks
    iou: float


def beam_search(concepts: Masks, unit: Masks, area: Any, *, length: int, beam: int) -> list[Scored]:
    """Brute force: every extension of every formula of the beam is built as a mask and scored.

    Args:
        concepts: (M, pixels).
        unit: (pixels,).
        area: from the set of concepts of a formula to the unit's pixels that count.
        length: longest formula.
        beam: formulas kept.

    Returns:
        the best formula of at most 1, 2, .. `length` concepts.
    """

    def scored(formula: Formula, holds: Masks) -> Scored:
        both = int((holds & unit).sum())
        union = area(formula.names) + int(holds.sum()) - both
        return Scored(formula, holds, both / union if union else 0.0)

    def cut(pool: dict[Formula, Scored]) -> list[Scored]:
        met = [each for each in pool.values() if each.iou > 0]
        return sorted(met, key=lambda each: (-each.iou, each.formula.key))[:beam]

    kept = cut({Formula.of(c): scored(Formula.of(c), mask) for c, mask in enumerate(concepts)})
    best = kept[:1]
    while kept and len(best) < length:
        pool = {each.formula: each for each in kept}
        for parent in kept:
            for c, mask in enumerate(concepts):
                if c in parent.formula.names:
                    continue
                for operator, holds in (
                    ("OR", parent.holds | mask),
                    ("AND", parent.holds & mask),
                    ("AND NOT", parent.holds & ~mask),
                ):
                    if (holds == parent.holds).all():
                        continue  # says nothing new
                    formula = parent.formula.extended(operator, c)  # type: ignore[arg-type]
                    if formula not in pool:
                        pool[formula] = scored(formula, holds)
        kept = cut(pool)
        best.append(kept[0])
    return best
