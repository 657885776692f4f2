"""The probing set cut into cells: pixels that carry the same labels are alike to every formula."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix, csr_matrix

from concept_monitor_cli.functional.dissection import (
    ImageLabels,
    IntArray,
    UnitMasks,
    by_groups,
    label_planes,
)
from concept_monitor_cli.functional.groups import ImageGroups


@dataclass(frozen=True)
class LabelCells:
    """A probe set cut into cells, one per set of labels that occurs, and the units' pixels in each.

    Pixels without a label are in no cell: no formula holds there, as none begins with a negation.

    Attributes:
        signatures: the labels of each cell, ascending indices.
        sizes: (S,) pixels of each cell in all images.
        inside: (C, S) sparse int64, pixels of each unit's mask in each cell.
        n_labels: M.
    """

    signatures: tuple[tuple[int, ...], ...]
    sizes: IntArray
    inside: csr_matrix
    n_labels: int

    @cached_property
    def members(self) -> csr_matrix:
        """(S, M) sparse int64: 1 where the cell carries the label."""
        lengths = [len(each) for each in self.signatures]
        indices = np.fromiter(
            (c for each in self.signatures for c in each), dtype=np.int32, count=sum(lengths)
        )
        indptr = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        ones = np.ones(len(indices), dtype=np.int64)
        return csr_matrix((ones, indices, indptr), shape=(len(lengths), self.n_labels))

    def __add__(self, other: LabelCells) -> LabelCells:
        if self.n_labels != other.n_labels or self.inside.shape[0] != other.inside.shape[0]:
            raise ValueError("cells of different layers or label sets do not add up")
        counter = CellCounter(self.inside.shape[0], self.n_labels)
        counter.merge(self)
        counter.merge(other)
        return counter.cells()


class CellCounter:
    """Cuts images into cells and counts the units' pixels in them, batch by batch.

    Memory grows with the number of (unit, cell) pairs that occur: 12 bytes for each.
    """

    def __init__(self, n_units: int, n_labels: int) -> None:
        self._n_units, self._n_labels = n_units, n_labels
        self._index: dict[tuple[int, ...], int] = {}
        self._sizes: list[int] = []
        self._new: list[tuple[NDArray[np.int32], NDArray[np.int32], IntArray]] = []  # unit, cell, pixels
        self._pending = 0
        self._inside = _sparse([], [], [], (n_units, 0))

    def update(self, labels: Iterable[ImageLabels], masks: UnitMasks) -> None:
        """Count a batch: the labels of its images and the units' masks on them, in the same order.

        Raises:
            ValueError: another number of images or units, a map of another size, a label index of M or more.
        """
        count_cells(labels, [(self, masks)])

    def check(self, masks: UnitMasks) -> None:
        """Raise ValueError for masks of another number of units."""
        if masks.n_units != self._n_units:
            raise ValueError(f"masks of {masks.n_units} units, expected {self._n_units}")

    def add(self, cut: ImageCells, masks: UnitMasks, first: int, stop: int) -> None:
        """Count an image: its cells, and the pairs `first` to `stop` of `masks`, those of this image."""
        number = np.array([-1, *(self._cell(each) for each in cut.signatures[1:])])
        for cell, size in zip(number[1:], cut.sizes[1:], strict=True):
            self._sizes[cell] += int(size)
        if first == stop or len(number) == 1:
            return
        counts = cut.inside(masks, first, stop)
        counts[:, 0] = 0
        pair, local = np.nonzero(counts)
        self._add(masks.unit[first + pair], number[local].astype(np.int32), counts[pair, local])

    def merge(self, cells: LabelCells) -> None:
        """Add the cells of other images, of another shard say."""
        number = np.array([self._cell(each) for each in cells.signatures], dtype=np.int32)
        for cell, size in zip(number, cells.sizes, strict=True):
            self._sizes[cell] += int(size)
        other = coo_matrix(cells.inside)
        self._add(other.row, number[other.col] if len(number) else other.col, other.data)

    def cells(self) -> LabelCells:
        """What was counted so far."""
        self._compact()
        return LabelCells(
            signatures=tuple(self._index),
            sizes=np.array(self._sizes, dtype=np.int64),
            inside=self._inside.copy(),
            n_labels=self._n_labels,
        )

    def _cell(self, signature: tuple[int, ...]) -> int:
        if signature not in self._index:
            if signature[-1] >= self._n_labels:
                raise ValueError(
                    f"a label map holds label {signature[-1]}, but there are only {self._n_labels} labels"
                )
            self._index[signature] = len(self._sizes)
            self._sizes.append(0)
        return self._index[signature]

    def _add(self, unit: NDArray[Any], cell: NDArray[Any], pixels: NDArray[Any]) -> None:
        self._new.append((unit, cell, pixels))
        self._pending += len(unit)
        if self._pending > 1 << 20:
            self._compact()

    def _compact(self) -> None:
        held = coo_matrix(self._inside)
        parts = [(held.row, held.col, held.data), *self._new]
        unit, cell, pixels = (np.concatenate(each) for each in zip(*parts, strict=True))
        self._inside = _sparse(unit, cell, pixels, (self._n_units, len(self._sizes)))
        self._new, self._pending = [], 0


def _sparse(unit: Any, cell: Any, pixels: Any, shape: tuple[int, int]) -> csr_matrix:
    """Pixels by (unit, cell), int64, equal pairs added up."""
    return csr_matrix((np.asarray(pixels, dtype=np.int64), (np.asarray(unit), np.asarray(cell))), shape=shape)


@dataclass(frozen=True)
class ImageCells:
    """One image cut into cells.

    Attributes:
        cell: (height * width,) the cell of each pixel.
        signatures: the labels of each cell. Cell 0 is the pixels without a label, and may be empty.
        sizes: the pixels of each cell.
    """

    cell: IntArray
    signatures: list[tuple[int, ...]]
    sizes: IntArray

    def inside(self, masks: UnitMasks, first: int, stop: int) -> IntArray:
        """The pixels of the pairs `first` to `stop` of `masks`, all of this image, in each cell."""
        pair, pixel = masks.pixels(first, stop)
        cells = len(self.signatures)
        counts: IntArray = np.bincount(pair * cells + self.cell[pixel], minlength=(stop - first) * cells)
        return counts.reshape(stop - first, cells)

    @cached_property
    def mask(self) -> Callable[[int], NDArray[np.bool_]]:
        """Of each label, in which cells it is."""
        nowhere = np.zeros(len(self.signatures), dtype=bool)
        present = {c for each in self.signatures for c in each}
        cells = {c: np.array([c in each for each in self.signatures]) for c in present}
        return lambda concept: cells.get(concept, nowhere)


def label_cells(labels: ImageLabels, size: tuple[int, int]) -> ImageCells:
    """Cut one image into cells."""
    indices, planes = label_planes(labels, size)
    cell = np.zeros(planes.shape[1], dtype=np.int64)
    # 32 labels at a time become bits of a number; numbering the combinations anew keeps it small.
    for first in range(0, len(indices), 32):
        part = planes[first : first + 32]
        word = (np.int64(1) << np.arange(len(part), dtype=np.int64)) @ part
        cell = np.unique((cell << 32) | word, return_inverse=True)[1]
    found, where = np.unique(cell, return_index=True)
    signatures = [tuple(int(c) for c in indices[planes[:, pixel]]) for pixel in where]
    empty = [i for i, each in enumerate(signatures) if not each]
    order = [*empty, *(i for i in range(len(found)) if signatures[i])]
    renumbered = np.empty(len(found), dtype=np.int64)
    renumbered[order] = np.arange(len(order)) + (0 if empty else 1)
    cell = renumbered[cell]
    labelled = [signatures[i] for i in order if signatures[i]]
    return ImageCells(cell, [(), *labelled], np.bincount(cell, minlength=len(labelled) + 1))


def cut_images(
    labels: Iterable[ImageLabels], parts: Sequence[UnitMasks], groups: ImageGroups | None = None
) -> Iterator[tuple[int, ImageCells, list[tuple[int, int]], bool]]:
    """The images group by group: number, cells, where its pairs stand in each of several sets of masks over
    these images, and whether it is the last one of its group.

    Raises:
        ValueError: another number of images, masks of different sizes.
    """
    if len({(masks.size, masks.n_images) for masks in parts}) != 1:
        raise ValueError("masks of different sizes or images cannot be counted together")
    rows = [masks.image_rows() for masks in parts]
    for number, image, last in by_groups(labels, parts[0].n_images, groups):
        places = [(int(each[number]), int(each[number + 1])) for each in rows]
        yield number, label_cells(image, parts[0].size), places, last


def count_cells(labels: Iterable[ImageLabels], counters: Sequence[tuple[CellCounter, UnitMasks]]) -> None:
    """Count several sets of masks over the same images, each image cut once: cutting takes longest.

    Raises:
        ValueError: as `CellCounter.update`; masks of different sizes.
    """
    for counter, masks in counters:
        counter.check(masks)
    for _, cut, places, _ in cut_images(labels, [masks for _, masks in counters]):
        for (counter, masks), (first, stop) in zip(counters, places, strict=True):
            counter.add(cut, masks, first, stop)
