"""Pixels that units and labels share, counted exactly, and the IoU that follows from the counts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from concept_monitor_cli.functional.dissection.masks import IntArray, UnitMasks
from concept_monitor_cli.functional.groups import ImageGroups

Normaliser = Literal["category", "mask", "none"]
NORMALISERS: tuple[Normaliser, ...] = ("category", "mask", "none")

# The IoU of a detector: Bau et al. 2017.
IOU_DETECTOR = 0.04


class ImageLabels(Protocol):
    """What is labelled in one image."""

    @property
    def maps(self) -> Sequence[NDArray[Any]]:
        """Maps (height, width) of label indices, -1 where unlabelled; a pixel may be labelled in several."""

    @property
    def scalars(self) -> Sequence[int]:
        """Indices of the labels that cover the whole image (scenes, textures)."""


def label_planes(labels: ImageLabels, size: tuple[int, int]) -> tuple[IntArray, NDArray[np.bool_]]:
    """The labels of an image and their masks: indices (L,), ascending, and booleans (L, height * width).

    A label that occurs in several maps at a pixel is there once.

    Raises:
        ValueError: a map of another size.
    """
    pixels = size[0] * size[1]
    flat = []
    for each in labels.maps:
        if each.shape != tuple(size):
            raise ValueError(
                f"a label map is {each.shape[0]} x {each.shape[1]}, the masks {size[0]} x {size[1]}"
            )
        flat.append(np.asarray(each, dtype=np.int64).ravel())
    highest = max([*(int(each.max()) for each in flat), *labels.scalars, -1])
    present = np.zeros(highest + 2, dtype=bool)
    for each in flat:
        present[each + 1] = True
    present[np.asarray(labels.scalars, dtype=np.int64) + 1] = True
    present[0] = False
    indices = np.flatnonzero(present) - 1
    column = np.cumsum(present) - 1
    planes = np.zeros((len(indices), pixels), dtype=bool)
    for each in flat:
        labelled = np.flatnonzero(each >= 0)
        planes[column[each[labelled] + 1], labelled] = True
    planes[column[np.asarray(labels.scalars, dtype=np.int64) + 1]] = True
    return indices, planes


def pixel_prefix(planes: NDArray[np.bool_]) -> NDArray[np.int32]:
    """How many pixels of each label come before each pixel: (pixels + 1, L)."""
    prefix = np.zeros((planes.shape[0], planes.shape[1] + 1), dtype=np.int32)
    np.cumsum(planes, axis=1, dtype=np.int32, out=prefix[:, 1:])
    return np.ascontiguousarray(prefix.T)


def pixels_inside(edges: NDArray[Any], offsets: IntArray, prefix: NDArray[np.int32]) -> NDArray[np.int32]:
    """Pixels of each label inside masks given as runs: (masks, L)."""
    from scipy.sparse import csr_matrix

    signs = np.tile(np.array([-1, 1], dtype=np.int32), len(edges) // 2)  # each run: minus start, plus stop
    ends = csr_matrix(
        (signs, edges.astype(np.int32), offsets - offsets[0]), shape=(len(offsets) - 1, len(prefix))
    )
    inside: NDArray[np.int32] = ends @ prefix
    return inside


@dataclass(frozen=True)
class IoUCounts:
    """Integer counts from which every IoU follows; two of them add up (batches, shards of a cluster job).

    `groups` are the sets of categories that were met, as bit masks (bit j: category j). How large a unit's
    mask is in the images that carry exactly such a set, and in those where the mask itself meets exactly such
    a set, is all that the three normalisers need, for a label and for a formula of labels alike.

    Attributes:
        intersection: (C, M) pixels that are in the unit's mask and in the label.
        luckiest: (C, M) how many of them lie in a single image, the one that has most, or in a single group
            of images: the copies of a photo are one image.
        label_area: (M,) pixels of the label in all images.
        area: (C,) pixels of the unit's mask in all images.
        groups: (G,) ascending bit masks.
        area_by_image: (C, G) pixels of the unit's mask in images that carry these categories.
        area_by_mask: (C, G) the same in images in which the mask meets these categories.
        label_categories: (M,) the category of each label, -1 for none.
        n_images: images counted.
    """

    intersection: IntArray
    luckiest: IntArray
    label_area: IntArray
    area: IntArray
    groups: IntArray
    area_by_image: IntArray
    area_by_mask: IntArray
    label_categories: IntArray
    n_images: int

    @staticmethod
    def empty(n_units: int, label_categories: Sequence[int] | IntArray) -> IoUCounts:
        """The counts of no image.

        Raises:
            ValueError: more than 62 categories, which a bit mask does not hold.
        """
        categories = np.asarray(label_categories, dtype=np.int64)
        if categories.max(initial=-1) >= 62 or categories.min(initial=0) < -1:
            raise ValueError("label categories are numbers from 0 to 61, or -1 for none")
        labels = len(categories)
        return IoUCounts(
            intersection=np.zeros((n_units, labels), dtype=np.int64),
            luckiest=np.zeros((n_units, labels), dtype=np.int64),
            label_area=np.zeros(labels, dtype=np.int64),
            area=np.zeros(n_units, dtype=np.int64),
            groups=np.empty(0, dtype=np.int64),
            area_by_image=np.zeros((n_units, 0), dtype=np.int64),
            area_by_mask=np.zeros((n_units, 0), dtype=np.int64),
            label_categories=categories,
            n_images=0,
        )

    def __add__(self, other: IoUCounts) -> IoUCounts:
        if self.intersection.shape != other.intersection.shape or not np.array_equal(
            self.label_categories, other.label_categories
        ):
            raise ValueError("counts of different layers or label sets do not add up")
        groups = np.union1d(self.groups, other.groups)
        by_image, by_mask = (np.zeros((len(self.area), len(groups)), dtype=np.int64) for _ in range(2))
        for part in (self, other):
            column = np.searchsorted(groups, part.groups)
            by_image[:, column] += part.area_by_image
            by_mask[:, column] += part.area_by_mask
        return IoUCounts(
            intersection=self.intersection + other.intersection,
            luckiest=np.maximum(self.luckiest, other.luckiest),
            label_area=self.label_area + other.label_area,
            area=self.area + other.area,
            groups=groups,
            area_by_image=by_image,
            area_by_mask=by_mask,
            label_categories=self.label_categories,
            n_images=self.n_images + other.n_images,
        )

    def area_for(self, categories: int, normaliser: Normaliser) -> IntArray:
        """The unit's pixels that count against a label, or a formula, of these categories.

        Args:
            categories: bit mask of the categories.
            normaliser: `category`: in images that carry a label of any of them; `mask`: in images in which
                one of them occurs under the mask; `none`: in all images.

        Returns:
            (C,) int64.
        """
        check_normaliser(normaliser)
        if normaliser == "none":
            return self.area
        areas = self.area_by_image if normaliser == "category" else self.area_by_mask
        counted: IntArray = areas[:, (self.groups & categories) != 0].sum(axis=1)
        return counted


def check_normaliser(normaliser: str) -> None:
    """Raise ValueError for a normaliser that does not exist."""
    if normaliser not in NORMALISERS:
        raise ValueError(f"unknown IoU normaliser {normaliser!r}, expected one of {', '.join(NORMALISERS)}")


def category_bits(label_categories: IntArray) -> IntArray:
    """The bit mask of each label's category, 0 where it has none: (M,)."""
    return np.where(label_categories < 0, 0, np.int64(1) << np.maximum(label_categories, 0))


