"""What stands for the objects of a pickle: plain values, tensors, arrays, and what is not loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Keys of dicts are hashed in C, for as long as it takes: long tuples within tuples, or huge numbers.
_DEEPEST_KEY = 4
_LONGEST_KEY = 64
_MOST_KEY_BITS = 128


class InertError(Exception):
    """The pickle is damaged, or asks for something that no checkpoint needs."""


class RefusedError(InertError):
    """The pickle names a function that a checkpoint has no use for.

    Attributes:
        name: "module.name".
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


@dataclass(frozen=True, eq=False)
class Reference:
    """A class or function that the file names; it is not looked up.

    Attributes:
        name: "module.name".
    """

    name: str


@dataclass(eq=False)
class Opaque:
    """An object of a class that is not imported: only what the file says of it.

    Attributes:
        name: of its class, "module.name".
        args: what it would have been made from.
        state: what its attributes would have been set to, None where the file does not say.
        items: what would have been appended to it.
        entries: what would have been set as its keys and values.
    """

    name: str
    args: tuple[Any, ...] = ()
    state: Any = None
    items: list[Any] | None = None
    entries: dict[Any, Any] | None = None

    def __repr__(self) -> str:
        return f"<{self.name}, not loaded>"


class UnreadableTensor(Tensor):
    """Stands for a tensor of a kind that cannot be read here: quantised, sparse, one part of several."""

    reason: str

    @classmethod
    def make(cls, reason: str, size: object = (1,)) -> UnreadableTensor:
        """A stand-in on the meta device."""
        shape = tuple(size) if isinstance(size, (tuple, list)) else (1,)
        if not all(isinstance(side, int) and 0 <= side < 2**40 for side in shape) or len(shape) > 8:
            shape = (1,)
        try:
            made = torch.empty(shape, device="meta").as_subclass(cls)
        except RuntimeError as error:
            raise InertError(f"a tensor of an impossible size: {error}") from error
        made.reason = reason
        return made


@dataclass(frozen=True, eq=False)
class StorageKind:
    """The class of a storage, known by the dtype of its elements; None for quantised ones."""

    dtype: torch.dtype | None


@dataclass(frozen=True, eq=False)
class Storage:
    """Bytes of tensors with their dtype. `untyped` is None where only the outline of the file is wanted."""

    untyped: torch.UntypedStorage | None
    dtype: torch.dtype | None


_PLAIN_DTYPE = re.compile(r"[<>|=]?([biufc?]\d{0,2}|[SU]\d{0,6}|[mM]8?)")


@dataclass(eq=False)
class PendingDtype:
    """numpy's dtype while it is being read: code first, byte order later."""

    code: str
    order: str = "="

    def made(self) -> np.dtype[Any] | None:
        """The dtype of plain numbers or text; None for any other, such as one of records."""
        if not _PLAIN_DTYPE.fullmatch(self.code):
            return None
        dtype = np.dtype(self.code)
        return dtype.newbyteorder(self.order) if self.order in "<>" else dtype  # type: ignore[arg-type]


@dataclass(eq=False)
class PendingArray:
    """A numpy array before its state is known, and where the memo has it."""

    index: int | None = None


def array_of_state(state: Any) -> NDArray[Any] | Opaque:
    """An array from what numpy pickles: version, shape, dtype, Fortran order, bytes."""
    if not isinstance(state, tuple) or len(state) != 5:
        raise InertError("an array without its state")
    _, shape, dtype, fortran, data = state
    if isinstance(data, list):  # of objects
        return Opaque("numpy.ndarray of objects", (shape,))
    return array_of(dtype, data, shape, "F" if fortran else "C")


def array_of(dtype: Any, data: Any, shape: Any, order: Any = "C") -> NDArray[Any] | Opaque:
    """An array from its bytes; a stand-in where its elements are neither plain numbers nor text.

    Raises:
        InertError: the dtype or the bytes are missing.
    """
    if not isinstance(dtype, PendingDtype):
        raise InertError("an array without a dtype")
    if isinstance(data, str):  # of Python 2
        data = data.encode("latin1")
    if not isinstance(data, (bytes, bytearray)):
        raise InertError("an array without bytes")
    made = dtype.made()
    if made is None:
        return Opaque(f"numpy.ndarray of {dtype.code}", (shape,))
    if made.itemsize == 0:
        return np.zeros(0)
    values = np.frombuffer(data, made)
    return values.reshape(shape, order="F" if order == "F" else "C")


def tensor_of(storage: Any, dtype: Any, offset: Any, size: Any, stride: Any, metadata: Any) -> Tensor:
    """A tensor over a storage, where all of it lies within.

    Raises:
        InertError: it does not, or its size is impossible.
    """
    if not isinstance(storage, Storage):
        if isinstance(storage, Tensor):  # a plain pickle of a tensor of another device
            return storage
        raise InertError("a tensor without a storage")
    if not isinstance(dtype, torch.dtype):
        return UnreadableTensor.make("quantised or sparse", size)
    size, stride = tuple(size), tuple(stride)
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or not all(type(number) is int and 0 <= number < 2**60 for number in numbers):
        raise InertError("a tensor of an impossible size")
    if storage.untyped is None:
        return UnreadableTensor.make("not read", size)
    last = offset + sum((side - 1) * step for side, step in zip(size, stride, strict=True))
    here = storage.untyped.nbytes() // dtype.itemsize
    if 0 not in size and last >= here:
        raise InertError("a tensor that is larger than its storage")
    tensor = torch.empty(0, dtype=dtype)
    if 0 in size:
        return torch.empty(size, dtype=dtype)
    tensor.set_(storage.untyped, offset, size, stride)
    if isinstance(metadata, Mapping):
        tensor = tensor.conj() if metadata.get("conj") else tensor
        tensor = torch._neg_view(tensor) if metadata.get("neg") else tensor
    return tensor


def checked_key(value: Any, depth: int = 0) -> Any:
    """A key of a dict. Hashing a tuple recurses in C, without any limit of Python's."""
    if isinstance(value, tuple):
        if depth >= _DEEPEST_KEY or len(value) > _LONGEST_KEY:
            raise InertError("a key that is nested too deeply, or too long")
        for item in value:
            checked_key(item, depth + 1)
    elif isinstance(value, (frozenset, list, dict, set)):
        raise InertError("a container as a key")
    elif isinstance(value, int) and value.bit_length() > _MOST_KEY_BITS:
        raise InertError("a number as a key that is too large")
    return value
