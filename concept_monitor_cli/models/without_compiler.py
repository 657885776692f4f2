"""Networks on the meta device without torch's compiler, which takes half as long to import as torch itself.

Without numbers, batch normalisation is done by functions of Python, and these fetch `torch._dynamo` for a
mark by which the compiler leaves them alone. Where nothing is compiled, no mark is needed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from types import ModuleType
from typing import Any

_COMPILER = "torch._dynamo"
#: Where `torch._compile` keeps what `disable` gave.
_MARK = "__dynamo_disable"


class _StandIn(ModuleType):
    """In the place of the compiler; who asks for anything but `disable` gets the compiler itself."""

    def __init__(self) -> None:
        super().__init__(_COMPILER)
        self.marked: list[Any] = []

    def disable(self, function: Any, *_: Any, **__: Any) -> Any:
        self.marked.append(function)
        return function

    def __getattr__(self, name: str) -> Any:
        # Python's own questions, but for that by which it finds what is in a package.
        if name.startswith("__") and name != "__path__":
            raise AttributeError(name)
        self.leave()
        return getattr(import_module(_COMPILER), name)

    def leave(self) -> None:
        if sys.modules.get(_COMPILER) is self:
            del sys.modules[_COMPILER]


@contextmanager
def without_compiler() -> Iterator[None]:
    """While a network runs on the meta device. Nothing is changed where the compiler is imported already.

    Example:
        >>> import torch
        >>> with without_compiler():
        ...     torch.nn.BatchNorm2d(2, device="meta").eval()(torch.zeros(1, 2, 3, 3, device="meta")).shape
        torch.Size([1, 2, 3, 3])
    """
    if _COMPILER in sys.modules:
        yield
        return
    stand_in = _StandIn()
    sys.modules[_COMPILER] = stand_in
    try:
        yield
    finally:
        stand_in.leave()
        for function in stand_in.marked:
            # The compiler, should it come, has to set its own mark.
            with suppress(AttributeError):
                delattr(function, _MARK)
