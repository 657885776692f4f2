"""Files of torch.save, read without running what is in them: their pickle, and where their tensors lie."""

from __future__ import annotations

import io
import mmap
import struct
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from concept_monitor_cli.checkpoints.pickles import InertUnpickler
from concept_monitor_cli.checkpoints.standins import InertError, Storage, StorageKind

# torch.save before 1.6 starts with this number, pickled (torch.serialization.MAGIC_NUMBER).
_LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_LOCAL_HEADER = 30
_DEEPEST = 3


def is_legacy(head: bytes) -> bool:
    """Whether a file that begins so is of torch.save before 1.6, with any protocol of pickle."""
    return head[:1] == b"\x80" and _LEGACY_MAGIC in head[:32]


@dataclass(frozen=True)
class Read:
    """What was read of a file.

    Attributes:
        value: the object in it.
        unknown: names of the classes of which objects were left out.
        text: what is kept as text beside the tensors (safetensors' metadata).
    """

    value: Any
    unknown: tuple[str, ...] = ()
    text: Mapping[str, Any] | None = None


def read_zip_file(path: Path) -> Read:
    """A file of torch.save since 1.6: a zip archive with a pickle and a record for each storage.

    Tensors are mapped to the file: what is not touched is not read.

    Raises:
        InertError, RefusedError: see `InertUnpickler.load`.
        zipfile.BadZipFile, OSError: it is damaged.
    """
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        records = {info.filename: info for info in archive.infolist()}
        name = next(name for name in records if name.partition("/")[2] == "data.pkl")
        top = name.removesuffix("data.pkl")
        data = _record(file, records[name], path)
        order = f"{top}byteorder"
        swapped = order in records and _record(file, records[order], path) != sys.byteorder.encode()
        whole = torch.UntypedStorage.from_file(str(path), False, path.stat().st_size)
        made: dict[str, Storage] = {}

        def storage(persistent_id: object) -> Storage:
            kind, key, _, count, *_ = _storage_id(persistent_id)
            if key not in made:
                info = records.get(f"{top}data/{key}")
                if info is None:
                    raise InertError(f"the values of {key} are missing")
                if info.compress_type != zipfile.ZIP_STORED:
                    raise InertError("its tensors are compressed, which torch does not do")
                wanted = count * _size_of(kind.dtype)
                if wanted > info.file_size:
                    raise InertError(f"the values of {key} are cut off")
                start = _begin(file, info)
                untyped = _aligned(whole[start : start + wanted], kind.dtype)
                if swapped and kind.dtype is not None:
                    untyped = untyped.clone()
                    untyped.byteswap(kind.dtype)
                made[key] = Storage(untyped, kind.dtype)
            return made[key]

        machine = InertUnpickler(io.BytesIO(data), storage=storage, from_bytes=_from_bytes(1))
        return Read(machine.load(), tuple(machine.unknown))


def _record(file: Any, info: zipfile.ZipInfo, path: Path) -> bytes:
    # A few compressed bytes can stand for any number of them.
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > path.stat().st_size:
        raise InertError("its pickle is compressed, which torch does not do")
    # Its checksum is not looked at: torch can be told to write none.
    file.seek(_begin(file, info))
    data: bytes = file.read(info.file_size)
    return data


def _begin(file: Any, info: zipfile.ZipInfo) -> int:
    """Where a record's bytes begin."""
    file.seek(info.header_offset)
    header = file.read(_LOCAL_HEADER)
    if len(header) != _LOCAL_HEADER or header[:4] != b"PK\3\4":
        raise InertError("the archive is damaged")
    name, extra = struct.unpack("<HH", header[26:30])
    return int(info.header_offset + _LOCAL_HEADER + name + extra)


def _storage_id(persistent_id: object) -> tuple[StorageKind, str, Any, int, Any]:
    """Kind, key, device, number of elements, and which part of another storage it is."""
    if not isinstance(persistent_id, tuple) or len(persistent_id) < 5:
        raise InertError("it refers to something that is no storage")
    name, kind, key, device, count, *view = persistent_id
    if name not in ("storage", b"storage") or not isinstance(kind, StorageKind):
        raise InertError("it refers to something that is no storage")
    if type(count) is not int or not 0 <= count < 2**60:
        raise InertError("a storage of an impossible size")
    return kind, str(key), device, count, view[0] if view else None


def _aligned(untyped: Any, dtype: torch.dtype | None) -> Any:
    """Bytes where torch wants numbers of this size to begin; copied where the file has them elsewhere."""
    return untyped if untyped.data_ptr() % _size_of(dtype) == 0 else untyped.clone()


def _size_of(dtype: torch.dtype | None) -> int:
    return 1 if dtype is None else dtype.itemsize


# -- before torch 1.6 ------------------------------------------------------------------------------


