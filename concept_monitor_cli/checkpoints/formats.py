"""Read the file formats of checkpoints without running what they carry.

A pickle may ask for any function of any module to be called. Everything here goes through torch's restricted
unpickler or our own, which know a fixed list of harmless names; anything else is refused by name.
"""

from __future__ import annotations

import argparse
import io
import json
import lzma
import pathlib
import pickle
import re
import tarfile
import threading
import types
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, datetime, timedelta, timezone
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from concept_monitor_cli.checkpoints.find import DCP_METADATA
from concept_monitor_cli.errors import InputError

# torch.save before 1.6 starts with this number, pickled (torch.serialization.MAGIC_NUMBER).
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_SAVE_AGAIN = "save it again with torch.save(model.state_dict(), FILE)"
_CUT_OFF = "the copy or the save did not finish: copy it again, or take another epoch"

# Nobody keeps these beside weights by accident.
_DANGEROUS = re.compile(
    r"^(os|posix|nt|sys|subprocess|shutil|socket|builtins|importlib|runpy|ctypes|code|pty|webbrowser|pickle|"
    r"operator|functools|urllib|requests|http|asyncio|multiprocessing|threading|signal)\b"
)

# `safe_globals` changes a list of the whole process and takes its names away again at the end.
_LOADING = threading.Lock()

# As torch.serialization.safe_globals takes them: what is called, and the name under which it is pickled.
_Global = Callable[..., Any] | tuple[Callable[..., Any], str]


def _harmless() -> list[_Global]:
    """Plain values that trainers keep beside the weights: class and the name under which it is pickled.

    Each only holds data: making one runs none but its own constructor.
    """
    found: list[_Global] = [
        (argparse.Namespace, "argparse.Namespace"),
        (types.SimpleNamespace, "types.SimpleNamespace"),
        (dict, "builtins.dict"),
        (list, "builtins.list"),
        (tuple, "builtins.tuple"),
        (date, "datetime.date"),
        (datetime, "datetime.datetime"),
        (timedelta, "datetime.timedelta"),
        (timezone, "datetime.timezone"),
        (np.ndarray, "numpy.ndarray"),
        (np.dtype, "numpy.dtype"),
    ]
    # A path of the other system cannot be made here, and nothing is opened by it.
    for module in ("pathlib", "pathlib._local"):
        found += [(PurePosixPath, f"{module}.{name}") for name in ("PosixPath", "PurePosixPath")]
        found += [(PureWindowsPath, f"{module}.{name}") for name in ("WindowsPath", "PureWindowsPath")]
    reconstruct: Any = np.array(0).__reduce__()[0]
    scalar: Any = np.float64(0).__reduce__()[0]
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        found += [(reconstruct, f"{module}._reconstruct"), (scalar, f"{module}.scalar")]
    kinds = {type(np.dtype(code)) for code in (*np.typecodes["All"], "U1", "S1") if code not in "OV"}
    found += [(kind, f"numpy.dtypes.{kind.__name__}") for kind in kinds]
    # Lightning's hyper-parameters: a dict with another name.
    for module in (
        "pytorch_lightning.utilities.parsing",
        "lightning.pytorch.utilities.parsing",
        "lightning_fabric.utilities.data",
        "lightning.fabric.utilities.data",
    ):
        found.append((dict, f"{module}.AttributeDict"))
    return found


def read_file(path: Path, *, trust_pickle: bool, mmap: bool) -> tuple[Any, Mapping[str, Any]]:
    """What a checkpoint file or folder holds.

    Args:
        path: the file, or a folder of torch.distributed.checkpoint.
        trust_pickle: run whatever code the file asks for.
        mmap: map tensors to the file where the format allows it, instead of reading all of it.

    Returns:
        The loaded object, and text kept beside it (safetensors' metadata).

    Raises:
        InputError: it is cut off, of another format, or asks for code to be run.
    """
    if path.is_dir():
        return read_dcp(path, trust_pickle=trust_pickle), {}
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise InputError(f"cannot be opened: {error.strerror}", where=path) from error
    if not head:
        raise InputError("the file is empty", where=path, hint=_CUT_OFF)
    if path.name.endswith(".index.json"):
        return _read_parts(path, trust_pickle=trust_pickle, mmap=mmap)
    if path.name.lower().endswith(".safetensors") or _looks_like_safetensors(head):
        return _read_safetensors(path)
    if head.startswith(b"PK"):
        return _read_zip(path, trust_pickle=trust_pickle, mmap=mmap), {}
    if head.startswith(_LEGACY_MAGIC):
        return _torch_load(path, trust_pickle=trust_pickle, mmap=False), {}
    if head.strip(b"\0") and _is_tar(path):
        return _read_tar(path, trust_pickle=trust_pickle), {}
    if head[:1] == b"\x80" and head[1:2] <= b"\x05":
        return _read_plain_pickle(path, trust_pickle=trust_pickle), {}
    raise _foreign(path, head)


