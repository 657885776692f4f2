"""One stored value: an HDF5 file behind a 512-byte header that can prove the file whole.

The header stands in HDF5's *user block*, which other HDF5 programs skip:

    magic 8 | format 2 | kind's version 2 | length 8 | kind 32 | SHA-256 of all that follows the header 32
    | zeros up to byte 480 | SHA-256 of these 480 bytes 32

HDF5 itself never touches the disk while an entry is written: it crashes the whole process when the disk is
full while it flushes its structures (seen with HDF5 2.0). It lays out the file in memory, without the rows;
the rows are written straight to their places in the file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from concept_monitor_cli.store.atomic import check_room, writing_error
from concept_monitor_cli.store.keys import KINDS, Key

Array = npt.NDArray[Any]

HEADER_BYTES = 512
FORMAT = 1
"""Version of the file format; entries of another one are not read."""

_MAGIC = b"\x89CMONH5\n"
_HEADER = struct.Struct("<8sHHQ32s32s")
_META = "__meta__"
_PIECE = 1 << 22


class DamagedError(Exception):
    """An entry's file is not what was written. The store heals it; it never reaches the user."""


class Header:
    """The proof at the head of an entry's file.

    Attributes:
        kind: the kind of value.
        version: the version of the code that made it.
        format: the version of the file format.
        length: bytes after the header.
        sha256: of the bytes after the header.
        raw: the header as it stands in the file.
    """

    def __init__(self, kind: str, version: int, length: int, sha256: bytes, format: int = FORMAT) -> None:
        self.kind, self.version, self.format = kind, version, format
        self.length, self.sha256 = length, sha256
        fields = _HEADER.pack(_MAGIC, format, version, length, kind.encode("ascii"), sha256)
        padded = fields.ljust(HEADER_BYTES - 32, b"\0")
        self.raw = padded + hashlib.sha256(padded).digest()

    @classmethod
    def parse(cls, raw: bytes) -> Header:
        """Read a header back.

        Raises:
            DamagedError: it is not a header, or a bit of it changed.
        """
        if len(raw) != HEADER_BYTES:
            raise DamagedError("shorter than its header")
        if hashlib.sha256(raw[:-32]).digest() != raw[-32:]:
            raise DamagedError("the header changed")
        magic, format, version, length, kind, sha256 = _HEADER.unpack_from(raw)
        if magic != _MAGIC:
            raise DamagedError("not an entry of this store")
        return cls(kind.rstrip(b"\0").decode("ascii"), version, length, sha256, format)

    @property
    def current(self) -> bool:
        """Whether this version of the program would look for such an entry."""
        return self.format == FORMAT and KINDS.get(self.kind) == self.version


def read_header(file: int) -> Header:
    """The header of an open file, and that the file has the length it says.

    Raises:
        DamagedError: the header is damaged, or the file was cut off or grew.
    """
    header = Header.parse(os.pread(file, HEADER_BYTES, 0))
    length = os.fstat(file).st_size - HEADER_BYTES
    if length != header.length:
        raise DamagedError(f"{length:,} bytes long instead of {header.length:,}")
    return header


def check_content(file: int, header: Header) -> None:
    """Read the whole of an open file and compare it with its header.

    Raises:
        DamagedError: a bit changed.
    """
    if hash_content(file) != header.sha256:
        raise DamagedError("the content changed")


def hash_content(file: int) -> bytes:
    """SHA-256 of all that follows the header, read in pieces."""
    digest = hashlib.sha256()
    buffer = bytearray(_PIECE)
    view, offset = memoryview(buffer), HEADER_BYTES
    while count := os.preadv(file, [buffer], offset):
        digest.update(view[:count])
        offset += count
    return digest.digest()


