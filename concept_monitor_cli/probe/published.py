"""Arrays of images in the files in which known data sets are handed out: MNIST, STL-10, SVHN, and `.npy`."""

from __future__ import annotations

import gzip
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.probe.arrays import require_images
from concept_monitor_cli.probe.decode import Pixels8
from concept_monitor_cli.probe.images import ArrayImages, ImageSource
from concept_monitor_cli.wording import counted

_IDX = re.compile(r"(^|[-_])(images[-.]idx3[-.]ubyte)(\.gz)?$")
_STL = re.compile(r"(train|test|unlabeled)_X\.bin$")
_SVHN = re.compile(r"(train|test|extra)_32x32\.mat$")
_STL_SHAPE = (3, 96, 96)
_MOST_PACKED = 1100  # deflate packs 1032:1 at most


def published_files(folder: Path) -> list[Path]:
    """The array files of known data sets in a folder, or in the places below where torchvision puts them."""
    places = (folder, folder / "raw", folder / "MNIST" / "raw", folder / "FashionMNIST" / "raw")
    for place in (*places, folder / "stl10_binary"):
        try:
            found = sorted(path for path in place.iterdir() if is_published(path) and path.is_file())
        except OSError:
            continue
        unpacked = {path.name for path in found}
        found = [path for path in found if path.suffix != ".gz" or path.stem not in unpacked]
        if found:
            return sorted(found, key=lambda path: ("train" not in path.name, path.name))
    return []


def is_published(path: Path) -> bool:
    """Whether a file has the name of one that this module reads."""
    return any(pattern.search(path.name) for pattern in (_IDX, _STL, _SVHN))


def open_published(path: Path) -> ImageSource:
    """The images of one of these files.

    Raises:
        InputError: damaged, or not what its name says.
    """
    try:
        if _IDX.search(path.name):
            return ArrayImages(_Rows(_idx(path)))
        if _STL.search(path.name):
            return ArrayImages(_Rows(_stl(path)))
        return open_mat(path)
    except InputError:
        raise
    except Exception as error:  # gzip, zlib and NumPy raise nearly anything on damaged files
        raise InputError(f"not a readable file of images: {error}"[:300], where=path) from error


def open_npy(path: Path) -> ImageSource:
    """The images of a `.npy` file, which is not read whole; pickled objects in it are not touched.

    Raises:
        InputError: not such a file, or not images.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:
        raise InputError(f"not a readable .npy file: {error}"[:300], where=path) from error
    if not isinstance(array, np.ndarray):
        raise InputError("not a .npy file", where=path)
    require_images(array.shape, array.dtype, path.stem, path)
    return ArrayImages(_Rows(array))


def open_mat(path: Path) -> ImageSource:
    """SVHN's cropped digits: `X`, `(32, 32, 3, N)` uint8, in a MATLAB file.

    Raises:
        InputError: no such array, or a file of MATLAB 7.3.
    """
    import scipy.io

    with path.open("rb") as file:
        head = file.read(128)
    if head.startswith((b"\x89HDF\r\n\x1a\n", b"MATLAB 7.3")):
        hint = "save its images as .npy, uint8 (N, H, W, 3), and give that"
        raise InputError("a MATLAB 7.3 file", where=path, hint=hint)
    try:
        named = {name: shape for name, shape, _ in scipy.io.whosmat(path)}
        shape = named.get("X", ())
        if (
            len(shape) != 4
            or shape[2] != 3
            or np.prod(shape, dtype=float) > _MOST_PACKED * path.stat().st_size
        ):
            raise ValueError(f"no array X of shape (H, W, 3, N), only {', '.join(named)[:100] or 'nothing'}")
        array = scipy.io.loadmat(path, variable_names=["X"])["X"]
    except Exception as error:  # the reader raises nearly anything on damaged files
        raise InputError(
            f"not SVHN's cropped digits: {error}"[:300],
            where=path,
            hint="save your images as .npy, uint8 (N, H, W, 3), and give that",
        ) from error
    images = np.moveaxis(array, 3, 0)
    require_images(images.shape, images.dtype, "X", path)
    return ArrayImages(_Rows(images))


class _Rows:
    def __init__(self, array: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        self._array = array

    def __len__(self) -> int:
        return len(self._array)

    def row(self, index: int) -> Pixels8:
        return np.array(self._array[index])


def _idx(path: Path) -> Pixels8:
    """MNIST's format: http://yann.lecun.com/exdb/mnist/ (magic number, sizes, bytes)."""
    packed = path.suffix == ".gz"
    with gzip.open(path) if packed else path.open("rb") as file:
        head = file.read(16)
        if len(head) < 16 or head[:4] != b"\0\0\x08\x03":
            raise InputError("not a file of images in MNIST's format", where=path)
        count, height, width = struct.unpack(">III", head[4:])
        size = count * height * width
        if size > path.stat().st_size * (_MOST_PACKED if packed else 1):
            raise InputError(f"the file is cut off: it should hold {counted(count, 'images')}", where=path)
        data = file.read(size)
    if len(data) < size:
        raise InputError(f"the file is cut off: it should hold {counted(count, 'images')}", where=path)
    images = np.frombuffer(data, np.uint8).reshape(count, height, width)
    require_images(images.shape, images.dtype, "images", path)
    # EMNIST's images lie on their side: https://www.nist.gov/itl/products-and-services/emnist-dataset
    return images.transpose(0, 2, 1) if path.name.startswith("emnist") else images


def _stl(path: Path) -> Pixels8:
    """STL-10: `(N, 3, 96, 96)` uint8, each channel column by column."""
    size = path.stat().st_size
    if size == 0 or size % int(np.prod(_STL_SHAPE)):
        raise InputError(f"{size:,} bytes are no whole number of STL-10 images", where=path)
    array: Pixels8 = np.memmap(path, np.uint8, "r").reshape(-1, *_STL_SHAPE).transpose(0, 3, 2, 1)
    return array