def _is_tar(path: Path) -> bool:
    # Of a damaged compressed file it tells in other ways than by False.
    try:
        return tarfile.is_tarfile(path)
    except (EOFError, OSError, ValueError, zlib.error, lzma.LZMAError):
        return False


# -- foreign files ---------------------------------------------------------------------------------


def _foreign(path: Path, head: bytes) -> InputError:
    text = head.lstrip().lower()
    if text.startswith(b"version https://git-lfs"):
        return InputError("a Git LFS pointer, not the file itself", where=path, hint="git lfs pull")
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return InputError(
            "a web page, not a checkpoint",
            where=path,
            hint="the download got an error or login page: repeat it",
        )
    if head.startswith(b"\x89HDF"):
        return InputError(
            "an HDF5 file (Keras?), not a PyTorch checkpoint",
            where=path,
            hint="convert it to a PyTorch state dict",
        )
    if head.startswith(b"\x1f\x8b"):
        return InputError("compressed with gzip", where=path, hint="gunzip it first")
    if head.startswith((b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ")):
        return InputError("a compressed file, not a checkpoint", where=path, hint="unpack it first")
    if not head.strip(b"\x00"):
        return InputError("the file holds nothing but zeros", where=path, hint=_CUT_OFF)
    return InputError(
        "not a checkpoint: neither torch.save, safetensors nor torch.distributed.checkpoint",
        where=path,
        hint="give a file written by torch.save or safetensors",
    )


# -- torch.save ------------------------------------------------------------------------------------


def _read_zip(path: Path, *, trust_pickle: bool, mmap: bool) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception as error:
        raise InputError("the file is cut off", where=path, hint=_CUT_OFF) from error
    # torch puts everything into one folder, named after the file.
    inside = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inside:
        raise InputError("a TorchScript or exported program, not a state dict", where=path, hint=_SAVE_AGAIN)
    if "data.pkl" not in inside:
        shown = ", ".join(names[:3])
        raise InputError(
            f"a zip archive with something else in it ({shown})", where=path, hint="give a file of torch.save"
        )
    return _torch_load(path, trust_pickle=trust_pickle, mmap=mmap)


def _torch_load(path: Path, *, trust_pickle: bool, mmap: bool) -> Any:
    try:
        if trust_pickle:
            return torch.load(path, map_location="cpu", weights_only=False, mmap=mmap)
        # Warnings are left alone: filters are the whole process's, and this runs in threads.
        with _LOADING, torch.serialization.safe_globals(_harmless()):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        raise _refused(path, str(error)) from error
    except (ModuleNotFoundError, AttributeError) as error:
        if not trust_pickle:
            raise InputError(f"damaged: {_line(error)}", where=path, hint=_CUT_OFF) from error
        raise InputError(
            f"the file needs code that is not here: {_line(error)}",
            where=path,
            hint=f"run where that code can be imported, or {_SAVE_AGAIN}",
        ) from error
    except Exception as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    """For whatever a parser raises: on bytes that are not what they should be, that may be anything."""
    if isinstance(error, MemoryError) or "not enough memory" in str(error):
        return InputError("not enough memory to load it, or damaged", where=path)
    return InputError(f"cut off or damaged: {_line(error)}", where=path, hint=_CUT_OFF)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__


def _refused(path: Path, message: str) -> InputError:
    named = re.search(r"GLOBAL (\S+) (?:was not|whose module)", message)
    if named is None:
        named = re.search(r"``(\S+)`` (?:and|must)", message)
    if named is None:
        if "Unsupported operand" in message:
            return InputError(
                "damaged, or saved with a pickle protocol that torch does not read without running code",
                where=path,
                hint=f"{_SAVE_AGAIN} (without pickle_protocol), or --trust-pickle if the file is your own",
            )
        return InputError(f"refused: {' '.join(message.split())[:160]}", where=path, hint=_SAVE_AGAIN)
    return _refused_name(path, named[1])


def _refused_name(path: Path, name: str) -> InputError:
    if _DANGEROUS.match(name) or name in ("eval", "exec", "getattr", "__import__", "compile", "open"):
        return InputError(
            f"the file asks to run {name} when it is loaded; nothing was run",
            where=path,
            hint="do not load it unless you know who made it and why",
        )
    return InputError(
        f"the file can only be loaded by running code of {name}; nothing was run",
        where=path,
        hint=f"{_SAVE_AGAIN}, or --trust-pickle if the file is your own",
    )


def _read_plain_pickle(path: Path, *, trust_pickle: bool) -> Any:
    if not trust_pickle:
        raise InputError(
            "a plain pickle, not written by torch.save; nothing was run",
            where=path,
            hint=f"{_SAVE_AGAIN}, or --trust-pickle if the file is your own",
        )
    try:
        with path.open("rb") as file:
            return pickle.load(file)
    except Exception as error:  # whatever the code in the file raises
        raise InputError(f"its code failed: {type(error).__name__}: {_line(error)}", where=path) from error


def _read_tar(path: Path, *, trust_pickle: bool) -> Any:
    with tarfile.open(path) as archive:
        names = [member.name for member in archive.getmembers()]
    if not {"storages", "tensors", "pickle"} <= set(names):
        shown = ", ".join(names[:3])
        raise InputError(
            f"a tar archive ({shown}), not a checkpoint", where=path, hint="unpack it and give its files"
        )
    if not trust_pickle:
        raise InputError(
            "the tar format of the first torch versions: reading it runs its code; nothing was run",
            where=path,
            hint=f"{_SAVE_AGAIN}, or --trust-pickle if the file is your own",
        )
    return _torch_load(path, trust_pickle=True, mmap=False)


# -- safetensors -----------------------------------------------------------------------------------


def _looks_like_safetensors(head: bytes) -> bool:
    return len(head) > 9 and head[8:9] == b"{" and 0 < int.from_bytes(head[:8], "little") < 100_000_000


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        with path.open("rb") as stream:
            head = stream.read(512)
        if not _looks_like_safetensors(head):
            raise _foreign(path, head) from error
        raise _damaged(path, error) from error


def _read_parts(path: Path, *, trust_pickle: bool, mmap: bool) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """A checkpoint in several files, as Hugging Face writes large ones; `path` is the list of contents."""
    try:
        parts = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        names = sorted({str(name) for name in parts.values()})
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError("not a list of a checkpoint's parts", where=path) from error
    tensors: dict[str, Any] = {}
    for name in names:
        part = path.parent / Path(name).name
        if not part.is_file():
            raise InputError(f"its part {name} is missing", where=path)
        tensors.update(read_file(part, trust_pickle=trust_pickle, mmap=mmap)[0])
    missing = [key for key in parts if key not in tensors]
    if missing:
        raise InputError(f"its parts lack {missing[0]}", where=path)
    return tensors, {}


# -- torch.distributed.checkpoint --------------------------------------------------------------------

_DCP = "torch.distributed.checkpoint"
_DCP_NAMES = {
    f"{_DCP}.metadata": (
        *("Metadata", "MetadataIndex", "StorageMeta", "TensorProperties", "_MEM_FORMAT_ENCODING"),
        *("TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata"),
    ),
    f"{_DCP}.filesystem": ("_StorageInfo",),
    "torch.serialization": ("_get_layout",),
    "torch": ("Size",),
    "collections": ("OrderedDict",),
}


class _MetadataUnpickler(pickle.Unpickler):
    """Knows the classes that torch writes into `.metadata`, and no others."""

    def __init__(self, file: io.BufferedReader, path: Path) -> None:
        super().__init__(file)
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        if name in _DCP_NAMES.get(module, ()):
            return super().find_class(module, name)
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if module.partition(".")[0] == "pathlib" and name in ("PosixPath", "PurePosixPath"):
            return pathlib.PurePosixPath
        raise _refused_name(self._path, f"{module}.{name}")


class PendingTensor(Tensor):
    """A tensor of a torch.distributed.checkpoint folder: shape and dtype, the values still on disk."""

    fetch: Callable[[], Tensor]

    @classmethod
    def make(cls, shape: torch.Size, dtype: torch.dtype, fetch: Callable[[], Tensor]) -> PendingTensor:
        """A stand-in on the meta device."""
        pending: PendingTensor = torch.empty(shape, dtype=dtype, device="meta").as_subclass(cls)
        pending.fetch = fetch
        return pending


def read_dcp(folder: Path, *, trust_pickle: bool) -> dict[str, Any]:
    """The nested contents of a torch.distributed.checkpoint folder, from all ranks, without a process group.

    torch's own reader unpickles `.metadata` and non-tensor entries with full rights; this one does not.

    Args:
        folder: holds `.metadata` and `*.distcp`.
        trust_pickle: do as torch does.

    Returns:
        Nested dicts; a tensor is a `PendingTensor`, so that an optimizer's state is never read.

    Raises:
        InputError: the folder is incomplete, damaged or asks for code to be run.
    """
    path = folder / DCP_METADATA
    with _parsing(path):
        with path.open("rb") as file:
            unpickler = pickle.Unpickler(file) if trust_pickle else _MetadataUnpickler(file, path)
            metadata = unpickler.load()
        return _contents(folder, metadata, trust_pickle)


@contextmanager
def _parsing(path: Path) -> Iterator[None]:
    """Whatever goes wrong inside is the file's fault."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise _damaged(path, error) from error


def _contents(folder: Path, metadata: Any, trust_pickle: bool) -> dict[str, Any]:
    import torch.distributed.checkpoint.metadata as dcp

    if not isinstance(metadata, dcp.Metadata) or not isinstance(metadata.storage_data, dict):
        raise InputError(f"not the metadata of {_DCP}", where=folder / DCP_METADATA)
    for info in metadata.storage_data.values():
        if getattr(info, "transform_descriptors", None):
            raise InputError(
                "its parts are compressed by an extension", where=folder, hint="convert it with torch"
            )
        part = folder / info.relative_path
        if not part.is_file() or part.stat().st_size < info.offset + info.length:
            raise InputError(
                f"its part {info.relative_path} is missing or cut off", where=folder, hint=_CUT_OFF
            )
    routes = metadata.planner_data if isinstance(metadata.planner_data, dict) else {}
    content: dict[str, Any] = {}
    for name, entry in metadata.state_dict_metadata.items():
        if isinstance(entry, dcp.TensorStorageMetadata):
            fetch = _fetch(folder, metadata, name, entry)
            value: Any = PendingTensor.make(entry.size, entry.properties.dtype, fetch)
        else:
            value = _small_object(folder, metadata.storage_data.get(dcp.MetadataIndex(name)), trust_pickle)
        _place(content, routes.get(name, (name,)), value)
    return content


def _place(content: dict[str, Any], route: tuple[Any, ...], value: Any) -> None:
    for step in route[:-1]:
        inner = content.setdefault(step, {})
        if not isinstance(inner, dict):
            return
        content = inner
    content[route[-1]] = value


def _fetch(folder: Path, metadata: Any, name: str, entry: Any) -> Callable[[], Tensor]:
    from torch.distributed.checkpoint.metadata import MetadataIndex

    def fetch() -> Tensor:
        with _parsing(folder):
            whole = torch.empty(entry.size, dtype=entry.properties.dtype)
            covered = 0
            for chunk in entry.chunks:
                info = metadata.storage_data.get(MetadataIndex(name, chunk.offsets))
                if info is None:
                    raise InputError(f"a part of {name} is missing", where=folder, hint=_CUT_OFF)
                part = _stored(folder, info, trust_pickle=False)
                if not isinstance(part, Tensor):
                    raise InputError(f"damaged: {name} is no tensor", where=folder / info.relative_path)
                target = whole
                for dim, (start, length) in enumerate(zip(chunk.offsets, chunk.sizes, strict=True)):
                    target = target.narrow(dim, start, length)
                target.copy_(part.reshape(target.shape))
                covered += part.numel()
            if covered != whole.numel():
                raise InputError(f"parts of {name} are missing", where=folder, hint=_CUT_OFF)
            return whole

    return fetch


def _small_object(folder: Path, info: Any, trust_pickle: bool) -> Any:
    """An entry that is no tensor, where it is small and plain; None otherwise (only the epoch is of use)."""
    if info is None or info.length > 1_000_000:
        return None
    try:
        return _stored(folder, info, trust_pickle)
    except InputError:
        return None


def _stored(folder: Path, info: Any, trust_pickle: bool) -> Any:
    path = folder / info.relative_path
    try:
        with path.open("rb") as file:
            file.seek(info.offset)
            data = io.BytesIO(file.read(info.length))
        with _LOADING, torch.serialization.safe_globals(_harmless()):
            return torch.load(data, map_location="cpu", weights_only=not trust_pickle)
    except pickle.UnpicklingError as error:
        raise _refused(path, str(error)) from error
    except Exception as error:
        raise _damaged(path, error) from error