class Entry:
    """A stored value, open for reading: named arrays and a small `meta`.

    The rows stay on the disk until asked for. Reading from several threads is safe. An entry that another
    process replaces or prunes meanwhile stays readable here.
    """

    def __init__(self, key: Key, path: Path, file: h5py.File, record: dict[str, Any]) -> None:
        self.key = key
        self.path = path
        self._file = file
        self.meta: dict[str, Any] = record["meta"]

    @classmethod
    def open(cls, key: Key, path: Path, *, opened_at: Path | None = None) -> Entry:
        """Open a verified file. `opened_at` is where it lies now, where that is not yet `path`.

        Raises:
            DamagedError: whole, but not the value of this key.
        """
        file = h5py.File(opened_at or path, "r", locking=False)
        try:
            record = json.loads(file[_META][()].tobytes())
            if record["key"] != key.digest:
                raise DamagedError("the value of another key")
            return cls(key, path, file, record)
        except BaseException:
            file.close()
            raise

    def names(self) -> tuple[str, ...]:
        """The arrays' names, sorted."""
        return tuple(sorted(name for name in self._file if name != _META))

    def shape(self, name: str) -> tuple[int, ...]:
        """An array's shape."""
        return tuple(self._dataset(name).shape)

    def dtype(self, name: str) -> np.dtype[Any]:
        """An array's type; `object` for text."""
        dataset = self._dataset(name)
        return np.dtype(object) if h5py.check_string_dtype(dataset.dtype) else np.dtype(dataset.dtype)

    def read(self, name: str) -> Array:
        """The whole array; text as an object array of `str`."""
        return self._decoded(self._dataset(name), ())

    def rows(self, name: str, start: int, stop: int) -> Array:
        """Rows `start` to `stop` (not included) of an array.

        Raises:
            IndexError: rows that the array does not have.
        """
        dataset = self._dataset(name)
        if not 0 <= start <= stop <= dataset.shape[0]:
            raise IndexError(f"rows {start}:{stop} of {name!r}, which has {dataset.shape[0]}")
        return self._decoded(dataset, slice(start, stop))

    def columns(self, name: str, start: int, stop: int) -> Array:
        """Columns `start` to `stop` (not included) of an array of two dimensions or more.

        Raises:
            IndexError: columns that the array does not have.
        """
        dataset = self._dataset(name)
        if not 0 <= start <= stop <= dataset.shape[1]:
            raise IndexError(f"columns {start}:{stop} of {name!r}, which has {dataset.shape[1]}")
        return self._decoded(dataset, (slice(None), slice(start, stop)))

    def close(self) -> None:
        """Close the file; nothing can be read afterwards."""
        self._file.close()

    def __enter__(self) -> Entry:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Entry({self.key.kind}, {self.key.digest[:12]}, {', '.join(self.names())})"

    def _dataset(self, name: str) -> h5py.Dataset:
        if name == _META or name not in self._file:
            raise KeyError(f"no array {name!r} in this {self.key.kind} entry, which has {self.names()}")
        return self._file[name]

    @staticmethod
    def _decoded(dataset: h5py.Dataset, selection: Any) -> Array:
        values = np.asarray(dataset[selection])
        if not h5py.check_string_dtype(dataset.dtype):
            return values
        # The same few texts stand on many rows: each is decoded, and held, once.
        coded = values.ravel().tolist()
        known = {value: value.decode("utf-8", "surrogateescape") for value in set(coded)}
        texts = np.empty(values.size, dtype=object)
        texts[:] = [known[value] for value in coded]
        return texts.reshape(values.shape)