def iou_counts(
    labels: Iterable[ImageLabels],
    masks: UnitMasks,
    label_categories: Sequence[int] | IntArray,
    groups: ImageGroups | None = None,
) -> IoUCounts:
    """Count the pixels that units and labels share, over images.

    A pixel counts once for each label that it carries; a label of the whole image covers all its pixels.

    Args:
        labels: the labels of each image that `masks` covers, in the same order.
        masks: the units' masks.
        label_categories: (M,) the category of each label (the one in which it covers most), -1 for none.
        groups: of the images; every image for itself by default.

    Raises:
        ValueError: another number of images, a map of another size, a label index of M or more.
    """
    counter = IoUCounter(masks.n_units, label_categories)
    counter.update(labels, masks, groups)
    return counter.counts()


class IoUCounter:
    """Adds up `iou_counts` over batches, in place, without a copy of the counts per batch."""

    def __init__(self, n_units: int, label_categories: Sequence[int] | IntArray) -> None:
        self._total = IoUCounts.empty(n_units, label_categories)
        self._bits = category_bits(self._total.label_categories)
        self._by_group: dict[int, tuple[IntArray, IntArray]] = {}
        self._images = 0

    def update(
        self, labels: Iterable[ImageLabels], masks: UnitMasks, groups: ImageGroups | None = None
    ) -> None:
        """Count a batch: the labels of its images and the units' masks on them, in the same order.

        The images of a group must come in one batch.
        """
        total = self._total
        if masks.n_units != len(total.area):
            raise ValueError(f"masks of {masks.n_units} units, expected {len(total.area)}")
        rows, areas = masks.image_rows(), masks.areas()
        luckiest = Luckiest(total.luckiest)
        for number, image, last in by_groups(labels, masks.n_images, groups):
            first, stop = rows[number], rows[number + 1]
            indices, planes = known_planes(image, masks.size, len(total.label_area))
            prefix = pixel_prefix(planes)
            total.label_area[indices] += prefix[-1]
            if first < stop:
                offsets = masks.offsets[first : stop + 1]
                inside = pixels_inside(masks.edges[offsets[0] : offsets[-1]], offsets, prefix)
                units, area = masks.unit[first:stop], areas[first:stop]
                total.area[units] += area
                cells = np.ix_(units, indices)
                total.intersection[cells] += inside
                luckiest.add(units, indices, inside, alone=groups is None or groups.are_single)
                by_image, _ = self._group(image_group(self._bits[indices]))
                by_image[units] += area
                met = mask_groups(inside, self._bits[indices])
                for group in np.unique(met):
                    chosen = met == group
                    _, by_mask = self._group(int(group))
                    by_mask[units[chosen]] += area[chosen]
            if last:
                luckiest.end_group()
        self._images += masks.n_images

    def merge(self, counts: IoUCounts) -> None:
        """Add the counts of other images, of another shard say."""
        total = self.counts() + counts
        self._total, self._images = total, total.n_images
        self._by_group = {
            int(group): (total.area_by_image[:, i].copy(), total.area_by_mask[:, i].copy())
            for i, group in enumerate(total.groups)
        }

    def counts(self) -> IoUCounts:
        """What was counted so far, as a copy."""
        total, units = self._total, len(self._total.area)
        groups = sorted(self._by_group)
        both = np.zeros((2, units, len(groups)), dtype=np.int64)
        for i, group in enumerate(groups):
            both[0, :, i], both[1, :, i] = self._by_group[group]
        return IoUCounts(
            intersection=total.intersection.copy(),
            luckiest=total.luckiest.copy(),
            label_area=total.label_area.copy(),
            area=total.area.copy(),
            groups=np.array(groups, dtype=np.int64),
            area_by_image=both[0],
            area_by_mask=both[1],
            label_categories=total.label_categories,
            n_images=self._images,
        )

    def _group(self, group: int) -> tuple[IntArray, IntArray]:
        if group not in self._by_group:
            units = len(self._total.area)
            self._by_group[group] = (np.zeros(units, dtype=np.int64), np.zeros(units, dtype=np.int64))
        return self._by_group[group]


