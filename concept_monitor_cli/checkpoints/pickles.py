"""Read pickles without importing or calling anything that they name.

A pickle is a program: it names functions and classes and asks for them to be called. `InertUnpickler` runs
that program with its own few makers of plain containers, numpy arrays and torch tensors in their place. Every
other name becomes a `Reference`, and an object of it an `Opaque` that only keeps what the file says of it. No
name of the file is looked up in any module, so there is nothing that a file could bring to run.
"""

from __future__ import annotations

import argparse
import pickletools
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Functions that nobody keeps beside weights by accident: such a file is refused as a whole.
_DANGEROUS = re.compile(
    r"(os|posix|nt)\.[a-z]+"
    r"|(subprocess|_posixsubprocess|shutil|socket|importlib|runpy|ctypes|_ctypes|code|pty|webbrowser|pickle|_pickle|marshal|"
    r"urllib|requests|pdb|bdb|timeit|cProfile|profile|pip|commands|popen2)\..*"
    r"|(builtins|__builtin__)\.(eval|exec|execfile|__import__|compile|open|globals|input|breakpoint)"
    r"|sys\.(modules|exit|setprofile|settrace|path)"
    r"|torch\.(hub|utils\.cpp_extension)\..*"
)
# Elements that makers may copy: a short pickle can ask for the same long list again and again.
_MOST_COPIED = 50_000_000
_MOST_MEMO = 100_000_000
_DEEPEST_KEY = 4


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


class StorageLoader(Protocol):
    """Gives the storage that a persistent id names."""

    def __call__(self, persistent_id: object) -> object:
        """The storage, or whatever else the id stands for."""


@dataclass(eq=False)
class _Dtype:
    """numpy's dtype while it is being read: code first, byte order later."""

    code: str
    order: str = "="

    def made(self) -> np.dtype[Any]:
        if not re.fullmatch(r"[<>|=]?([biufc?]\d{0,2}|[SU]\d{0,6}|[mM]8?)", self.code):
            raise InertError(f"an array of {self.code!r}")
        dtype = np.dtype(self.code)
        return dtype.newbyteorder(self.order) if self.order in "<>" else dtype  # type: ignore[arg-type]


@dataclass(eq=False)
class _Array:
    """A numpy array before its state is known, and where the memo has it."""

    index: int | None = None


@dataclass(frozen=True, eq=False)
class _Maker:
    """One of our own functions, under the names for which it stands."""

    call: Callable[..., Any]


_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "UntypedStorage": torch.uint8,
}
_STORAGE_MODULES = ("torch", "torch.storage", "torch.cuda", "torch.sparse")


