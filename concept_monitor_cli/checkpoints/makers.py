"""What is called in the place of the few functions that a checkpoint needs to be read.

A maker stands for one or more functions under the names by which pickles call them, and gets their arguments.
Whatever an argument is, a maker only copies plain values and looks at bytes.
"""

from __future__ import annotations

import argparse
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from concept_monitor_cli.checkpoints.standins import (
    InertError,
    Opaque,
    PendingArray,
    PendingDtype,
    Reference,
    Storage,
    UnreadableTensor,
    array_of,
    checked_key,
    tensor_of,
)


class Machine(Protocol):
    """The unpickler, as makers know it."""

    def spend(self, count: int) -> None:
        """Count what is copied."""

    def spend_values(self, count: int) -> None:
        """Count the elements of tensors that are copied."""

    def from_bytes(self, data: bytes) -> Any:
        """What torch.save has written into bytes."""

    def made(self, target: Any, args: Any) -> Any:
        """What stands for the result of a call."""

    def opaque(self, name: str, args: tuple[Any, ...]) -> Any:
        """What stands for an object of a class that is not imported."""


@dataclass(frozen=True, eq=False)
class Maker:
    """One of our own functions, under the names for which it stands."""

    call: Callable[..., Any]


def mapping(machine: Machine, *args: Any) -> dict[Any, Any]:
    """`dict(...)`, `OrderedDict(...)`."""
    made: dict[Any, Any] = OrderedDict()
    source = args[0] if args else ()
    pairs = source.items() if isinstance(source, Mapping) else source
    if not isinstance(source, (Mapping, list, tuple)):
        return made
    machine.spend(len(source))
    for pair in pairs:
        if isinstance(pair, (list, tuple)) and len(pair) == 2:
            made[checked_key(pair[0])] = pair[1]
    return made


def defaultdict(machine: Machine, *_: Any) -> dict[Any, Any]:
    """`defaultdict(factory)`: the factory is left alone."""
    return {}


def counter(machine: Machine, *args: Any) -> dict[Any, Any]:
    """`Counter(mapping)`."""
    return mapping(machine, *args)


def sequence(machine: Machine, *args: Any) -> list[Any]:
    """`list(...)`, `deque(...)`."""
    source = args[0] if args and isinstance(args[0], (list, tuple)) else ()
    machine.spend(len(source))
    return list(source)


def fixed(machine: Machine, *args: Any) -> tuple[Any, ...]:
    """`tuple(...)`, `torch.Size(...)`."""
    return tuple(sequence(machine, *args))


def unordered(machine: Machine, *args: Any) -> set[Any]:
    """`set(...)`, `frozenset(...)`."""
    return {checked_key(item) for item in sequence(machine, *args)}


def namespace(machine: Machine, *_: Any) -> argparse.Namespace:
    """A bag of attributes, which follow."""
    return argparse.Namespace()


