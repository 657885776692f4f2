"""Image files inside other files: zip and tar archives, WebDataset shards, Parquet and Arrow tables.

Archives that allow it are read where they lie. The others are unpacked into one temporary file, which goes
away with the process. Nothing in a container is ever written under its own name.
"""

from __future__ import annotations

import os
import tarfile
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from concept_monitor_cli.errors import CmonError, InputError
from concept_monitor_cli.probe.decode import EXTENSIONS, FOREIGN
from concept_monitor_cli.probe.files import natural_key
from concept_monitor_cli.probe.images import EncodedImages

_TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
ENDINGS = (*_TAR, ".zip", ".parquet", ".arrow")
"""Endings of the files that this module reads."""

CLOSED = {
    ".tfrecord": "TFRecord",
    ".tfrecords": "TFRecord",
    ".mdb": "LMDB",
    ".lmdb": "LMDB",
    ".rec": "MXNet RecordIO",
    ".beton": "FFCV",
    ".7z": "7-Zip",
    ".rar": "RAR",
    ".mp4": "a video",
    ".avi": "a video",
    ".mov": "a video",
    ".mkv": "a video",
}
"""Endings of containers that are not read, and what they are."""

_LARGEST = 1 << 30  # bytes of one image file


@dataclass(frozen=True)
class Contents:
    """What was found in a container.

    Attributes:
        images: the image files in it.
        foreign: names of images of formats that are not read.
        others: names of other files, some of them.
    """

    images: EncodedImages
    foreign: Sequence[str]
    others: Sequence[str]


def open_containers(paths: Sequence[Path]) -> Contents:
    """The image files inside of containers of one kind, as one set.

    Raises:
        InputError: one is damaged, or holds no images.
    """
    lower = paths[0].name.lower()
    try:
        if lower.endswith(".zip"):
            found = _joined([_zip(path) for path in paths], paths)
        elif lower.endswith(_TAR):
            found = _joined([_tar(path) for path in paths], paths)
        else:
            found = _joined([_table(path) for path in paths], paths)
    except CmonError:
        raise
    except Exception as error:  # these readers raise nearly anything on damaged files
        where = paths[0] if len(paths) == 1 else paths[0].parent
        raise InputError(f"not a readable file of images: {error}"[:300], where=where) from error
    if not found.images.ids:
        inner = next(
            (name for name in found.others if name.lower().endswith((*ENDINGS, ".npz", ".h5"))), None
        )
        foreign = found.foreign[0] if found.foreign else None
        hint = "JPEG, PNG and others, by their endings"
        if inner is not None:
            hint = f"it holds {inner}: unpack the outer file and give that"
        elif foreign is not None:
            hint = f"it holds {foreign}, which is not read: convert the images to JPEG or PNG"
        raise InputError("no images in the file", where=paths[0], hint=hint)
    return found


@dataclass(frozen=True)
class _Part:
    names: list[str]
    reads: list[Callable[[], bytes]]
    foreign: list[str]
    others: list[str]


class _Inside(EncodedImages):
    def __init__(self, ids: Sequence[str], reads: Sequence[Callable[[], bytes]]) -> None:
        self.ids = tuple(ids)
        self._reads = tuple(reads)

    def read(self, index: int) -> bytes:
        return self._reads[index]()


def _joined(parts: Sequence[_Part], paths: Sequence[Path]) -> Contents:
    """Several containers as one set, each in natural order, under their own names."""
    named: list[tuple[str, Callable[[], bytes]]] = []
    for part, path in zip(parts, paths, strict=True):
        prefix = "" if len(parts) == 1 else f"{path.name}/"
        order = sorted(range(len(part.names)), key=lambda place: natural_key(part.names[place]))
        named += [(prefix + part.names[place], part.reads[place]) for place in order]
    seen: dict[str, int] = {}
    ids = []
    for name, _ in named:
        seen[name] = seen.get(name, 0) + 1
        ids.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return Contents(
        _Inside(ids, [read for _, read in named]),
        [name for part in parts for name in part.foreign],
        [name for part in parts for name in part.others],
    )


def _sorted_out(name: str, part: _Part) -> bool:
    """Whether a member is an image; keeps the names of others."""
    pieces = PurePosixPath(name.replace("\\", "/")).parts
    if not pieces or any(piece.startswith(".") for piece in pieces[-1:]) or "__MACOSX" in pieces:
        return False
    if name.lower().endswith(EXTENSIONS):
        return True
    if name.lower().endswith(FOREIGN):
        part.foreign.append(name)
    elif len(part.others) < 1000:
        part.others.append(name)
    return False


# -- zip -----------------------------------------------------------------------------------------------------


def _zip(path: Path) -> _Part:
    part = _Part([], [], [], [])
    archive = zipfile.ZipFile(path)
    lock = threading.Lock()

    def reader(info: zipfile.ZipInfo) -> Callable[[], bytes]:
        def read() -> bytes:
            if info.file_size > _LARGEST:
                raise OSError(f"{info.file_size:,} bytes when unpacked")
            try:
                with lock:
                    return archive.read(info)
            except Exception as error:
                raise OSError(f"the archive is damaged: {error}") from error

        return read

    for info in archive.infolist():
        if not info.is_dir() and _sorted_out(info.filename, part):
            if info.flag_bits & 1:
                raise InputError("the archive is encrypted", where=path, hint="unpack it and give the folder")
            part.names.append(info.filename)
            part.reads.append(reader(info))
    return part


