"""Read the file formats of checkpoints without running what they carry.

Which format a file has is decided by its first bytes. Pickles, which may ask for any function of any module
to be called, are read by `pickles.InertUnpickler`: nothing that they name is imported or called.
"""

from __future__ import annotations

import json
import lzma
import pickle
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from concept_monitor_cli.checkpoints.dcp import NotMetadataError, PendingTensor, read_dcp
from concept_monitor_cli.checkpoints.find import DCP_METADATA
from concept_monitor_cli.checkpoints.standins import RefusedError
from concept_monitor_cli.checkpoints.torch_files import (
    Read,
    is_legacy,
    read_legacy_file,
    read_pickle_file,
    read_zip_file,
)
from concept_monitor_cli.errors import InputError

__all__ = ["NoWeightsError", "PendingTensor", "Read", "read_file", "run_file"]

_SAVE_AGAIN = "save it again with torch.save(model.state_dict(), FILE)"
_CUT_OFF = "the copy or the save did not finish: copy it again, or take another epoch"
_PART = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<extension>\.\w+)")


def read_file(path: Path) -> Read:
    """What a checkpoint file or folder holds. No code of it is run, and nothing that it names is imported.

    Tensors are mapped to the file where the format allows it, instead of reading all of it.

    Args:
        path: the file, a folder of torch.distributed.checkpoint, or the `.index.json` of several files.

    Raises:
        InputError: it is cut off, of another format, or names functions that are dangerous to call.
    """
    if path.is_dir():
        return _parsed(path / DCP_METADATA, lambda _: Read(read_dcp(path)))
    head = _head(path)
    if path.name.endswith(".index.json"):
        return _read_parts(path)
    part = _PART.fullmatch(path.name)
    if part is not None and not (path.parent / _index_of(part)).is_file():
        return _read_unlisted(path, part)
    return _read_one(path, head)


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise InputError(f"cannot be opened: {error.strerror}", where=path) from error
    if not head:
        raise InputError("the file is empty", where=path, hint=_CUT_OFF)
    return head


def _read_one(path: Path, head: bytes) -> Read:
    if path.name.lower().endswith(".safetensors") or _looks_like_safetensors(head):
        return _read_safetensors(path)
    if head.startswith(b"PK"):
        return _read_zip(path)
    if is_legacy(head):
        return _parsed(path, read_legacy_file)
    if head.strip(b"\0") and _is_tar(path):
        raise _first_format(path)
    if head[:1] == b"\x80" and head[1:2] <= b"\x05":
        return _parsed(path, read_pickle_file)
    raise _foreign(path, head)


def _parsed(path: Path, read: Callable[[Path], Read]) -> Read:
    """What a parser reads; whatever goes wrong inside is the file's fault."""
    try:
        return read(path)
    except InputError:
        raise
    except RefusedError as error:
        raise InputError(
            f"the file asks to run {error.name} when it is loaded; nothing was run",
            where=path,
            hint="do not load it unless you know who made it and why",
        ) from error
    except NotMetadataError as error:
        raise InputError(str(error), where=path) from error
    except Exception as error:
        raise _damaged(path, error) from error


def run_file(path: Path) -> Read:
    """What a checkpoint holds, running whatever code the file asks for. Only for files of the user's own.

    Raises:
        InputError: it is damaged, or its code is not here or fails.
    """
    try:
        with path.open("rb") as file:
            head = file.read(512)
        if head[:1] == b"\x80" and not is_legacy(head):
            with path.open("rb") as file:
                return Read(pickle.load(file))
        return Read(torch.load(path, map_location="cpu", weights_only=False))
    except (ModuleNotFoundError, AttributeError) as error:
        raise InputError(
            f"the file needs code that is not here: {_line(error)}",
            where=path,
            hint=f"run where that code can be imported, or {_SAVE_AGAIN}",
        ) from error
    except Exception as error:  # whatever the code in the file raises
        raise InputError(f"its code failed: {type(error).__name__}: {_line(error)}", where=path) from error


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