class InertUnpickler:
    """Runs the program of a pickle with stand-ins for everything that it names.

    Args:
        file: where the pickle begins; left where it ends. (An open file, BytesIO or mmap.)
        storage: gives the storage of a persistent id; None where there are none.
        from_bytes: reads what torch.save has written into bytes, as it does for tensors in plain pickles.

    Attributes:
        unknown: names of the classes of which objects were left out, each once, in order.
    """

    def __init__(
        self,
        file: Any,
        *,
        storage: StorageLoader | None = None,
        from_bytes: Callable[[bytes], Any] | None = None,
    ) -> None:
        self._file = file
        self._storage = storage
        self._from_bytes = from_bytes
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._copied = 0
        self.unknown: dict[str, None] = {}

    # -- the program -----------------------------------------------------------------------------

    def load(self) -> Any:
        """The object at the end of the program.

        Raises:
            RefusedError: it names a function that is dangerous to call.
            InertError: it is damaged.
        """
        try:
            while True:
                code = self._file.read(1)
                operation = _OPERATIONS.get(code)
                if operation is None:
                    raise InertError("it ends too early" if not code else f"no operation {code!r}")
                argument, run = operation
                value = argument(self._file) if argument is not None else None
                if code == b".":
                    return self._stack.pop()
                run(self, value)
        except (IndexError, KeyError, ValueError, TypeError, OverflowError, RuntimeError) as error:
            raise InertError(f"damaged: {type(error).__name__}: {error}") from error

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _items(self) -> list[Any]:
        """Everything above the last mark."""
        mark = self._marks.pop()
        items = self._stack[mark:]
        del self._stack[mark:]
        return items

    def _mark(self, _: Any) -> None:
        self._marks.append(len(self._stack))

    def _pop(self, _: Any) -> None:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._stack.pop()

    def _pop_mark(self, _: Any) -> None:
        self._items()

    def _dup(self, _: Any) -> None:
        self._push(self._stack[-1])

    def _nothing(self, _: Any) -> None:
        """Protocol numbers and frames say nothing about the object."""

    # -- memo ------------------------------------------------------------------------------------

    def _put(self, index: int) -> None:
        if not 0 <= index < _MOST_MEMO:
            raise InertError("a memo of an impossible size")
        value = self._memo[index] = self._stack[-1]
        if isinstance(value, _Array):
            value.index = index

    def _memoize(self, _: Any) -> None:
        self._put(len(self._memo))

    def _get(self, index: int) -> None:
        self._push(self._memo[index])

    # -- containers ------------------------------------------------------------------------------

    def _tuple(self, _: Any) -> None:
        self._push(tuple(self._items()))

    def _list(self, _: Any) -> None:
        self._push(self._items())

    def _dict(self, _: Any) -> None:
        made: dict[Any, Any] = {}
        _set_items(made, self._items())
        self._push(made)

    def _frozenset(self, _: Any) -> None:
        self._push(frozenset(_key(item) for item in self._items()))

    def _append(self, _: Any) -> None:
        value = self._stack.pop()
        _append(self._stack[-1], [value])

    def _appends(self, _: Any) -> None:
        items = self._items()
        _append(self._stack[-1], items)

    def _setitem(self, _: Any) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        _set_items(self._stack[-1], [key, value])

    def _setitems(self, _: Any) -> None:
        items = self._items()
        _set_items(self._stack[-1], items)

    # -- names and objects -----------------------------------------------------------------------

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._push(self._named(module, name))

    def _stack_global(self, _: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(module, str) or not isinstance(name, str):
            raise InertError("a name that is no text")
        self._push(self._named(module, name))

    def _extension(self, number: int) -> None:
        self._push(Reference(f"copyreg extension {number}"))

    def _named(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if _DANGEROUS.fullmatch(full):
            raise RefusedError(full)
        known = _MAKERS.get(full)
        if known is not None:
            return known
        if name.endswith("Storage") and module in _STORAGE_MODULES:
            return StorageKind(_DTYPES.get(name))
        if module == "torch" and isinstance(dtype := vars(torch).get(name), torch.dtype):
            return dtype
        return Reference(full)

    def _reduce(self, _: Any) -> None:
        args = self._stack.pop()
        self._stack[-1] = self.made(self._stack[-1], args)

    def _newobj(self, _: Any) -> None:
        args = self._stack.pop()
        self._stack[-1] = self.made(self._stack[-1], args)

    def _newobj_ex(self, _: Any) -> None:
        self._stack.pop()  # keyword arguments
        self._newobj(None)

    def _inst(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._push(self.made(self._named(module, name), tuple(self._items())))

    def _obj(self, _: Any) -> None:
        target, *args = self._items()
        self._push(self.made(target, tuple(args)))

    def made(self, target: Any, args: Any) -> Any:
        """What stands for the result of a call."""
        if not isinstance(args, tuple):
            args = tuple(args) if isinstance(args, list) else (args,)
        if isinstance(target, _Maker):
            return target.call(self, *args)
        if isinstance(target, Reference):
            return self.opaque(target.name, args)
        # Calling a dtype, or an object that only stands for something: nobody knows what it gives.
        return self.opaque(getattr(target, "name", type(target).__name__), args)

    def opaque(self, name: str, args: tuple[Any, ...]) -> Any:
        """A stand-in for an object of a class that is not imported."""
        self.unknown[name] = None
        if name.endswith(("Tensor", "TensorBase")) and not any(isinstance(arg, Tensor) for arg in args):
            return UnreadableTensor.make(f"of the class {name}")
        return Opaque(name, args)

    def _build(self, _: Any) -> None:
        state = self._stack.pop()
        target = self._stack[-1]
        if isinstance(target, Opaque):
            target.state = state
        elif isinstance(target, argparse.Namespace):
            if isinstance(state, Mapping):
                vars(target).update({key: value for key, value in state.items() if isinstance(key, str)})
        elif isinstance(target, _Dtype):
            if isinstance(state, tuple) and len(state) > 1 and isinstance(state[1], str):
                target.order = state[1]
        elif isinstance(target, _Array):
            # An array is made only now: the memo must know it as well.
            self._stack[-1] = _array_of_state(state)
            if target.index is not None:
                self._memo[target.index] = self._stack[-1]
        # The state of other things (a dict's `_metadata`, hooks of a tensor) is not needed.

    def _persistent(self, persistent_id: Any) -> None:
        if self._storage is None:
            raise InertError("it refers to something outside the file")
        self._push(self._storage(persistent_id))

    def _persistent_top(self, _: Any) -> None:
        self._persistent(self._stack.pop())

    def _next_buffer(self, _: Any) -> None:
        raise InertError("it refers to buffers outside the file")

    # -- makers: what is called in the place of the few functions that are needed ------------------

    def spend(self, count: int) -> None:
        """Count what is copied, and end where a file asks for too much of it."""
        self._copied += count
        if self._copied > _MOST_COPIED:
            raise InertError("it asks for the same data too often")

    def mapping(self, *args: Any) -> dict[Any, Any]:
        """`dict(...)`, `OrderedDict(...)`."""
        made: dict[Any, Any] = OrderedDict()
        source = args[0] if args else ()
        pairs = source.items() if isinstance(source, Mapping) else source
        if not isinstance(source, (Mapping, list, tuple)):
            return made
        self.spend(len(source))
        for pair in pairs:
            if isinstance(pair, (list, tuple)) and len(pair) == 2:
                made[_key(pair[0])] = pair[1]
        return made

    def defaultdict(self, *_: Any) -> dict[Any, Any]:
        """`defaultdict(factory)`: the factory is left alone."""
        return {}

    def counter(self, *args: Any) -> dict[Any, Any]:
        """`Counter(mapping)`."""
        return self.mapping(*args)

    def sequence(self, *args: Any) -> list[Any]:
        """`list(...)`, `deque(...)`."""
        source = args[0] if args and isinstance(args[0], (list, tuple)) else ()
        self.spend(len(source))
        return list(source)

    def fixed(self, *args: Any) -> tuple[Any, ...]:
        """`tuple(...)`, `torch.Size(...)`."""
        return tuple(self.sequence(*args))

    def unordered(self, *args: Any) -> set[Any]:
        """`set(...)`, `frozenset(...)`."""
        return {_key(item) for item in self.sequence(*args)}

    def namespace(self, *_: Any) -> argparse.Namespace:
        """A bag of attributes, which follow."""
        return argparse.Namespace()

    def encoded(self, text: Any, encoding: Any = "utf-8", *_: Any) -> bytes:
        """`codecs.encode`: how protocol 2 writes bytes."""
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "utf-8", "ascii"):
            raise InertError("an unknown encoding")
        self.spend(len(text))
        return text.encode(encoding)

    def reconstructed(self, target: Any, base: Any = None, *_: Any) -> Any:
        """`copyreg._reconstructor(class, base, state)`."""
        if isinstance(target, Reference) and isinstance(base, _Maker):
            made = self.opaque(target.name, ())
            if isinstance(made, Opaque) and base is _MAKERS["builtins.dict"]:
                made.entries = {}
            return made
        return self.made(target, ())

    def newobj(self, target: Any, *args: Any) -> Any:
        """`copyreg.__newobj__(class, ...)`."""
        return self.made(target, args)

    def nothing(self, *_: Any) -> None:
        """For what is of no use here."""

    def dtype(self, code: Any, *_: Any) -> _Dtype:
        """`numpy.dtype("f8", ...)`."""
        return _Dtype(str(code) if isinstance(code, (str, int)) else "?")

    def array(self, *_: Any) -> _Array:
        """`numpy.ndarray` before its state is known."""
        return _Array()

    def scalar(self, dtype: Any, data: Any = None, *_: Any) -> Any:
        """`numpy.core.multiarray.scalar(dtype, bytes)`."""
        return _array(dtype, data, ()).reshape(())[()]

    def from_buffer(self, data: Any, dtype: Any, shape: Any, order: Any = "C", *_: Any) -> NDArray[Any]:
        """`numpy._core.numeric._frombuffer`."""
        return _array(dtype, data, shape, order)

    def tensor(
        self,
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
        return _tensor(storage, dtype, offset, size, stride, metadata)

    def tensor_of(
        self,
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
        return _tensor(storage, dtype, offset, size, stride, metadata)

    def parameter(self, data: Any, *_: Any) -> Any:
        """`torch._utils._rebuild_parameter`, and others that only wrap a tensor."""
        return data

    def of_type(self, make: Any, kind: Any, args: Any, *_: Any) -> Any:
        """`torch._tensor._rebuild_from_type_v2`: a tensor of a subclass."""
        return self.made(make, args)

    def on_meta(self, dtype: Any, size: Any, *_: Any) -> Tensor:
        """A tensor without values."""
        return UnreadableTensor.make("without values (it was saved from the meta device)", size)

    def device_tensor(self, data: Any, dtype: Any = None, *_: Any) -> Any:
        """A tensor of another device, kept as a numpy array or as a tensor of the CPU."""
        if isinstance(data, np.ndarray):
            data = torch.from_numpy(data.copy())
        return data.to(dtype) if isinstance(data, Tensor) and isinstance(dtype, torch.dtype) else data

    def sparse(self, layout: Any = None, data: Any = None, *_: Any) -> Tensor:
        """`_rebuild_sparse_tensor(layout, (indices, values, size))`."""
        sizes = [item for item in data if isinstance(item, (tuple, list))] if isinstance(data, tuple) else []
        return UnreadableTensor.make("quantised or sparse", sizes[-1] if sizes else (1,))

    def quantised(self, storage: Any = None, offset: Any = 0, size: Any = (1,), *_: Any) -> Tensor:
        """`_rebuild_qtensor(storage, offset, size, ...)`."""
        return UnreadableTensor.make("quantised or sparse", size)

    def nested(self, *_: Any) -> Tensor:
        """`_rebuild_nested_tensor`."""
        return UnreadableTensor.make("quantised or sparse")

    def wrapper(self, kind: Any = None, dtype: Any = None, size: Any = (1,), *_: Any) -> Tensor:
        """`_rebuild_wrapper_subclass(class, dtype, size, ...)`: DTensor and the like."""
        name = kind.name if isinstance(kind, Reference) else "unknown"
        if "DTensor" in name or "Shard" in name:
            return UnreadableTensor.make("one process's part of a sharded tensor", size)
        return UnreadableTensor.make(f"of the class {name}", size)

    def loaded(self, data: Any, *_: Any) -> Any:
        """`torch.storage._load_from_bytes`: how plain pickles keep storages."""
        if self._from_bytes is None or not isinstance(data, bytes):
            raise InertError("torch's own format within a pickle, too deeply")
        return self._from_bytes(data)


def _key(value: Any, depth: int = 0) -> Any:
    """A key of a dict. Hashing a tuple recurses in C, without any limit of Python's."""
    if isinstance(value, tuple):
        if depth >= _DEEPEST_KEY:
            raise InertError("a key that is nested too deeply")
        for item in value:
            _key(item, depth + 1)
    elif isinstance(value, (frozenset, list, dict, set)):
        raise InertError("a container as a key")
    return value


def _append(target: Any, items: list[Any]) -> None:
    if isinstance(target, list):
        target.extend(items)
    elif isinstance(target, set):
        target.update(_key(item) for item in items)
    elif isinstance(target, Opaque):
        if target.items is None:
            target.items = []
        target.items.extend(items)


def _set_items(target: Any, items: list[Any]) -> None:
    if isinstance(target, Opaque):
        if target.entries is None:
            target.entries = {}
        target = target.entries
    if not isinstance(target, dict):
        return
    if len(items) % 2:
        raise InertError("a key without a value")
    for index in range(0, len(items), 2):
        target[_key(items[index])] = items[index + 1]


def _array_of_state(state: Any) -> NDArray[Any] | Opaque:
    """An array from what numpy pickles: version, shape, dtype, Fortran order, bytes."""
    if not isinstance(state, tuple) or len(state) != 5:
        raise InertError("an array without its state")
    _, shape, dtype, fortran, data = state
    if isinstance(data, list):  # of objects
        return Opaque("numpy.ndarray of objects", (shape,))
    return _array(dtype, data, shape, "F" if fortran else "C")


def _array(dtype: Any, data: Any, shape: Any, order: Any = "C") -> NDArray[Any]:
    if not isinstance(dtype, _Dtype):
        raise InertError("an array without a dtype")
    if isinstance(data, str):  # of Python 2
        data = data.encode("latin1")
    if not isinstance(data, (bytes, bytearray)):
        raise InertError("an array without bytes")
    made = dtype.made()
    if made.itemsize == 0:
        return np.zeros(0)
    values = np.frombuffer(data, made)
    return values.reshape(shape, order="F" if order == "F" else "C")


def _tensor(storage: Any, dtype: Any, offset: Any, size: Any, stride: Any, metadata: Any) -> Tensor:
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


_METHODS: dict[str, tuple[str, ...]] = {
    "mapping": ("builtins.dict", "__builtin__.dict", "collections.OrderedDict"),
    "defaultdict": ("collections.defaultdict",),
    "counter": ("collections.Counter",),
    "sequence": ("builtins.list", "__builtin__.list", "collections.deque"),
    "fixed": ("builtins.tuple", "__builtin__.tuple", "torch.Size", "torch._C.Size"),
    "unordered": ("builtins.set", "__builtin__.set", "builtins.frozenset", "__builtin__.frozenset"),
    "namespace": ("argparse.Namespace", "types.SimpleNamespace"),
    "encoded": ("_codecs.encode", "codecs.encode"),
    "reconstructed": ("copyreg._reconstructor", "copy_reg._reconstructor"),
    "newobj": ("copyreg.__newobj__", "copy_reg.__newobj__"),
    "dtype": ("numpy.dtype",),
    "array": ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"),
    "scalar": ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"),
    "from_buffer": ("numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer"),
    "tensor": ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"),
    "tensor_of": ("torch._utils._rebuild_tensor_v3",),
    "parameter": ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"),
    "of_type": ("torch._tensor._rebuild_from_type_v2", "torch.tensor._rebuild_from_type_v2"),
    "on_meta": ("torch._utils._rebuild_meta_tensor_no_storage",),
    "device_tensor": (
        "torch._utils._rebuild_device_tensor_from_numpy",
        "torch._utils._rebuild_device_tensor_from_cpu_tensor",
        "torch._utils._rebuild_xla_tensor",
    ),
    "sparse": (
        "torch._utils._rebuild_sparse_tensor",
        "torch._utils._rebuild_sparse_csr_tensor",
        "torch._utils._rebuild_sparse_compressed_tensor",
    ),
    "quantised": ("torch._utils._rebuild_qtensor",),
    "nested": ("torch._utils._rebuild_nested_tensor",),
    "wrapper": ("torch._utils._rebuild_wrapper_subclass",),
    "loaded": ("torch.storage._load_from_bytes",),
}
# Lightning's hyper-parameters: a dict with another name.
_DICTS = (
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
)
_MAKERS: dict[str, _Maker] = {}
for _method, _names in {**_METHODS, "mapping": (*_METHODS["mapping"], *_DICTS)}.items():
    _maker = _Maker(getattr(InertUnpickler, _method))
    _MAKERS.update(dict.fromkeys(_names, _maker))


def _constant(value: Callable[[], Any]) -> Callable[[InertUnpickler, Any], None]:
    return lambda machine, _: machine._push(value())


def _last(count: int) -> Callable[[InertUnpickler, Any], None]:
    def run(machine: InertUnpickler, _: Any) -> None:
        stack = machine._stack
        if len(stack) < count:
            raise InertError("a tuple of more than there is")
        stack[-count:] = [tuple(stack[-count:])]

    return run


_Run = Callable[[InertUnpickler, Any], None]
_RUN: dict[str, _Run] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP", "READONLY_BUFFER"), InertUnpickler._nothing),
    **dict.fromkeys(
        (
            *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
            *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
            *("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
        ),
        InertUnpickler._push,
    ),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), InertUnpickler._put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), InertUnpickler._get),
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), InertUnpickler._extension),
    "NONE": _constant(lambda: None),
    "NEWTRUE": _constant(lambda: True),
    "NEWFALSE": _constant(lambda: False),
    "EMPTY_TUPLE": _constant(tuple),
    "EMPTY_LIST": _constant(list),
    "EMPTY_DICT": _constant(dict),
    "EMPTY_SET": _constant(set),
    "TUPLE1": _last(1),
    "TUPLE2": _last(2),
    "TUPLE3": _last(3),
    "MARK": InertUnpickler._mark,
    "POP": InertUnpickler._pop,
    "POP_MARK": InertUnpickler._pop_mark,
    "DUP": InertUnpickler._dup,
    "MEMOIZE": InertUnpickler._memoize,
    "TUPLE": InertUnpickler._tuple,
    "LIST": InertUnpickler._list,
    "DICT": InertUnpickler._dict,
    "FROZENSET": InertUnpickler._frozenset,
    "APPEND": InertUnpickler._append,
    "APPENDS": InertUnpickler._appends,
    "ADDITEMS": InertUnpickler._appends,
    "SETITEM": InertUnpickler._setitem,
    "SETITEMS": InertUnpickler._setitems,
    "GLOBAL": InertUnpickler._global,
    "STACK_GLOBAL": InertUnpickler._stack_global,
    "REDUCE": InertUnpickler._reduce,
    "NEWOBJ": InertUnpickler._newobj,
    "NEWOBJ_EX": InertUnpickler._newobj_ex,
    "INST": InertUnpickler._inst,
    "OBJ": InertUnpickler._obj,
    "BUILD": InertUnpickler._build,
    "PERSID": InertUnpickler._persistent,
    "BINPERSID": InertUnpickler._persistent_top,
    "NEXT_BUFFER": InertUnpickler._next_buffer,
}
_OPERATIONS: dict[bytes, tuple[Callable[[Any], Any] | None, _Run]] = {
    operation.code.encode("latin1"): (
        None if operation.arg is None else operation.arg.reader,
        _RUN[operation.name],
    )
    for operation in pickletools.opcodes
}