# -- tar -----------------------------------------------------------------------------------------------------


def _tar(path: Path) -> _Part:
    part = _Part([], [], [], [])
    if path.name.lower().endswith(".tar"):
        with path.open("rb") as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            size = path.stat().st_size
            for member in archive:
                if not member.isreg() or member.issparse() or not _sorted_out(member.name, part):
                    continue
                if member.offset_data + member.size > size:
                    raise InputError(f"the archive is cut off within {member.name}", where=path)
                part.names.append(member.name)
                part.reads.append(_slice(path, member.offset_data, member.size))
        return part
    spool = _Spool()
    with tarfile.open(path, mode="r:*") as archive:
        for member in archive:
            if member.isreg() and _sorted_out(member.name, part):
                content = archive.extractfile(member)
                if content is None or member.size > _LARGEST:
                    raise InputError(f"{member.name} cannot be unpacked", where=path)
                part.names.append(member.name)
                part.reads.append(spool.add(content.read()))
    return part


def _slice(path: Path, start: int, size: int) -> Callable[[], bytes]:
    def read() -> bytes:
        with path.open("rb") as file:
            file.seek(start)
            data = file.read(size)
        if len(data) != size:
            raise OSError("the archive is cut off")
        return data

    return read


class _Spool:
    """Bytes in one temporary file without a name, to be read by threads in any order."""

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="cmon-")  # noqa: SIM115
        self._end = 0

    def add(self, data: bytes) -> Callable[[], bytes]:
        """Keep these bytes; what reads them again."""
        start, size = self._end, len(data)
        try:
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise CmonError(
                f"images cannot be unpacked: {error.strerror}",
                where=tempfile.gettempdir(),
                hint="make room there, or set TMPDIR to another folder",
            ) from error
        self._end += size
        return lambda: os.pread(self._file.fileno(), size, start)


# -- tables --------------------------------------------------------------------------------------------------


def _table(path: Path) -> _Part:
    """The image column of a table as Hugging Face's `datasets` writes it: `{bytes, path}`, or bytes alone."""
    part = _Part([], [], [], [])
    packed = path.name.lower().endswith(".parquet")
    spool = _Spool() if packed else None
    row = 0
    for batch in _batches(path) if packed else _arrow_batches(path):
        column = _bytes_of(batch, path)
        names = _paths_of(batch)
        for place in range(len(column)):
            if not column[place].is_valid:
                part.others.append(names[place] or f"row {row}")
            else:
                part.names.append(_row_name(row, names[place]))
                part.reads.append(
                    _arrow_value(column, place) if spool is None else spool.add(column[place].as_py())
                )
            row += 1
    if row and not part.names:
        raise InputError(
            "the table holds paths of images, not the images",
            where=path,
            hint="give the folder with the images",
        )
    return part


def _row_name(row: int, name: str | None) -> str:
    return f"{row:06d}" if not name else f"{row:06d}-{PurePosixPath(name).name}"


def _arrow_value(column: Any, place: int) -> Callable[[], bytes]:
    return lambda: bytes(column[place].as_buffer())


def _batches(path: Path) -> Iterator[Any]:
    with pq.ParquetFile(path) as file:
        name = _image_column(file.schema_arrow, path)
        yield from file.iter_batches(batch_size=64, columns=[name])


def _arrow_batches(path: Path) -> Iterator[Any]:
    mapped = pa.memory_map(str(path))
    try:
        reader = pa.ipc.open_stream(mapped)
        batches: Iterator[Any] = iter(reader)
    except pa.ArrowInvalid:
        reader = pa.ipc.open_file(mapped)
        batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
    name = _image_column(reader.schema, path)
    for batch in batches:
        batch.validate(full=True)
        yield batch.select([name])


def _image_column(schema: Any, path: Path) -> str:
    found = [field.name for field in schema if _holds_bytes(field.type)]
    for wanted in ("image", "img", "images", "pixel_values"):
        if wanted in found:
            return wanted
    if len(found) == 1:
        return str(found[0])
    names = ", ".join(schema.names)[:150]
    raise InputError(
        "no column of images in the table" if not found else "several columns of images in the table",
        where=path,
        hint=f"it has {names}; call the one with the images `image`, as bytes or {{bytes, path}}",
    )


def _holds_bytes(kind: Any) -> bool:
    binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    inner = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    return bool(binary or (inner and _holds_bytes(kind.field("bytes").type)))


def _bytes_of(batch: Any, path: Path) -> Any:
    column = batch.column(0)
    if pa.types.is_struct(column.type):
        column = column.field("bytes")
    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        raise InputError("the column of images holds no bytes", where=path)
    return column


def _paths_of(batch: Any) -> list[str | None]:
    column = batch.column(0)
    if not pa.types.is_struct(column.type) or column.type.get_field_index("path") < 0:
        return [None] * len(column)
    return [value if isinstance(value, str) else None for value in column.field("path").to_pylist()]