def _read_zip(path: Path) -> Read:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception as error:
        raise InputError("the file is cut off", where=path, hint=_CUT_OFF) from error
    # torch puts everything into one folder, named after the file.
    inside = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inside or any(name.startswith("code/") for name in inside):
        raise InputError("a TorchScript program, not a state dict", where=path, hint=_SAVE_AGAIN)
    if "archive_format" in inside or inside & {"models/model.json", "serialized_exported_program.json"}:
        raise InputError(
            "an exported program (torch.export, .pt2), not a state dict", where=path, hint=_SAVE_AGAIN
        )
    if "serialized_exported_program.json" in names:
        raise InputError(
            "an exported program (torch.export, .pt2), not a state dict", where=path, hint=_SAVE_AGAIN
        )
    if "data.pkl" not in inside:
        shown = ", ".join(names[:3])
        raise InputError(
            f"a zip archive with something else in it ({shown})", where=path, hint="give a file of torch.save"
        )
    return _parsed(path, read_zip_file)


def _damaged(path: Path, error: Exception) -> InputError:
    """For whatever a parser raises: on bytes that are not what they should be, that may be anything."""
    if isinstance(error, MemoryError) or "not enough memory" in str(error):
        return InputError("not enough memory to load it, or damaged", where=path)
    return InputError(f"cut off or damaged: {_line(error)}", where=path, hint=_CUT_OFF)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__


def _first_format(path: Path) -> InputError:
    with tarfile.open(path) as archive:
        names = [member.name for member in archive.getmembers()]
    if not {"storages", "tensors", "pickle"} <= set(names):
        shown = ", ".join(names[:3])
        return InputError(
            f"a tar archive ({shown}), not a checkpoint", where=path, hint="unpack it and give its files"
        )
    return InputError(
        "the tar format of the first torch versions: reading it runs its code; nothing was run",
        where=path,
        hint=f"{_SAVE_AGAIN}, or --trust-pickle if the file is your own",
    )


# -- safetensors -----------------------------------------------------------------------------------


def _looks_like_safetensors(head: bytes) -> bool:
    return len(head) > 9 and head[8:9] == b"{" and 0 < int.from_bytes(head[:8], "little") < 100_000_000


def _read_safetensors(path: Path) -> Read:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return Read(tensors, text=dict(file.metadata() or {}))
    except (SafetensorError, OSError, ValueError) as error:
        with path.open("rb") as stream:
            head = stream.read(512)
        if not _looks_like_safetensors(head):
            raise _foreign(path, head) from error
        raise _damaged(path, error) from error


def _read_parts(path: Path) -> Read:
    """A checkpoint in several files, as Hugging Face writes large ones; `path` is the list of contents."""
    try:
        parts = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        names = sorted({str(name) for name in parts.values()})
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError("not a list of a checkpoint's parts", where=path) from error
    missing = [name for name in names if not (path.parent / Path(name).name).is_file()]
    if missing:
        more = f" ({len(missing)} of {len(names)} are)" if len(missing) > 1 else ""
        raise InputError(f"its part {missing[0]} is missing{more}", where=path, hint=_CUT_OFF)
    tensors = _joined([path.parent / Path(name).name for name in names])
    lacking = [key for key in parts if key not in tensors]
    if lacking:
        raise InputError(f"its parts lack {lacking[0]}", where=path)
    return Read(tensors)


def _joined(parts: list[Path]) -> dict[str, Any]:
    tensors: dict[str, Any] = {}
    for part in parts:
        content = _read_one(part, _head(part)).value
        if not isinstance(content, dict):
            raise InputError("not a part of a checkpoint", where=part)
        tensors.update(content)
    return tensors


def _index_of(part: re.Match[str]) -> str:
    return f"{part['stem']}{part['extension']}.index.json"


def _read_unlisted(path: Path, part: re.Match[str]) -> Read:
    """A part of several, where the list of them is missing: the first stands for all of them."""
    number, count = int(part["number"]), int(part["count"])
    names = [
        f"{part['stem']}-{i:05}-of-{count:05}{part['extension']}" for i in range(1, min(count, 9999) + 1)
    ]
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing or not names:
        raise InputError(
            f"part {number} of {count} of a checkpoint, and {len(missing)} of the others are missing",
            where=path,
            hint=f"copy {missing[0] if missing else 'them'} and {_index_of(part)} beside it",
        )
    if number != 1:
        raise NoWeightsError(
            f"part {number} of {count}, read together with {names[0]} ({_index_of(part)} is missing)",
            where=path,
        )
    return Read(_joined([path.parent / name for name in names]))


class NoWeightsError(InputError):
    """The file can be read, and holds no weights of its own: an optimizer's state, a part of another file."""
