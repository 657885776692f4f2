"""Folders of torch.distributed.checkpoint, read without a process group and without running their pickles.

torch's own reader unpickles `.metadata` and the entries that are no tensors with full rights; this one reads
them as every other pickle here (see `pickles`).
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from concept_monitor_cli.checkpoints.find import DCP_METADATA
from concept_monitor_cli.checkpoints.pickles import InertUnpickler
from concept_monitor_cli.checkpoints.standins import InertError, Opaque
from concept_monitor_cli.checkpoints.torch_files import read_bytes
from concept_monitor_cli.errors import InputError

_DCP = "torch.distributed.checkpoint"
_CUT_OFF = "the copy or the save did not finish: copy it again, or take another epoch"
_SMALL = 1_000_000


class PendingTensor(Tensor):
    """A tensor of a torch.distributed.checkpoint folder: shape and dtype, the values still on disk."""

    fetch: Callable[[], Tensor]

    @classmethod
    def make(cls, shape: tuple[int, ...], dtype: torch.dtype, fetch: Callable[[], Tensor]) -> PendingTensor:
        """A stand-in on the meta device."""
        pending: PendingTensor = torch.empty(shape, dtype=dtype, device="meta").as_subclass(cls)
        pending.fetch = fetch
        return pending


class NotMetadataError(InertError):
    """The folder's `.metadata` is the pickle of something else."""


@dataclass(frozen=True)
class _Part:
    """Where some bytes of the folder are: file, first byte, how many."""

    file: str
    offset: int
    length: int


@dataclass(frozen=True)
class _Stored:
    """A tensor and the boxes that it is cut into: where each begins, and its size."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    chunks: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]


def read_dcp(folder: Path) -> dict[str, Any]:
    """The nested contents of a torch.distributed.checkpoint folder, from all ranks.

    Args:
        folder: holds `.metadata` and `*.distcp`.

    Returns:
        Nested dicts; a tensor is a `PendingTensor`, so that an optimizer's state is never read.

    Raises:
        InertError, RefusedError: `.metadata` is damaged, or names dangerous functions.
        InputError: the folder is incomplete.
    """
    path = folder / DCP_METADATA
    with path.open("rb") as file:
        metadata = InertUnpickler(file).load()
    state = _attributes(metadata, f"{_DCP}.metadata.Metadata")
    stored, routes = state.get("storage_data"), state.get("planner_data")
    entries = state.get("state_dict_metadata")
    if not isinstance(stored, dict) or not isinstance(entries, dict):
        raise InputError(f"not the metadata of {_DCP}", where=path)
    parts = {}
    for index, info in stored.items():
        key = _attributes(index, f"{_DCP}.metadata.MetadataIndex")
        offset = None if key.get("offset") is None else _sizes(key["offset"])
        parts[str(key.get("fqn")), offset] = _part(folder, info)
    content: dict[str, Any] = {}
    for name, entry in entries.items():
        if getattr(entry, "name", "").endswith(".TensorStorageMetadata"):
            tensor = _stored(entry)
            value: Any = PendingTensor.make(tensor.shape, tensor.dtype, _fetch(folder, parts, name, tensor))
        else:
            value = _small_object(folder, parts.get((name, None)))
        route = routes.get(name, (name,)) if isinstance(routes, dict) else (name,)
        _place(content, route if isinstance(route, tuple) and route else (name,), value)
    return content


def _attributes(value: object, name: str) -> Mapping[str, Any]:
    """What the file says of an object of a class of torch's."""
    if not isinstance(value, Opaque) or value.name != name:
        raise NotMetadataError(f"not the metadata of {_DCP}")
    return value.state if isinstance(value.state, dict) else {}


def _sizes(value: object) -> tuple[int, ...]:
    if not isinstance(value, tuple) or not all(type(side) is int and 0 <= side < 2**48 for side in value):
        raise InertError("an impossible size")
    return value


