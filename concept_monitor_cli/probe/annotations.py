"""What is to be seen in the probing images, and where: labels, label maps, labels of the whole image."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

LabelMap = npt.NDArray[np.int32]

UNLABELLED = -1
"""In a `LabelMap`: nothing is labelled here."""

MASK_SIDE = 112
"""Side of the label maps of sets that do not come with one size of mask: Broden's, for 224-pixel images."""


@dataclass(frozen=True)
class Label:
    """A concept that images are labelled with.

    Attributes:
        index: its number here, from 0, without gaps; what label maps hold.
        number: its number in the data set's own files.
        name: as shown and embedded.
        category: the one in which it covers most.
        categories: all that it belongs to, that one first.
    """

    index: int
    number: int
    name: str
    category: str
    categories: tuple[str, ...]


@dataclass(frozen=True)
class ImageLabels:
    """What is labelled in one image.

    Attributes:
        maps: label maps `(h, w)` int32 of label indices, -1 where unlabelled. A pixel may have labels in
            several maps, and the same one in two.
        scalars: indices of labels that cover the whole image (scenes, textures).
        categories: those under which this image has labels, sorted.
    """

    maps: tuple[LabelMap, ...]
    scalars: tuple[int, ...]
    categories: tuple[str, ...]

    def masks(self, size: tuple[int, int]) -> dict[int, npt.NDArray[np.bool_]]:
        """Label index -> where it is, `(h, w)` bool, for every label of the image, indices ascending."""
        found = {index: np.ones(size, dtype=bool) for index in self.scalars}
        for label_map in self.maps:
            for index in np.unique(label_map):
                if index == UNLABELLED:
                    continue
                mask = label_map == index
                found[int(index)] = found[int(index)] | mask if int(index) in found else mask
        return dict(sorted(found.items()))


class LabelSource(Protocol):
    """Reads a data set's labels, image by image; from several threads at once."""

    @property
    def labels(self) -> tuple[Label, ...]:
        """All labels, in the order of their index."""

    @property
    def mask_size(self) -> tuple[int, int]:
        """Height and width of every label map."""

    def read(self, index: int) -> ImageLabels:
        """The labels of an image.

        Raises:
            InputError: a mask is missing, of the wrong size, or holds numbers that are no label.
        """

    def content(self, index: int) -> bytes:
        """All that `read` depends on, for a digest."""


class Annotations:
    """The labels of a probing set, image by image in its order. Masks are read from the disk when asked for.

    Args:
        source: the data set's own reader.
        rows: for each image of the probing set, its number in the source.
        keep: how many images' labels stay in memory; the one not used for longest goes first.
    """

    def __init__(self, source: LabelSource, rows: Sequence[int], *, keep: int = 0) -> None:
        self._source = source
        self._rows = tuple(rows)
        self._keep = keep
        self._kept: OrderedDict[int, ImageLabels] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def labels(self) -> tuple[Label, ...]:
        """All labels of the data set, also those that no image here has."""
        return self._source.labels

    @property
    def mask_size(self) -> tuple[int, int]:
        """Height and width of every label map."""
        return self._source.mask_size

    @cached_property
    def categories(self) -> tuple[str, ...]:
        """The labels' categories, in the order in which they first occur."""
        return tuple(dict.fromkeys(label.category for label in self.labels))

    def image(self, index: int) -> ImageLabels:
        """The labels of an image.

        Raises:
            InputError: a mask is missing, of the wrong size, or holds numbers that are no label.
        """
        if not self._keep:
            return self._source.read(self._rows[index])
        with self._lock:
            if index in self._kept:
                self._kept.move_to_end(index)
                return self._kept[index]
        labels = self._source.read(self._rows[index])
        with self._lock:
            self._kept[index] = labels
            while len(self._kept) > self._keep:
                self._kept.popitem(last=False)
        return labels

    def subset(self, rows: Sequence[int]) -> Annotations:
        """The labels of some of the images, in this order."""
        return Annotations(self._source, [self._rows[row] for row in rows], keep=self._keep)

    def keeping(self, keep: int) -> Annotations:
        """The same, with the labels of `keep` images kept in memory."""
        return Annotations(self._source, self._rows, keep=keep)

    @cached_property
    def digest(self) -> str:
        """Hex SHA-256 over labels and masks of these images, in order. Reads every mask file once."""
        digest = hashlib.sha256(repr((self.labels, self.mask_size)).encode("utf-8", "surrogateescape"))

        def one(row: int) -> bytes:
            return hashlib.sha256(self._source.content(row)).digest()

        with ThreadPoolExecutor(4) as pool:
            for part in pool.map(one, self._rows, chunksize=64):
                digest.update(part)
        return digest.hexdigest()
