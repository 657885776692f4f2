"""Pixels of masks in cells, image by image: all that a search and what hangs on single images ask for.

`count_cells` adds images up and forgets them, and `supported_formulas` looks at every pixel again once the
formulas are known. Where the masks of a unit cover most of every image, and are laid over many images, that
takes longest. Here images are cut once, masks are counted as runs, over prefix sums of the cells, and what is
asked of formulas afterwards is read from these counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from concept_monitor_cli.functional.compositional.cells import LabelCells, label_cells
from concept_monitor_cli.functional.compositional.formulas import Explanation, Formula
from concept_monitor_cli.functional.dissection import ImageLabels, IntArray, IoUCounts, UnitMasks
from concept_monitor_cli.functional.dissection.counts import pixel_prefix, pixels_inside
from concept_monitor_cli.functional.dissection.masks import gather_runs
from concept_monitor_cli.functional.groups import ImageGroups

# Images of some masks, ascending, and the row of each of the masks in a `UnitMasks`.
Laid = tuple[NDArray[Any], NDArray[Any]]


@dataclass(frozen=True)
class CutImages:
    """The images of a probing set, each cut into cells once. A byte or two for each pixel.

    Attributes:
        signatures: the labels of each cell of the set, in the order in which cells occur.
        sizes: (S,) pixels of each in all images.
        own: of each image its cells, numbers in `signatures`.
        place: of each image which of its cells each pixel is in, counted from 1; 0 without a label.
        n_labels: M.
        size: (height, width).
    """

    signatures: tuple[tuple[int, ...], ...]
    sizes: IntArray
    own: tuple[IntArray, ...]
    place: tuple[NDArray[Any], ...]
    n_labels: int
    size: tuple[int, int]

    @classmethod
    def of(cls, labels: Iterable[ImageLabels], n_labels: int, size: tuple[int, int]) -> CutImages:
        """Cut images.

        Raises:
            ValueError: a map of another size, a label index of M or more.
        """
        index: dict[tuple[int, ...], int] = {}
        own, places, pixels = [], [], []
        for image in labels:
            cut = label_cells(image, size)
            own.append(np.array([index.setdefault(each, len(index)) for each in cut.signatures[1:]], int))
            places.append(cut.cell.astype(np.min_scalar_type(len(cut.signatures))))
            pixels.append(cut.sizes[1:])
        high = max((each[-1] for each in index), default=-1)
        if high >= n_labels:
            raise ValueError(f"a label map holds label {high}, but there are only {n_labels} labels")
        nothing = np.zeros(0, dtype=np.int64)
        number, size_of = np.concatenate([nothing, *own]), np.concatenate([nothing, *pixels])
        sizes = np.bincount(number, size_of, len(index)).astype(np.int64)
        return cls(tuple(index), sizes, tuple(own), tuple(places), n_labels, size)

    def prefix(self, image: int) -> NDArray[np.int32]:
        """Pixels of each cell of an image before each pixel: (pixels + 1, its cells)."""
        cells = np.arange(1, len(self.own[image]) + 1)
        return pixel_prefix(self.place[image] == cells[:, None])

    @cached_property
    def occurring(self) -> csr_matrix:
        """(images, S): 1 where the image has the cell."""
        lengths = [len(each) for each in self.own]
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        cells = np.concatenate([np.zeros(0, dtype=np.int64), *self.own])
        return csr_matrix((np.ones(len(cells), np.int32), cells, indptr), (len(lengths), len(self.sizes)))


@dataclass(frozen=True)
class CellPixels:
    """Pixels of some masks in the cells of each image.

    Attributes:
        images: the cells.
        n_masks: masks, numbered.
        area: (n_masks,) pixels of each, with those without a label.
        image: (n,) int32, of each entry.
        mask: (n,) int32.
        cell: (n,) int32, a number in `images.signatures`.
        pixels: (n,) int32, above 0.
    """

    images: CutImages
    n_masks: int
    area: IntArray
    image: NDArray[np.int32]
    mask: NDArray[np.int32]
    cell: NDArray[np.int32]
    pixels: NDArray[np.int32]

    @classmethod
    def count(cls, images: CutImages, masks: UnitMasks, laid: Sequence[Laid]) -> CellPixels:
        """Count masks where they are, and laid over other images.

        Args:
            images: in the order of the masks.
            masks: of C units.
            laid: R times which of these masks lie over which images, as from `shuffled_rows`.

        Returns:
            mask `r * C + unit` is that of a unit in `laid[r]`.

        Raises:
            ValueError: masks of another size or number of images.
        """
        if len(images.own) != masks.n_images or images.size != masks.size:
            raise ValueError(
                f"masks of {masks.n_images} images of {masks.size} came with labels of {len(images.own)} of "
                f"{images.size}"
            )
        of_row = masks.areas()
        area = [np.bincount(masks.unit[row], of_row[row], masks.n_units) for _, row in laid]
        starts = [np.searchsorted(image, np.arange(masks.n_images + 1)) for image, _ in laid]
        found: list[list[NDArray[np.int32]]] = [[np.zeros(0, dtype=np.int32)] for _ in range(4)]
        for number, cells in enumerate(images.own):
            here = [row[s[number] : s[number + 1]] for (_, row), s in zip(laid, starts, strict=True)]
            rows = np.concatenate([np.zeros(0, dtype=np.int64), *here])
            if not len(rows) or not len(cells):
                continue
            edges, offsets = gather_runs(masks, rows)
            inside = pixels_inside(edges, offsets, images.prefix(number))
            pair, local = np.nonzero(inside)
            part = np.repeat(np.arange(len(laid)), [len(each) for each in here])
            mask = part * masks.n_units + masks.unit[rows]
            own = np.full(len(pair), number), mask[pair], cells[local], inside[pair, local]
            for each, some in zip(found, own, strict=True):
                each.append(some.astype(np.int32))
        image, mask, cell, pixels = (np.concatenate(each) for each in found)
        areas = np.concatenate([np.zeros(0), *area]).astype(np.int64)
        return cls(images, len(laid) * masks.n_units, areas, image, mask, cell, pixels)

    @cached_property
    def cells(self) -> LabelCells:
        """Added up over images, as from `count_cells`."""
        shape = (self.n_masks, len(self.images.sizes))
        inside = csr_matrix((self.pixels.astype(np.int64), (self.mask, self.cell)), shape=shape)
        return LabelCells(self.images.signatures, self.images.sizes, inside, self.images.n_labels)

    def counts(self, label_categories: Sequence[int] | IntArray) -> IoUCounts:
        """The same as `iou_counts` for searches without a normaliser: no pixels by image or category."""
        cells = self.cells
        return replace(
            IoUCounts.empty(self.n_masks, label_categories),
            intersection=(cells.inside @ cells.members).toarray(),
            label_area=cells.members.T @ cells.sizes,
            area=self.area,
            n_images=len(self.images.own),
        )

    def supported(self, best: Sequence[Explanation | None], groups: ImageGroups) -> NDArray[np.float64]:
        """As `supported_formulas`: the part of each mask's IoU that does not hang on one group of images."""
        formulas = [None if each is None else each.formula for each in best]
        entries = self._holding(formulas)
        place = self.mask[entries].astype(np.int64) * groups.n_groups + groups.of[self.image[entries]]
        shared = np.bincount(place, self.pixels[entries], self.n_masks * groups.n_groups)
        luckiest = shared.reshape(self.n_masks, -1).max(axis=1, initial=0)
        all_shared = np.array([each.intersection if each else 1 for each in best], dtype=np.int64)
        ious: NDArray[np.float64] = np.array([each.iou if each else 0.0 for each in best])
        supported: NDArray[np.float64] = ious * (1 - luckiest.astype(np.int64) / all_shared)
        return supported

    def images_met(self, formulas: Sequence[Formula | None]) -> tuple[IntArray, IntArray]:
        """On how many images each mask's formula holds anywhere, and on how many it does inside the mask.

        Args:
            formulas: of each of the first masks; the others are not asked.

        Returns:
            `(len(formulas),)` each; 0 where there is no formula.
        """
        asked = [*formulas, *[None] * (self.n_masks - len(formulas))]
        entries = self._holding(asked)
        pairs = np.unique(self.mask[entries].astype(np.int64) * len(self.images.own) + self.image[entries])
        met = np.bincount(pairs // max(1, len(self.images.own)), minlength=len(formulas))
        holds, row = self._where(formulas)
        shown = ((self.images.occurring @ holds.T.astype(np.int32)) > 0).sum(axis=0)
        return np.asarray(shown[row], dtype=np.int64), met.astype(np.int64)

    def _where(self, formulas: Sequence[Formula | None]) -> tuple[NDArray[np.bool_], IntArray]:
        """In which cells each formula holds, `(formulas, S)`, first none at all, and the row of each mask."""
        columns = csr_matrix(self.cells.members.T)

        def mask(concept: int) -> NDArray[np.bool_]:
            row = np.zeros(len(self.images.sizes), dtype=bool)
            row[columns.indices[columns.indptr[concept] : columns.indptr[concept + 1]]] = True
            return row

        rows: dict[Formula | None, int] = {None: 0}
        row = np.array([rows.setdefault(each, len(rows)) for each in formulas], dtype=np.int64)
        holds = np.zeros((len(rows), len(self.images.sizes)), dtype=bool)
        for formula, place in rows.items():
            if formula is not None:
                holds[place] = formula.evaluate(mask)
        return holds, row

    def _holding(self, formulas: Sequence[Formula | None]) -> IntArray:
        """The entries in whose cell the formula of their mask holds.

        Raises:
            ValueError: formulas of another number of masks.
        """
        if len(formulas) != self.n_masks:
            raise ValueError(f"formulas of {len(formulas)} masks, expected {self.n_masks}")
        holds, row = self._where(formulas)
        return np.flatnonzero(holds[row[self.mask], self.cell]).astype(np.int64)