def read_legacy_file(path: Path) -> Read:
    """A file of torch.save before 1.6: pickles one after the other, then the storages.

    Raises:
        InertError, RefusedError: see `InertUnpickler.load`.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        whole = torch.UntypedStorage.from_file(str(path), False, path.stat().st_size)
        return _legacy(mapped, whole, 0)


def read_pickle_file(path: Path) -> Read:
    """A plain pickle, as `pickle.dump` writes it; its tensors are in torch's own format inside.

    Raises:
        InertError, RefusedError: see `InertUnpickler.load`.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        machine = InertUnpickler(mapped, from_bytes=_from_bytes(1))
        return Read(machine.load(), tuple(machine.unknown))


def _from_bytes(depth: int) -> Any:
    def read(data: bytes) -> Any:
        if not is_legacy(data[:32]):
            raise InertError("a tensor in an unknown format")
        return _legacy(io.BytesIO(data), torch.frombuffer(bytearray(data), dtype=torch.uint8), depth).value

    return None if depth > _DEEPEST else read


def _legacy(file: Any, whole: Any, depth: int) -> Read:
    """The object of a legacy stream; `whole` are all its bytes, as a storage or a tensor."""
    if isinstance(whole, torch.Tensor):
        whole = whole.untyped_storage()
    for _ in range(3):  # the magic number, the protocol, what the machine was like
        InertUnpickler(file).load()
    begin = file.tell()
    kinds: dict[str, StorageKind] = {}

    def outline(persistent_id: object) -> object:
        if isinstance(persistent_id, tuple) and persistent_id[:1] in (("module",), (b"module",)):
            return persistent_id[1]  # a class, with its source code beside it
        kind, key, *_ = _storage_id(persistent_id)
        kinds[key] = kind
        return Storage(None, kind.dtype)

    # Where the values lie is told after the object: a first look at it finds that place.
    InertUnpickler(file, storage=outline, from_bytes=_from_bytes(depth + 1)).load()
    keys = InertUnpickler(file).load()
    places = _places(file, keys, kinds, whole.nbytes())

    made: dict[tuple[str, int, int, torch.dtype | None], Storage] = {}

    def storage(persistent_id: object) -> object:
        if isinstance(persistent_id, tuple) and persistent_id[:1] in (("module",), (b"module",)):
            return persistent_id[1]
        kind, key, _, count, view = _storage_id(persistent_id)
        if key not in places:
            raise InertError(f"the values of {key} are missing")
        start, here = places[key]
        first = 0
        if view is not None:
            if not (isinstance(view, tuple) and len(view) == 3 and all(type(n) is int for n in view[1:])):
                raise InertError("a part of a storage that is none")
            _, first, count = view
        size = _size_of(kind.dtype)
        if first < 0 or count < 0 or first + count > here:
            raise InertError(f"the values of {key} are cut off")
        place = (key, first, count, kind.dtype)
        if place not in made:
            untyped = whole[start + first * size : start + (first + count) * size]
            made[place] = Storage(_aligned(untyped, kind.dtype), kind.dtype)
        return made[place]

    file.seek(begin)
    machine = InertUnpickler(file, storage=storage, from_bytes=_from_bytes(depth + 1))
    return Read(machine.load(), tuple(machine.unknown))


def _places(
    file: Any, keys: object, kinds: Mapping[str, StorageKind], end: int
) -> dict[str, tuple[int, int]]:
    """Key -> where its values begin, and how many there are."""
    if not isinstance(keys, list):
        raise InertError("the list of its storages is missing")
    places = {}
    at = file.tell()
    for key in map(str, keys):
        if key not in kinds:
            raise InertError("it holds a storage of no tensor")
        file.seek(at)
        head = file.read(8)
        if len(head) != 8:
            raise InertError("it ends too early")
        (count,) = struct.unpack("<q", head)
        size = count * _size_of(kinds[key].dtype)
        if count < 0 or at + 8 + size > end:
            raise InertError("it ends too early")
        places[key] = (at + 8, count)
        at += 8 + size
    return places


def read_bytes(data: bytes) -> Read:
    """What torch.save has written into bytes, in either of its formats; the tensors are copied."""
    if is_legacy(data[:32]):
        return Read(_from_bytes(0)(data))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        name = next(name for name in archive.namelist() if name.partition("/")[2] == "data.pkl")
        top = name.removesuffix("data.pkl")
        if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
            raise InertError("its tensors are compressed, which torch does not do")

        made: dict[str, Storage] = {}

        def storage(persistent_id: object) -> Storage:
            kind, key, *_ = _storage_id(persistent_id)
            if key in made:
                return made[key]
            values = bytearray(archive.read(f"{top}data/{key}"))
            untyped = (
                torch.frombuffer(values, dtype=torch.uint8).untyped_storage()
                if values
                else torch.UntypedStorage(0)  # type: ignore[no-untyped-call]
            )
            made[key] = Storage(untyped, kind.dtype)
            return made[key]

        machine = InertUnpickler(io.BytesIO(archive.read(name)), storage=storage, from_bytes=_from_bytes(1))
        return Read(machine.load(), tuple(machine.unknown))
