"""A simulated second device, for machines without one.

Does the code keep its tensors together, and how often does it wait? Tensors on the device say `cuda:0`,
hold their values in ordinary memory, and are computed with there. What a real device would refuse raises:
an operation on tensors of both devices, `.numpy()` without `.cpu()`. What makes a program wait for a device
is counted by its place in the package: reading a number, shapes that depend on values, copies to the host.
It shows nothing about speed, and no error of a real kernel.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("cuda", 0)

# Their result, or the shape of their result, is known on the host only when the device is done.
_WAITS = {
    "_local_scalar_dense",
    "is_nonzero",
    "nonzero",
    "_unique",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "masked_select",
    "bincount",
    "equal",
    "repeat_interleave",
    "histc",
    "allclose",
}


class MixedDevices(RuntimeError):
    """What a real device would refuse."""


class Remote(Tensor):
    """A tensor on the simulated device. For the inside of torch it is an empty one of the host."""

    value: Tensor

    @staticmethod
    def __new__(cls, value: Tensor) -> Remote:
        made: Remote = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, value.size(), strides=value.stride(), dtype=value.dtype, device="cpu"
        )
        made.value = value
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return DEVICE

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Remote({self.value!r})"

    def numpy(self, **_: Any) -> Any:  # type: ignore[override]
        raise MixedDevices("can't convert a tensor of cuda:0 to numpy: .cpu() is missing")

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise MixedDevices("can't convert a tensor of cuda:0 to numpy: .cpu() is missing")

    def tolist(self) -> Any:
        _count("wait", "tolist")
        return self.value.tolist()

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[1]
        leaves, _ = tree_flatten((args, kwargs))
        local = [leaf for leaf in leaves if isinstance(leaf, Tensor) and not isinstance(leaf, Remote)]
        # A number of the host may meet a tensor of the device; places to look up are sent there.
        apart = [leaf for leaf in local if leaf.dim()]
        if apart and name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            _count("upload", name)
        elif apart and name != "copy_":
            raise MixedDevices(f"{func}: tensors of cuda:0 and of the host")
        if name in _WAITS:
            _count("wait", name)
        if name.startswith(("index", "_index_put")) and any(
            isinstance(leaf, Tensor) and leaf.dtype in (torch.bool, torch.uint8) for leaf in leaves[1:]
        ):
            _count("wait", f"{name} by a mask")
        if name == "copy_" and not isinstance(args[0], Remote):
            _count("wait", "copy to the host")
            func(args[0], _value(args[1]), *args[2:], **kwargs)
            return args[0]
        if name == "copy_" and apart:
            _count("upload", name)
        if kwargs.get("device") is not None:
            kwargs = {**kwargs, "device": torch.device("cpu")}
        given = {id(leaf.value): leaf for leaf in leaves if isinstance(leaf, Remote)}
        made = func(*tree_map(_value, args), **tree_map(_value, kwargs))
        # What is changed in place stays the same tensor.
        return tree_map(lambda x: given.get(id(x), Remote(x)) if isinstance(x, Tensor) else x, made)


def _value(x: Any) -> Any:
    return x.value if isinstance(x, Remote) else x


def _is_remote(device: Any) -> bool:
    return isinstance(device, torch.device | str) and torch.device(device).type == "cuda"


class _Sends(TorchFunctionMode):
    """Copies from one device to the other, and tensors that are made on the device."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name in ("to", "cuda", "cpu") and args and isinstance(args[0], Tensor):
            return _sent(name, *args, **kwargs)
        if name == "embedding_bag" and any(isinstance(each, Remote) for each in args):
            # Written in Python, it makes a tensor on the device by itself.
            if any(isinstance(each, Tensor) and not isinstance(each, Remote) for each in args):
                raise MixedDevices("embedding_bag: tensors of cuda:0 and of the host")
            return Remote(func(*tree_map(_value, args), **tree_map(_value, kwargs)))
        if _is_remote(kwargs.get("device")):
            kwargs["device"] = torch.device("cpu")
            made = func(*args, **kwargs)
            if name in ("tensor", "as_tensor"):
                _count("upload", name)
            return Remote(made) if isinstance(made, Tensor) and not isinstance(made, Remote) else made
        return func(*args, **kwargs)


def _sent(name: str, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    rest = [*args, *kwargs.values()]
    devices = [each for each in rest if isinstance(each, torch.device | str)]
    others = [each for each in rest if isinstance(each, Tensor)]
    types = [each for each in rest if isinstance(each, torch.dtype)] + [each.dtype for each in others]
    remote = isinstance(x, Remote)
    if name == "cuda":
        remote = True
    elif name == "cpu":
        remote = False
    elif devices:
        remote = _is_remote(devices[0])
    elif others:
        remote = isinstance(others[0], Remote)
    value = _value(x)
    cast = value.to(types[0]) if types else value
    if isinstance(x, Remote) and not remote:
        _count("wait", "copy to the host")
        return cast.clone() if cast is value else cast
    if remote and not isinstance(x, Remote):
        _count("upload", "to")
        return Remote(cast.clone() if cast is value else cast)
    if cast is value and not kwargs.get("copy"):
        return x
    return Remote(cast) if remote else cast


_counts: Counter[tuple[str, str, str]] = Counter()


def _count(kind: str, name: str) -> None:
    place = "?"
    for frame in reversed(traceback.extract_stack()):
        if "concept_monitor_cli" in frame.filename:
            place = f"{frame.filename.split('concept_monitor_cli/')[-1]}:{frame.lineno}"
            break
    _counts[kind, name, place] += 1


@contextmanager
def simulated_device() -> Iterator[Counter[tuple[str, str, str]]]:
    """Counts of (`wait` or `upload`, operation, place in the package) while it is open."""
    _counts.clear()
    with _Sends():
        yield _counts


def waits(counts: Counter[tuple[str, str, str]]) -> int:
    """How often the host waited."""
    return sum(count for (kind, *_), count in counts.items() if kind == "wait")