def _part(folder: Path, info: object) -> _Part:
    state = _attributes(info, f"{_DCP}.filesystem._StorageInfo")
    if state.get("transform_descriptors"):
        raise InputError(
            "its parts are compressed by an extension", where=folder, hint="convert it with torch"
        )
    file, offset, length = state.get("relative_path"), state.get("offset"), state.get("length")
    if not isinstance(file, str) or type(offset) is not int or type(length) is not int:
        raise InertError("a part without its place")
    path = folder / file
    if Path(file).is_absolute() or ".." in Path(file).parts:
        raise InertError(f"its part {file} is outside the folder")
    if not path.is_file() or offset < 0 or length < 0 or path.stat().st_size < offset + length:
        raise InputError(f"its part {file} is missing or cut off", where=folder, hint=_CUT_OFF)
    return _Part(file, offset, length)


def _stored(entry: Any) -> _Stored:
    state = _attributes(entry, f"{_DCP}.metadata.TensorStorageMetadata")
    properties = _attributes_or_tuple(state.get("properties"))
    chunks = []
    for chunk in state.get("chunks") or ():
        box = _attributes(chunk, f"{_DCP}.metadata.ChunkStorageMetadata")
        chunks.append((_sizes(box.get("offsets")), _sizes(box.get("sizes"))))
    if not isinstance(properties, torch.dtype):
        raise InertError("a tensor without a dtype")
    return _Stored(_sizes(state.get("size")), properties, tuple(chunks))


def _attributes_or_tuple(value: object) -> object:
    """The dtype among a tensor's properties, which torch keeps as a tuple or as attributes."""
    state = value.state if isinstance(value, Opaque) else None
    if isinstance(state, tuple) and state:
        return state[0]
    return state.get("dtype") if isinstance(state, dict) else None


def _place(content: dict[str, Any], route: tuple[Any, ...], value: Any) -> None:
    for step in route[:-1]:
        inner = content.setdefault(step, {})
        if not isinstance(inner, dict):
            return
        content = inner
    content[route[-1]] = value


_Parts = Mapping[tuple[str, tuple[int, ...] | None], _Part]


def _fetch(folder: Path, parts: _Parts, name: str, tensor: _Stored) -> Callable[[], Tensor]:
    def fetch() -> Tensor:
        try:
            return _joined(folder, parts, name, tensor)
        except InputError:
            raise
        except Exception as error:  # whatever damaged bytes bring a parser to raise
            line = " ".join(str(error).split())[:160]
            raise InputError(f"cut off or damaged: {line}", where=folder, hint=_CUT_OFF) from error

    return fetch


def _joined(folder: Path, parts: _Parts, name: str, tensor: _Stored) -> Tensor:
    whole = torch.empty(tensor.shape, dtype=tensor.dtype)
    covered = 0
    for offsets, sizes in tensor.chunks:
        part = parts.get((name, offsets))
        if part is None:
            raise InputError(f"a part of {name} is missing", where=folder, hint=_CUT_OFF)
        value = _read(folder, part)
        if not isinstance(value, Tensor):
            raise InputError(f"damaged: {name} is no tensor", where=folder / part.file)
        target = whole
        for dim, (start, length) in enumerate(zip(offsets, sizes, strict=True)):
            target = target.narrow(dim, start, length)
        target.copy_(value.reshape(target.shape))
        covered += value.numel()
    if covered != whole.numel():
        raise InputError(f"parts of {name} are missing", where=folder, hint=_CUT_OFF)
    return whole


def _small_object(folder: Path, part: _Part | None) -> Any:
    """An entry that is no tensor, where it is small and plain; None otherwise (only the epoch is of use)."""
    if part is None or part.length > _SMALL:
        return None
    try:
        return _read(folder, part)
    except (InertError, OSError, zipfile.BadZipFile, StopIteration, KeyError):
        return None


def _read(folder: Path, part: _Part) -> Any:
    with (folder / part.file).open("rb") as file:
        file.seek(part.offset)
        return read_bytes(file.read(part.length)).value