class Luckiest:
    """The most that one image, or one group of images, adds to each cell of a table.

    Args:
        table: (rows, columns), whole numbers, raised in place.
    """

    def __init__(self, table: NDArray[Any]) -> None:
        self._table = table
        self._sums: NDArray[Any] | None = None
        self._rows: list[NDArray[Any]] = []
        self._columns: list[NDArray[Any]] = []

    def add(self, rows: NDArray[Any], columns: IntArray, values: NDArray[Any], *, alone: bool) -> None:
        """What an image adds: `values` (R, K) at these rows and columns.

        Args:
            rows: (R,), distinct.
            columns: (K,), distinct.
            values: (R, K).
            alone: the image is the only one of its group.
        """
        cells = np.ix_(rows, columns)
        if alone:
            self._table[cells] = np.maximum(self._table[cells], values)
            return
        if self._sums is None:
            self._sums = np.zeros_like(self._table)
        self._sums[cells] += values
        self._rows.append(rows)
        self._columns.append(columns)

    def end_group(self) -> None:
        """No further image of the group comes."""
        if not self._rows or self._sums is None:
            return
        cells = np.ix_(np.unique(np.concatenate(self._rows)), np.unique(np.concatenate(self._columns)))
        self._table[cells] = np.maximum(self._table[cells], self._sums[cells])
        self._sums[cells] = 0
        self._rows, self._columns = [], []


