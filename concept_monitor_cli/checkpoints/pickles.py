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
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from concept_monitor_cli.checkpoints.makers import MAKERS, Maker
from concept_monitor_cli.checkpoints.standins import (
    InertError,
    Opaque,
    PendingArray,
    PendingDtype,
    Reference,
    RefusedError,
    StorageKind,
    UnreadableTensor,
    array_of_state,
    checked_key,
)

# Functions that nobody keeps beside weights by accident: such a file is refused as a whole.
_DANGEROUS = re.compile(
    r"(os|posix|nt)\.[a-z]+"
    r"|(subprocess|_posixsubprocess|shutil|socket|importlib|runpy|ctypes|_ctypes|pty|webbrowser|pickle|_pickle|"
    r"marshal|urllib|requests|pdb|bdb|timeit|cProfile|pip|popen2)\..*"
    # Packages of the user's own often have these names.
    r"|code\.(interact|InteractiveConsole|InteractiveInterpreter|compile_command)"
    r"|profile\.(run|runctx)|commands\.get[a-z]+"
    r"|(builtins|__builtin__)\.(eval|exec|execfile|__import__|compile|open|globals|input|breakpoint)"
    r"|sys\.(modules|exit|setprofile|settrace|path)"
    r"|torch\.(hub|utils\.cpp_extension)\..*"
)
# Elements that makers may copy: a short pickle can ask for the same long list again and again.
_MOST_COPIED = 50_000_000
_MOST_VALUES = 2_000_000_000
_MOST_MEMO = 100_000_000


class StorageLoader(Protocol):
    """Gives the storage that a persistent id names."""

    def __call__(self, persistent_id: object) -> object:
        """The storage, or whatever else the id stands for."""


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
        self._values = 0
        self._loaded: dict[int, tuple[bytes, Any]] = {}
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
        if isinstance(value, PendingArray):
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
        self._push(frozenset(checked_key(item) for item in self._items()))

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
        known = MAKERS.get(full)
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
        if isinstance(target, Maker):
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
        elif isinstance(target, PendingDtype):
            if isinstance(state, tuple) and len(state) > 1 and isinstance(state[1], str):
                target.order = state[1]
        elif isinstance(target, PendingArray):
            # An array is made only now: the memo must know it as well.
            self._stack[-1] = array_of_state(state)
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

    def spend(self, count: int) -> None:
        """Count what is copied, and end where a file asks for too much of it."""
        self._copied += count
        if self._copied > _MOST_COPIED:
            raise InertError("it asks for the same data too often")

    def spend_values(self, count: int) -> None:
        """Count the elements of tensors that are copied."""
        self._values += count
        if self._values > _MOST_VALUES:
            raise InertError("it asks for more copies of tensors than a network has")

    def from_bytes(self, data: bytes) -> Any:
        """What torch.save has written into bytes, read once.

        The same bytes again and again would take memory that the file does not have.
        """
        if self._from_bytes is None:
            raise InertError("torch's own format within a pickle, too deeply")
        if id(data) not in self._loaded:
            self._loaded[id(data)] = (data, self._from_bytes(data))
        return self._loaded[id(data)][1]


def _append(target: Any, items: list[Any]) -> None:
    if isinstance(target, list):
        target.extend(items)
    elif isinstance(target, set):
        target.update(checked_key(item) for item in items)
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
        target[checked_key(items[index])] = items[index + 1]


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
