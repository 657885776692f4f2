"""Images in one array of an `.npz` or `.h5` file. No array is read whole."""

from __future__ import annotations

import threading
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np
from PIL import Image

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.probe.decode import Pixels8
from concept_monitor_cli.probe.hdf5 import own_dataset
from concept_monitor_cli.probe.images import ArrayImages, ImageSource

_WANTED = "uint8 images (N, H, W, 3) or (N, H, W)"


def open_npz(path: Path, key: str | None) -> ImageSource:
    """The images of an `.npz` file; pickled objects in it are not touched.

    Raises:
        InputError: not such a file, no array of this name, or not images.
    """
    try:
        archive = zipfile.ZipFile(path)
        members = {name[:-4]: name for name in archive.namelist() if name.endswith(".npy")}
        name = _choose(key, sorted(members), path)
        return ArrayImages(_NpyRows(archive, members[name], path))
    except InputError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise nearly anything on damaged files
        raise InputError(f"not a readable .npz file: {error}", where=path) from error


def open_hdf5(path: Path, key: str | None) -> ImageSource:
    """The images of an HDF5 file. Links to other files are not followed.

    Raises:
        InputError: not such a file, no dataset of this name, or not images.
    """
    try:
        file = h5py.File(path, "r", locking=False)
        names: list[str] = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        name = _choose(key, sorted(names), path)
        dataset = own_dataset(file, name, path)
        if dataset is None:
            raise InputError(
                f"no dataset {name!r} of its own", where=path, hint=f"it has: {', '.join(names)}"
            )
        require_images(dataset.shape, dataset.dtype, name, path)
        return ArrayImages(_Hdf5Rows(dataset))
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise InputError(f"not a readable HDF5 file: {error}", where=path) from error


def _choose(key: str | None, names: Sequence[str], path: Path) -> str:
    """The array asked for, else `images`, else the only one."""
    wanted = (
        key if key is not None else "images" if "images" in names else names[0] if len(names) == 1 else None
    )
    if wanted in names:
        assert wanted is not None
        return wanted
    what = "no array in the file" if not names else f"no array {key!r}" if key else "several arrays"
    hint = f"choose one: {', '.join(f'{path.name}:{name}' for name in names[:6])}" if names else None
    raise InputError(what, where=path, hint=hint)


def require_images(shape: tuple[int, ...], dtype: np.dtype[Any], name: str, path: Path) -> None:
    """Check that an array holds images.

    Raises:
        InputError: it does not.
    """
    fits = len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))
    if dtype != np.uint8 or not fits:
        raise InputError(
            f"array {name!r} is {dtype} of shape {shape}, not {_WANTED}",
            where=path,
            hint="convert it first: scale to 0..255, move the channels last",
        )
    if 0 in shape:
        raise InputError(f"array {name!r} of shape {shape} holds no images", where=path)
    if Image.MAX_IMAGE_PIXELS is not None and shape[1] * shape[2] > Image.MAX_IMAGE_PIXELS:
        raise InputError(
            f"array {name!r} holds images of {shape[2]} x {shape[1]} pixels, more than Pillow's safety limit",
            where=path,
        )


class _NpyRows:
    """Rows of an array inside a zip file, read where they lie. In order, this unpacks the file once."""

    def __init__(self, archive: zipfile.ZipFile, member: str, path: Path) -> None:
        self._stream: IO[bytes] = archive.open(member)
        version = np.lib.format.read_magic(self._stream)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read_header is None:
            raise ValueError(f"array format {version}")
        shape, by_column, dtype = read_header(self._stream)
        require_images(shape, dtype, member[:-4], path)
        if by_column:
            raise InputError(
                "the array is stored column by column", where=path, hint="np.ascontiguousarray it"
            )
        self._shape = shape
        self._start = self._stream.tell()
        self._bytes = int(np.prod(shape[1:]))
        self._lock = threading.Lock()
        expected = self._start + shape[0] * self._bytes
        if archive.getinfo(member).file_size != expected:
            raise ValueError(f"array {member[:-4]!r} is cut off")

    def __len__(self) -> int:
        return int(self._shape[0])

    def row(self, index: int) -> Pixels8:
        with self._lock:
            try:
                self._stream.seek(self._start + index * self._bytes)
                data = self._stream.read(self._bytes)
            except Exception as error:
                raise OSError(f"the archive is damaged: {error}") from error
        if len(data) != self._bytes:
            raise OSError("the archive is cut off")
        return np.frombuffer(data, dtype=np.uint8).reshape(self._shape[1:])


class _Hdf5Rows:
    def __init__(self, dataset: h5py.Dataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return int(self._dataset.shape[0])

    def row(self, index: int) -> Pixels8:
        rows: Pixels8 = self._dataset[index]
        return rows
