"""Weights out of a TorchScript archive, such as OpenAI's `ViT-B-16.pt`, without running what is in it."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

# What archives carry beside the weights: OpenAI's numbers, the mask of causal attention.
_NO_WEIGHTS = frozenset(("input_resolution", "context_length", "vocab_size", "attn_mask"))

_DTYPES: dict[str, torch.dtype] = {
    "FloatStorage": torch.float32, "HalfStorage": torch.float16, "DoubleStorage": torch.float64,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}  # fmt: skip


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False
    return any(name.endswith("/constants.pkl") for name in names) and any("/code/" in name for name in names)


def torchscript_weights(path: Path) -> dict[str, torch.Tensor]:
    """The parameters and buffers of a TorchScript archive, half precision as float32.

    Only tensors are read: the program in the archive is not loaded, and no class is imported.

    Raises:
        pickle.UnpicklingError: the archive holds what is neither a module nor a tensor.
        ValueError, KeyError, OSError: it is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        (data,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        root = data[: -len("data.pkl")]
        module = _Unpickler(archive, root, archive.read(data)).load()
    found = {name: value for name, value in _tensors(module, "") if name not in _NO_WEIGHTS}
    return {name: value.float() if value.is_floating_point() else value for name, value in found.items()}


class _Module:
    """Stands for any class of the archive: its state, and nothing else of it."""

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {})


class _Storage:
    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


class _Unpickler(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, root: str, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self._archive = archive
        self._root = root

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return _Module
        if module == "torch" and name in _DTYPES:
            return _Storage(_DTYPES[name])
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _parameter
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch.jit._pickle":
            return _listed
        raise pickle.UnpicklingError(f"{module}.{name} in a TorchScript archive")

    def persistent_load(self, pid: Any) -> torch.Tensor:
        kind, storage, key = pid[0], pid[1], str(pid[2])
        if kind != "storage" or not isinstance(storage, _Storage):
            raise pickle.UnpicklingError(f"{kind!r} in a TorchScript archive")
        data = bytearray(self._archive.read(f"{self._root}data/{key}"))
        if not data:
            return torch.empty(0, dtype=storage.dtype)
        return torch.frombuffer(data, dtype=storage.dtype)


def _tensor(
    storage: torch.Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> torch.Tensor:
    return torch.as_strided(storage, size, stride, offset)


def _parameter(data: torch.Tensor, *_: Any) -> torch.Tensor:
    return data


def _listed(values: Any, *_: Any) -> Any:
    return values


def _tensors(module: object, prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in vars(module).items():
        if isinstance(value, torch.Tensor):
            yield prefix + name, value
        elif isinstance(value, _Module):
            yield from _tensors(value, f"{prefix}{name}.")