class Writer:
    """Writes an entry, by rows where wanted; `Store.writer` publishes it when its block ends cleanly.

    Memory holds no more than what is being written. Different rows may be written from several threads.

    Attributes:
        meta: plain JSON values kept with the arrays; may be filled until the block ends.
        entry: the published entry, once the block has ended.
    """

    def __init__(self, key: Key, file: int, root: Path, meta: Mapping[str, Any] | None = None) -> None:
        self.key = key
        self._root = root
        self.meta: dict[str, Any] = dict(meta or {})
        self._file = file
        self._image = _MemoryFile()
        self._structure = h5py.File(self._image, "w", userblock_size=HEADER_BYTES)
        self._places: dict[str, _Place] = {}
        self._entry: Entry | None = None

    @property
    def entry(self) -> Entry:
        """The published entry.

        Raises:
            RuntimeError: the writer's block has not ended yet.
        """
        if self._entry is None:
            raise RuntimeError("the entry is published when the writer's block ends")
        return self._entry

    def create(self, name: str, shape: Sequence[int], dtype: npt.DTypeLike) -> None:
        """Announce an array of numbers; all of its rows must be written before the block ends.

        Raises:
            ValueError: the name is taken or reserved.
            TypeError: not numbers or booleans (`put` takes text).
            CmonError: there is no room for it on the disk.
        """
        self._refuse_reserved(name)
        self._create(name, tuple(int(side) for side in shape), np.dtype(dtype))

    def write(self, name: str, start_row: int, array: npt.ArrayLike) -> None:
        """Write rows from `start_row` on. Values must fit the announced type (`float64` into `float32` may).

        Raises:
            IndexError: more rows than announced.
            ValueError: rows of another shape.
            TypeError: a type that does not fit.
        """
        place = self._places[name]
        rows = np.asarray(array)
        if not place.shape or rows.shape[1:] != place.shape[1:] or rows.ndim != len(place.shape):
            raise ValueError(f"rows of shape {rows.shape} for {name!r} of shape {place.shape}")
        if not 0 <= start_row <= start_row + len(rows) <= place.shape[0]:
            stop = start_row + len(rows)
            raise IndexError(f"rows {start_row}:{stop} of {name!r}, which has {place.shape[0]}")
        if not np.can_cast(rows.dtype, place.dtype, "same_kind"):
            raise TypeError(f"{rows.dtype} rows for {name!r}, which is {place.dtype}")
        self._write(place, start_row * place.row_bytes, rows)
        place.written.append((start_row, start_row + len(rows)))

    def put(self, name: str, array: npt.ArrayLike) -> None:
        """Write a whole array, of numbers or of text."""
        self._refuse_reserved(name)
        values = np.asarray(array)
        if values.dtype.kind in "UO":
            values = _encoded(name, values)
        self._create(name, values.shape, values.dtype)
        place = self._places[name]
        self._write(place, 0, values)
        place.written.append((0, values.shape[0] if values.ndim else 1))

    def finish(self) -> None:
        """Complete the file on the disk: structure, header, flush. Called by the store.

        Raises:
            ValueError: rows were announced and not written.
            CmonError: the disk is full, or worse.
        """
        for name, place in self._places.items():
            missing = place.first_missing()
            if missing is not None:
                raise ValueError(f"row {missing} of {name!r} was never written")
        record = {
            "kind": self.key.kind,
            "version": KINDS[self.key.kind],
            "key": self.key.digest,
            "parts": self.key.parts,
            "meta": self.meta,
        }
        text = json.dumps(record, sort_keys=True, separators=(",", ":"))
        self.meta = json.loads(text)["meta"]
        values = np.frombuffer(text.encode("ascii"), dtype=np.uint8)
        self._create(_META, values.shape, values.dtype)
        self._write(self._places[_META], 0, values)
        self._structure.close()
        with self._writing():
            for offset, data in self._image.written:
                _write_at(self._file, data, offset)
            os.ftruncate(self._file, self._image.size)
            length = self._image.size - HEADER_BYTES
            header = Header(self.key.kind, KINDS[self.key.kind], length, hash_content(self._file))
            _write_at(self._file, header.raw, 0)
            os.fsync(self._file)
        self.header = header

    def publish(self, entry: Entry) -> None:
        """Remember the published entry. Called by the store."""
        self._entry = entry

    def discard(self) -> None:
        """Let go of the structure in memory. Called by the store, whatever happened."""
        self._structure.close()

    def _create(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        if name in self._places:
            raise ValueError(f"an array {name!r} is there already")
        if dtype.kind not in "biufS":
            raise TypeError(f"{name!r} is of type {dtype}: only numbers, booleans and text are stored")
        stored = h5py.string_dtype("utf-8", dtype.itemsize) if dtype.kind == "S" else dtype
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_layout(h5py.h5d.CONTIGUOUS)
        plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)  # a place in the file now ...
        plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)  # ... which HDF5 must not fill with zeros
        plist.set_obj_track_times(False)  # equal values give equal bytes
        with self._writing():
            check_room(self._root, math.prod(shape) * dtype.itemsize)
        space = h5py.h5s.create_simple(shape) if shape else h5py.h5s.create(h5py.h5s.SCALAR)
        kind = h5py.h5t.py_create(stored, logical=True)
        dataset = h5py.h5d.create(self._structure.id, name.encode("utf-8"), kind, space, plist)
        self._places[name] = _Place(shape, dtype, dataset.get_offset() if 0 not in shape else 0)

    def _write(self, place: _Place, offset: int, values: Array) -> None:
        if values.size:
            flat = np.ascontiguousarray(values, dtype=place.dtype).reshape(-1).view(np.uint8)
            with self._writing():
                _write_at(self._file, flat.data, place.offset + offset)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        # Only what this class does itself: an OSError of the caller's own has another cause.
        try:
            yield
        except OSError as error:
            raise writing_error(error, self._root, "--cache-dir") from error

    @staticmethod
    def _refuse_reserved(name: str) -> None:
        if name == _META or "/" in name or not name:
            raise ValueError(f"{name!r} cannot be the name of an array")


