"""Images in one array: `.npz`, `.h5`, and CIFAR in the forms in which it is handed out.

Nothing here runs code from a file, and no array is read whole.
"""

from __future__ import annotations

import io
import pickle
import threading
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.probe.decode import Pixels8
from concept_monitor_cli.probe.files import list_images
from concept_monitor_cli.probe.images import ArrayImages, FileImages, ImageSource

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
    except (OSError, ValueError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile) as error:
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
        link = file.get(name, getlink=True)
        dataset = file[name] if isinstance(link, h5py.HardLink) else None
        if not isinstance(dataset, h5py.Dataset):
            raise InputError(
                f"no dataset {name!r} of its own", where=path, hint=f"it has: {', '.join(names)}"
            )
        if dataset.external or dataset.is_virtual:
            raise InputError(
                f"dataset {name!r} lies in other files", where=path, hint="copy it into one file"
            )
        _require_images(dataset.shape, dataset.dtype, name, path)
        return ArrayImages(_Hdf5Rows(dataset))
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise InputError(f"not a readable HDF5 file: {error}", where=path) from error


def open_cifar(classes: int, spec: str) -> tuple[str, ImageSource]:
    """CIFAR-10 or CIFAR-100: a short name for the set, and its images.

    Read as handed out: the "python version" (its pickles are parsed by a reader that can build numbers,
    text and arrays and nothing else), the "binary version", or `train/` and `test/` with a folder of JPEG or
    PNG files per class. `DIR` is the folder that holds these, or the one above it, or one split's tree.

    Args:
        classes: 10 or 100.
        spec: `DIR` for the training images, as the papers probe with, `DIR/test` for the test images.

    Raises:
        InputError: nothing of this kind is there, or a file is damaged.
    """
    folder, split = Path(spec).expanduser(), "train"
    if folder.name in ("train", "test") and not _has_batches(folder, classes):
        if folder.is_dir() and list_images(folder):
            return f"cifar{classes}-{folder.name}", _tree(folder)
        folder, split = folder.parent, folder.name
    name = f"cifar{classes}-{split}"
    python = _PYTHON[classes][split]
    binary = _BINARY[classes][split]
    for place in (folder, folder / f"cifar-{classes}-batches-py", folder / "cifar-100-python"):
        if all((place / batch).is_file() for batch in python):
            return name, ArrayImages(
                _BatchRows([place / batch for batch in python], _python_batch), f"{split}/"
            )
    for place in (folder, folder / f"cifar-{classes}-batches-bin", folder / "cifar-100-binary"):
        if all((place / batch).is_file() for batch in binary):
            label_bytes = 1 if classes == 10 else 2
            read = partial(_binary_batch, label_bytes=label_bytes)
            return name, ArrayImages(_BatchRows([place / batch for batch in binary], read), f"{split}/")
    if (folder / split).is_dir():
        return name, _tree(folder / split)
    if split == "train" and folder.is_dir() and list_images(folder):
        return f"cifar{classes}", _tree(folder)
    raise InputError(
        f"no CIFAR-{classes} {split} images there",
        where=folder,
        hint=f"the folder should hold {python[0]}, {binary[0]} or {split}/<class>/*.png",
    )


_FIVE = tuple(f"data_batch_{number}" for number in range(1, 6))
_PYTHON: dict[int, dict[str, tuple[str, ...]]] = {
    10: {"train": _FIVE, "test": ("test_batch",)},
    100: {"train": ("train",), "test": ("test",)},
}
_BINARY: dict[int, dict[str, tuple[str, ...]]] = {
    10: {"train": tuple(f"{name}.bin" for name in _FIVE), "test": ("test_batch.bin",)},
    100: {"train": ("train.bin",), "test": ("test.bin",)},
}


def _has_batches(folder: Path, classes: int) -> bool:
    names = _PYTHON[classes]["train"] + _BINARY[classes]["train"]
    return any((folder / name).is_file() for name in names)


def _tree(folder: Path) -> ImageSource:
    names = list_images(folder)
    if not names:
        raise InputError("no images in the folder", where=folder)
    return FileImages([folder / name for name in names], names)


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


