"""Where the images of a probing set come from: files, or rows of an array."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from concept_monitor_cli.probe.decode import Pixels8, decode_image


class ImageSource(Protocol):
    """Images by number. Reading them from several threads at once must be safe."""

    @property
    def ids(self) -> Sequence[str]:
        """What each image is called, unique within the set."""

    def read(self, index: int) -> bytes:
        """An image's content, as it lies in its file or array.

        Raises:
            OSError: it cannot be read.
        """

    def decode(self, data: bytes) -> Image.Image:
        """RGB pixels of what `read` returned.

        Raises:
            UnreadableImageError: they cannot be made out.
        """


class EncodedImages(ABC):
    """Images as the bytes of image files, wherever these lie."""

    ids: tuple[str, ...]

    @abstractmethod
    def read(self, index: int) -> bytes:
        """The file's bytes."""

    def decode(self, data: bytes) -> Image.Image:
        """See `decode_image`."""
        return decode_image(data)


class FileImages(EncodedImages):
    """Images in files.

    Args:
        paths: the files.
        ids: what they are called.
    """

    def __init__(self, paths: Sequence[Path], ids: Sequence[str]) -> None:
        self.paths = tuple(paths)
        self.ids = tuple(ids)

    def read(self, index: int) -> bytes:
        """The file's bytes."""
        return self.paths[index].read_bytes()


class SomeImages(EncodedImages):
    """Some of the images of another source.

    Args:
        images: the other.
        rows: their numbers in it.
    """

    def __init__(self, images: EncodedImages, rows: Sequence[int]) -> None:
        self._images = images
        self._rows = tuple(rows)
        self.ids = tuple(images.ids[row] for row in rows)

    def read(self, index: int) -> bytes:
        """The file's bytes."""
        return self._images.read(self._rows[index])


class ArrayRows(Protocol):
    """Images as rows of one array."""

    def __len__(self) -> int: ...

    def row(self, index: int) -> Pixels8:
        """`(H, W)`, `(H, W, 1)` or `(H, W, 3)` uint8."""


class ArrayImages:
    """Images in an array. Their content is shape and pixels, whatever kind of file the array lies in.

    Args:
        rows: the array.
        prefix: put before the number to make an id.
    """

    def __init__(self, rows: ArrayRows, prefix: str = "") -> None:
        self._rows = rows
        width = max(5, len(str(max(0, len(rows) - 1))))
        self.ids = tuple(f"{prefix}{index:0{width}d}" for index in range(len(rows)))

    def read(self, index: int) -> bytes:
        """The image's height and width, 4 bytes each, then its RGB pixels."""
        image = self._rows.row(index)
        if image.ndim == 2:
            image = image[:, :, None]
        image = np.broadcast_to(image, (*image.shape[:2], 3))
        return np.array(image.shape[:2], dtype="<u4").tobytes() + image.tobytes()

    def decode(self, data: bytes) -> Image.Image:
        """RGB pixels of what `read` returned."""
        height, width = np.frombuffer(data, dtype="<u4", count=2)
        pixels = np.frombuffer(data, dtype=np.uint8, offset=8).reshape(int(height), int(width), 3)
        return Image.fromarray(pixels)


def content_digest(data: bytes) -> str:
    """Hex SHA-256 of an image's content."""
    return hashlib.sha256(data).hexdigest()