class _Place:
    """Where an array lies in the file, and which of its rows have been written."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], offset: int) -> None:
        self.shape, self.dtype, self.offset = shape, dtype, offset
        self.row_bytes = math.prod(shape[1:]) * dtype.itemsize
        self.written: list[tuple[int, int]] = []

    def first_missing(self) -> int | None:
        reached = 0
        for start, stop in sorted(self.written):
            if start > reached:
                break
            reached = max(reached, stop)
        rows = self.shape[0] if self.shape else 1
        return reached if reached < rows else None


class _MemoryFile:
    """The file that HDF5 believes to write: keeps the little that it writes, and where."""

    def __init__(self) -> None:
        self.written: list[tuple[int, bytes]] = []
        self.size = 0
        self._at = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def write(self, data: memoryview) -> int:
        self.written.append((self._at, bytes(data)))
        self._at += len(data)
        self.size = max(self.size, self._at)
        return len(data)

    def readinto(self, buffer: memoryview) -> int:
        start, stop = self._at, self._at + len(buffer)
        buffer[:] = bytes(len(buffer))
        for offset, data in self.written:
            first, last = max(start, offset), min(stop, offset + len(data))
            if first < last:
                buffer[first - start : last - start] = data[first - offset : last - offset]
        self._at = stop
        return len(buffer)

    def read(self, count: int = -1) -> bytes:  # h5py wants to see it, and uses readinto
        buffer = bytearray(count)
        self.readinto(memoryview(buffer))
        return bytes(buffer)

    def truncate(self, size: int) -> int:
        self.size = size
        return size

    def flush(self) -> None:
        pass


def _write_at(file: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data)
    while view:
        # A single call may write less than asked for, and on Linux never more than 2 GiB.
        count = os.pwrite(file, view[: 1 << 30], offset)
        view, offset = view[count:], offset + count


def _encoded(name: str, texts: Array) -> Array:
    """Text as fixed-length UTF-8. File names that are no text keep their bytes (surrogate escapes)."""
    if not all(isinstance(text, str) for text in texts.flat):
        raise TypeError(f"{name!r} holds objects that are not text")
    if any("\0" in text for text in texts.flat):
        raise ValueError(f"{name!r} holds text with a zero character")
    raw = [text.encode("utf-8", "surrogateescape") for text in texts.flat]
    encoded: Array = np.array(raw, dtype=f"S{max([1, *map(len, raw)])}").reshape(texts.shape)
    return encoded