def _require_images(shape: tuple[int, ...], dtype: np.dtype[Any], name: str, path: Path) -> None:
    fits = len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))
    if dtype != np.uint8 or not fits:
        raise InputError(
            f"array {name!r} is {dtype} of shape {shape}, not {_WANTED}",
            where=path,
            hint="convert it first: scale to 0..255, move the channels last",
        )
    if 0 in shape:
        raise InputError(f"array {name!r} of shape {shape} holds no images", where=path)


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
        _require_images(shape, dtype, member[:-4], path)
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
            self._stream.seek(self._start + index * self._bytes)
            try:
                data = self._stream.read(self._bytes)
            except (zipfile.BadZipFile, zipfile.zlib.error, EOFError) as error:  # type: ignore[attr-defined]
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


class _BatchRows:
    """Images in several batch files, `(n, 3072)` each: 1,024 red, green, blue values. One batch in memory."""

    def __init__(self, paths: Sequence[Path], read: Callable[[Path], Pixels8]) -> None:
        self._paths, self._read = paths, read
        self._lock = threading.Lock()
        self._open: tuple[int, Pixels8] | None = None
        self._ends = np.cumsum([len(self._batch(number)) for number in range(len(paths))])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def row(self, index: int) -> Pixels8:
        number = int(np.searchsorted(self._ends, index, side="right"))
        first = 0 if number == 0 else int(self._ends[number - 1])
        image: Pixels8 = self._batch(number)[index - first].reshape(3, 32, 32).transpose(1, 2, 0)
        return image

    def _batch(self, number: int) -> Pixels8:
        with self._lock:
            if self._open is None or self._open[0] != number:
                self._open = (number, self._read(self._paths[number]))
            return self._open[1]


def _binary_batch(path: Path, label_bytes: int) -> Pixels8:
    data = np.fromfile(path, dtype=np.uint8)
    record = label_bytes + 3072
    if len(data) == 0 or len(data) % record:
        raise InputError(f"{len(data):,} bytes are no whole number of CIFAR images", where=path)
    return data.reshape(-1, record)[:, label_bytes:]


def _python_batch(path: Path) -> Pixels8:
    try:
        batch = _BatchUnpickler(io.BytesIO(path.read_bytes())).load()
        data = batch[b"data"]
        if isinstance(data, _PickledArray):
            data = data.array()
        if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072 or len(data) == 0:
            raise ValueError(f"data is {data.dtype} of shape {data.shape}")
    except Exception as error:  # a hostile pickle can make its reader stumble over nearly anything
        raise InputError(f"not a CIFAR batch file: {error}", where=path) from error
    result: Pixels8 = data
    return result


class _PickledType:
    """Stands for `numpy.dtype`: remembers its name only."""

    def __init__(self, name: object = None, *_: object) -> None:
        self.name = name.decode("ascii") if isinstance(name, bytes) else name

    def __setstate__(self, state: object) -> None:
        pass


class _PickledArray:
    """Stands for `numpy.ndarray`: remembers shape, type and bytes; no code of NumPy's sees the pickle."""

    state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def array(self) -> Pixels8:
        _, shape, dtype, by_column, data = self.state
        if not isinstance(dtype, _PickledType) or dtype.name not in ("u1", "|u1", "uint8") or by_column:
            raise ValueError("an array of another type than uint8")
        raw = data if isinstance(data, bytes) else str(data).encode("latin-1")
        pixels: Pixels8 = np.frombuffer(raw, dtype=np.uint8).reshape(shape)
        return pixels


def _reconstruct(*_: object) -> _PickledArray:
    return _PickledArray()


def _encode(text: object, encoding: object = "latin1") -> bytes:
    # How protocol 2 writes bytes under Python 3.
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("bytes in another form than pickle writes")
    return text.encode("latin-1")


class _BatchUnpickler(pickle.Unpickler):
    """Reads numbers, text, lists, dicts and uint8 arrays; anything else in the pickle is refused."""

    _KNOWN: dict[tuple[str, str], Any] = {  # noqa: RUF012
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy", "ndarray"): _PickledArray,
        ("numpy", "dtype"): _PickledType,
        ("_codecs", "encode"): _encode,
    }

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(stream, encoding="bytes")

    def find_class(self, module: str, name: str) -> Any:
        """One of five stand-ins."""
        try:
            return self._KNOWN[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it wants to use {module}.{name}") from None