def by_groups(
    labels: Iterable[ImageLabels], n_images: int, groups: ImageGroups | None
) -> Iterator[tuple[int, ImageLabels, bool]]:
    """The images group by group: number, labels, and whether it is the last one of its group.

    Where every image is a group of its own they come in their order, and `labels` may be an iterator.

    Raises:
        ValueError: labels or groups of another number of images.
    """
    if groups is not None and groups.n_images != n_images:
        raise ValueError(f"groups of {groups.n_images} images came with masks of {n_images}")
    if groups is None or groups.are_single:
        seen = 0
        for seen, image in enumerate(labels, start=1):
            if seen > n_images:
                break
            yield seen - 1, image, True
        check_images(seen, n_images)
        return
    held = labels if isinstance(labels, Sequence) else list(labels)
    check_images(len(held), n_images)
    ends = groups.place + 1 == groups.sizes[groups.of]
    for number in groups.members.tolist():
        yield number, held[number], bool(ends[number])


def check_images(seen: int, n_images: int) -> None:
    """Raise ValueError where labels of `seen` images came with the masks of another number of images."""
    if seen != n_images:
        labelled = "more" if seen > n_images else str(seen)
        raise ValueError(f"masks of {n_images} images came with labels of {labelled}")


def known_planes(
    image: ImageLabels, size: tuple[int, int], n_labels: int
) -> tuple[IntArray, NDArray[np.bool_]]:
    """`label_planes` of an image whose labels must be below `n_labels`, or a ValueError."""
    indices, planes = label_planes(image, size)
    if len(indices) and indices[-1] >= n_labels:
        raise ValueError(f"a label map holds label {indices[-1]}, but there are only {n_labels} labels")
    return indices, planes


def image_group(bits: IntArray) -> int:
    """The categories of an image's labels, one bit mask."""
    return int(np.bitwise_or.reduce(bits, initial=0))


def mask_groups(inside: NDArray[np.int32], bits: IntArray) -> IntArray:
    """The categories that each mask meets: (masks,) bit masks."""
    groups: IntArray = np.bitwise_or.reduce(np.where(inside > 0, bits, 0), axis=1, initial=0)
    return groups


def iou(counts: IoUCounts, normaliser: Normaliser = "category") -> torch.Tensor:
    """Intersection over union of every unit and label: `I / (A + G - I)` (Bau et al. 2017).

    Args:
        counts: from `iou_counts` or `IoUCounter.counts`.
        normaliser: which of a unit's pixels `A` holds: `category` (the original paper), `mask`
            (NetDissect-Lite) or `none` (compositional explanations); see `IoUCounts.area_for`.

    Returns:
        (C, M) float64; 0 for a label that no image carries.

    Raises:
        ValueError: an unknown normaliser.
    """
    return torch.from_numpy(
        overlap_ratio(counts.intersection, _areas(counts, normaliser), counts.label_area, counts.intersection)
    )


def _areas(counts: IoUCounts, normaliser: Normaliser) -> IntArray:
    """The unit's pixels that count against each label: (C, M)."""
    area = np.zeros_like(counts.intersection)
    bits = category_bits(counts.label_categories)
    for each in np.unique(bits):
        area[:, bits == each] = counts.area_for(int(each), normaliser)[:, None]
    return area


def overlap_ratio(
    part: NDArray[Any], area: NDArray[Any], label_area: NDArray[Any], intersection: NDArray[Any]
) -> NDArray[np.float64]:
    """A part of the intersection over the union."""
    union = area + label_area - intersection
    ratio: NDArray[np.float64] = np.divide(part, union, out=np.zeros(union.shape), where=union > 0)
    return ratio


def supported_iou(counts: IoUCounts, normaliser: Normaliser = "category") -> torch.Tensor:
    """The part of the IoU that does not hang on one image: `(I - max_i I_i) / (A + G - I)`.

    `I_i` is what image `i` adds to the intersection. Chance gives a high IoU where it lays a unit's mask over
    one image of a rare label, and among hundreds of labels there are many rare ones: the best plain IoU of
    units that know nothing is that of such a label, and hides what others have learned about common ones.
    Two lucky images for the same label are much rarer. So it is this part that is compared with chance. Where
    images come in groups (copies of a photo), `i` goes over the groups.

    Args:
        counts: from `iou_counts` or `IoUCounter.counts`.
        normaliser: see `iou`.

    Returns:
        (C, M) float64; 0 where a unit meets a label in one image or none.

    Raises:
        ValueError: an unknown normaliser.
    """
    part = counts.intersection - counts.luckiest
    return torch.from_numpy(
        overlap_ratio(part, _areas(counts, normaliser), counts.label_area, counts.intersection)
    )