def encoded(machine: Machine, text: Any, encoding: Any = "utf-8", *_: Any) -> bytes:
    """`codecs.encode`: how protocol 2 writes bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "utf-8", "ascii"):
        raise InertError("an unknown encoding")
    machine.spend(len(text))
    return text.encode(encoding)


def plain_bytes(machine: Machine, *args: Any) -> Any:
    """`bytes()`: how protocol 2 writes no bytes at all."""
    return machine.opaque("builtins.bytes", args) if args else b""


def reconstructed(machine: Machine, target: Any, base: Any = None, *_: Any) -> Any:
    """`copyreg._reconstructor(class, base, state)`."""
    if isinstance(target, Reference) and isinstance(base, Maker):
        made = machine.opaque(target.name, ())
        if isinstance(made, Opaque) and base.call is mapping:
            made.entries = {}
        return made
    return machine.made(target, ())


def newobj(machine: Machine, target: Any, *args: Any) -> Any:
    """`copyreg.__newobj__(class, ...)`."""
    return machine.made(target, args)


def nothing(machine: Machine, *_: Any) -> None:
    """For what is of no use here."""


def dtype_of(machine: Machine, code: Any, *_: Any) -> PendingDtype:
    """`numpy.dtype("f8", ...)`."""
    return PendingDtype(str(code) if isinstance(code, (str, int)) else "?")


def array_to_be(machine: Machine, *_: Any) -> PendingArray:
    """`numpy.ndarray` before its state is known."""
    return PendingArray()


def scalar(machine: Machine, dtype: Any, data: Any = None, *_: Any) -> Any:
    """`numpy.core.multiarray.scalar(dtype, bytes)`."""
    made = array_of(dtype, data, ())
    return made if isinstance(made, Opaque) else made.reshape(())[()]


def from_buffer(
    machine: Machine, data: Any, dtype: Any, shape: Any, order: Any = "C", *_: Any
) -> NDArray[Any] | Opaque:
    """`numpy._core.numeric._frombuffer`."""
    return array_of(dtype, data, shape, order)


def tensor(
    machine: Machine,
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any = False,
    hooks: Any = None,
    metadata: Any = None,
    *_: Any,
) -> Tensor:
    """`torch._utils._rebuild_tensor_v2`."""
    dtype = storage.dtype if isinstance(storage, Storage) else None
    return tensor_of(storage, dtype, offset, size, stride, metadata)


def tensor_v3(
    machine: Machine,
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any,
    hooks: Any,
    dtype: Any,
    metadata: Any = None,
    *_: Any,
) -> Tensor:
    """`torch._utils._rebuild_tensor_v3`: the dtype beside an untyped storage."""
    return tensor_of(storage, dtype, offset, size, stride, metadata)


def parameter(machine: Machine, data: Any, *_: Any) -> Any:
    """`torch._utils._rebuild_parameter`, and others that only wrap a tensor."""
    return data


def of_type(machine: Machine, make: Any, kind: Any, args: Any, *_: Any) -> Any:
    """`torch._tensor._rebuild_from_type_v2`: a tensor of a subclass."""
    return machine.made(make, args)


def on_meta(machine: Machine, dtype: Any, size: Any, *_: Any) -> Tensor:
    """A tensor without values."""
    return UnreadableTensor.make("without values (it was saved from the meta device)", size)


def device_tensor(machine: Machine, data: Any, dtype: Any = None, *_: Any) -> Any:
    """A tensor of another device, kept as a numpy array or as a tensor of the CPU."""
    if isinstance(data, np.ndarray):
        machine.spend_values(data.size)
        data = torch.from_numpy(data.copy())
    if not (isinstance(data, Tensor) and isinstance(dtype, torch.dtype)) or data.dtype == dtype:
        return data
    machine.spend_values(data.numel())
    return data.to(dtype)


def sparse(machine: Machine, layout: Any = None, data: Any = None, *_: Any) -> Tensor:
    """`_rebuild_sparse_tensor(layout, (indices, values, size))`."""
    sizes = [item for item in data if isinstance(item, (tuple, list))] if isinstance(data, tuple) else []
    return UnreadableTensor.make("quantised or sparse", sizes[-1] if sizes else (1,))


def quantised(machine: Machine, storage: Any = None, offset: Any = 0, size: Any = (1,), *_: Any) -> Tensor:
    """`_rebuild_qtensor(storage, offset, size, ...)`."""
    return UnreadableTensor.make("quantised or sparse", size)


def nested(machine: Machine, *_: Any) -> Tensor:
    """`_rebuild_nested_tensor`."""
    return UnreadableTensor.make("quantised or sparse")


def wrapper(machine: Machine, kind: Any = None, dtype: Any = None, size: Any = (1,), *_: Any) -> Tensor:
    """`_rebuild_wrapper_subclass(class, dtype, size, ...)`: DTensor and the like."""
    name = kind.name if isinstance(kind, Reference) else "unknown"
    if "DTensor" in name or "Shard" in name:
        return UnreadableTensor.make("one process's part of a sharded tensor", size)
    return UnreadableTensor.make(f"of the class {name}", size)


def loaded(machine: Machine, data: Any, *_: Any) -> Any:
    """`torch.storage._load_from_bytes`: how plain pickles keep storages."""
    if not isinstance(data, bytes):
        raise InertError("torch's own format within a pickle, without its bytes")
    return machine.from_bytes(data)


_NAMES: Mapping[Callable[..., Any], tuple[str, ...]] = {
    mapping: ("builtins.dict", "__builtin__.dict", "collections.OrderedDict"),
    defaultdict: ("collections.defaultdict",),
    counter: ("collections.Counter",),
    sequence: ("builtins.list", "__builtin__.list", "collections.deque"),
    fixed: ("builtins.tuple", "__builtin__.tuple", "torch.Size", "torch._C.Size"),
    unordered: ("builtins.set", "__builtin__.set", "builtins.frozenset", "__builtin__.frozenset"),
    namespace: ("argparse.Namespace", "types.SimpleNamespace"),
    encoded: ("_codecs.encode", "codecs.encode"),
    plain_bytes: ("builtins.bytes", "__builtin__.bytes"),
    reconstructed: ("copyreg._reconstructor", "copy_reg._reconstructor"),
    newobj: ("copyreg.__newobj__", "copy_reg.__newobj__"),
    dtype_of: ("numpy.dtype",),
    array_to_be: ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"),
    scalar: ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"),
    from_buffer: ("numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer"),
    tensor: ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"),
    tensor_v3: ("torch._utils._rebuild_tensor_v3",),
    parameter: ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"),
    of_type: ("torch._tensor._rebuild_from_type_v2", "torch.tensor._rebuild_from_type_v2"),
    on_meta: ("torch._utils._rebuild_meta_tensor_no_storage",),
    device_tensor: (
        "torch._utils._rebuild_device_tensor_from_numpy",
        "torch._utils._rebuild_device_tensor_from_cpu_tensor",
        "torch._utils._rebuild_xla_tensor",
    ),
    sparse: (
        "torch._utils._rebuild_sparse_tensor",
        "torch._utils._rebuild_sparse_csr_tensor",
        "torch._utils._rebuild_sparse_compressed_tensor",
    ),
    quantised: ("torch._utils._rebuild_qtensor",),
    nested: ("torch._utils._rebuild_nested_tensor",),
    wrapper: ("torch._utils._rebuild_wrapper_subclass",),
    loaded: ("torch.storage._load_from_bytes",),
}
# Lightning's hyper-parameters: a dict with another name.
_DICTS = (
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
)
MAKERS: dict[str, Maker] = {}
for _call, _names in {**_NAMES, mapping: (*_NAMES[mapping], *_DICTS)}.items():
    _maker = Maker(_call)
    MAKERS.update(dict.fromkeys(_names, _maker))
