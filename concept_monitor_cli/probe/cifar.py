"""CIFAR-10 and CIFAR-100 in the forms in which they are handed out. Nothing here runs code from a file."""

from __future__ import annotations

import io
import pickle
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.probe.decode import Pixels8
from concept_monitor_cli.probe.files import list_images
from concept_monitor_cli.probe.images import ArrayImages, FileImages, ImageSource


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


def has_cifar(folder: Path, classes: int) -> bool:
    """Whether a folder holds the batch files of CIFAR as handed out."""
    if classes == 100 and not any((folder / name).is_file() for name in ("meta", "fine_label_names.txt")):
        return False  # other folders hold a file `train` too
    return _has_batches(folder, classes)


def _tree(folder: Path) -> ImageSource:
    names = list_images(folder)
    if not names:
        raise InputError("no images in the folder", where=folder)
    return FileImages([folder / name for name in names], names)


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
        data = batch[b"data"] if b"data" in batch else batch["data"]
        if isinstance(data, _PickledArray):
            data = data.array()
        if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072 or len(data) == 0:
            raise ValueError(f"data is {data.dtype} of shape {data.shape}")
    except Exception as error:  # a hostile pickle can make its reader stumble over nearly anything
        told = isinstance(error, (pickle.UnpicklingError, ValueError)) and str(error)
        reason = told or f"damaged ({type(error).__name__})"
        raise InputError(f"not a CIFAR batch file: {reason}", where=path) from error
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
        if not isinstance(data, bytes):
            raise ValueError("an array without bytes")
        pixels: Pixels8 = np.frombuffer(data, dtype=np.uint8).reshape(shape)
        return pixels


def _reconstruct(*_: object) -> _PickledArray:
    return _PickledArray()


def _encode(text: object, encoding: object = "latin1") -> bytes:
    # How protocol 2 writes bytes under Python 3.
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("bytes in another form than pickle writes")
    return text.encode("latin-1")


_FUNCTIONS = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _PickledArray,
    ("numpy", "dtype"): _PickledType,
    ("_codecs", "encode"): _encode,
}

# Numbers, text, tuples, lists, dicts, the memory of what came before, and the calls checked below. Not among
# them: sets (hashing nested tuples can take for ever), objects of classes, buffers made at a given size.
_ALLOWED = (
    "PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 FLOAT BINFLOAT "
    "STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 UNICODE BINUNICODE SHORT_BINUNICODE "
    "EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT "
    "PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET GLOBAL STACK_GLOBAL"
)


class _BatchUnpickler(pickle._Unpickler):
    """Reads numbers, text, lists, dicts and uint8 arrays; anything else in the pickle is refused.

    The one in Python, not the one in C: that one takes gigabytes for a few bytes (a high memory slot).
    """

    # What the base class does at each step, and where it keeps what it has read so far.
    dispatch: ClassVar[dict[int, Any]] = {
        code[0]: pickle._Unpickler.dispatch[code[0]]
        for code in (getattr(pickle, name) for name in _ALLOWED.split())
    }
    stack: list[Any]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(stream, encoding="bytes")

    def find_class(self, module: str, name: str) -> Any:
        """One of five stand-ins."""
        try:
            return _FUNCTIONS[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it wants to use {module}.{name}") from None

    def _call(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        if not any(function is known for known in _FUNCTIONS.values()):
            raise pickle.UnpicklingError("it wants to call what is no function")
        self.stack[-1] = function(*arguments)

    def _fill(self) -> None:
        state = self.stack.pop()
        if type(self.stack[-1]) not in (_PickledArray, _PickledType):
            raise pickle.UnpicklingError("it wants to fill what is no array")
        self.stack[-1].__setstate__(state)

    def _set(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or not all(isinstance(key, (bytes, str)) for key in items[::2]):
            raise pickle.UnpicklingError("a dict with other names than text")
        target.update(zip(items[::2], items[1::2], strict=True))

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def _set_items(self) -> None:
        self._set(self.pop_mark())

    dispatch[pickle.REDUCE[0]] = _call
    dispatch[pickle.BUILD[0]] = _fill
    dispatch[pickle.SETITEM[0]] = _set_item
    dispatch[pickle.SETITEMS[0]] = _set_items
