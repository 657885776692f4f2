"""What is to be seen in the probing images, and where: labels, label maps, labels of the whole image."""

from __future__ import annotations

import hashlib
import io
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.probe.decode import UnreadableImageError, check_size

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
        keep: so many images' labels stay in memory; the one not used for longest goes first.
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


def read_mask_file(path: Path) -> bytes:
    """The bytes of a mask file.

    Raises:
        InputError: it is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError("a mask is missing", where=path, hint="unpack the data set again") from None
    except OSError as error:
        raise InputError(f"a mask cannot be read: {error.strerror}", where=path) from error


def open_mask(path: Path, size: tuple[int, int] | None = None) -> Image.Image:
    """A mask's PNG, unpacked. `size`: the height and width that it must have.

    Raises:
        InputError: missing, damaged, no PNG, or of another size.
    """
    data = read_mask_file(path)
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            check_size(image)
            if size is not None and (image.height, image.width) != size:
                raise InputError(
                    f"a mask is {image.height} x {image.width} (height x width), not {size[0]} x {size[1]}",
                    where=path,
                )
            image.load()
            return image
    except InputError:
        raise
    except (UnreadableImageError, Image.DecompressionBombError) as error:
        raise InputError(f"a mask is too large: {error}", where=path) from error
    except Exception as error:  # decoders raise nearly anything on damaged files
        raise InputError(f"a mask cannot be read: {error}", where=path) from error


def rgb_numbers(image: Image.Image, path: Path) -> npt.NDArray[np.int64]:
    """Numbers coded as `R + 256 G + 65536 B`, `(h, w)`; a grey PNG holds the numbers themselves."""
    if image.mode in ("L", "I;16", "I", "1"):
        return np.asarray(image).astype(np.int64)
    if image.mode not in ("RGB", "RGBA", "P"):
        raise InputError(f"a mask has pixels of type {image.mode}, not RGB", where=path)
    channels = np.asarray(image.convert("RGB")).astype(np.int64)
    numbers: npt.NDArray[np.int64] = channels[..., 0] + 256 * channels[..., 1] + 65536 * channels[..., 2]
    return numbers


def nearest_rows(values: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[Any]:
    """A map brought to `size`: the pixel under each new pixel's centre. Labels cannot be averaged."""
    height, width = values.shape
    rows = ((np.arange(size[0]) + 0.5) * height / size[0]).astype(np.int64)
    columns = ((np.arange(size[1]) + 0.5) * width / size[1]).astype(np.int64)
    small: npt.NDArray[Any] = values[rows[:, None], columns]
    return small


def require_same_frame(mask: tuple[int, int], image: tuple[int, int], path: Path) -> None:
    """Check that a mask covers the same frame as its image: the same size, or that scaled.

    Args:
        mask: its height and width.
        image: its height and width.
        path: the mask's file.

    Raises:
        InputError: it does not.
    """
    # Scaled sizes are rounded to whole pixels: allow for one on either side.
    slack = max(image) + max(mask)
    if mask != image and abs(mask[0] * image[1] - mask[1] * image[0]) > slack:
        raise InputError(
            f"a mask is {mask[0]} x {mask[1]} (height x width), its image {image[0]} x {image[1]}", where=path
        )
