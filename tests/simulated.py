"""A simulated second device, for machines without one.

Does the code keep its tensors together, and how often does it wait? Tensors on the device say `cuda:0`,
hold their values in ordinary memory, and are computed with there. What a real device would refuse raises:
an operation on tensors of both devices, `.numpy()` without `.cpu()`. What makes a program wait for a device
is counted by its place in the package: reading a number, shapes that depend on values, copies to the host.
It shows nothing about speed, and no error of a real kernel.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from concept_monitor_cli.functional.dissection.masks import _Places

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
    # Whether a decomposition succeeded is looked up.
    "_linalg_check_errors",
    "_linalg_eigh",
    "_linalg_svd",
    "linalg_eig",
}
# Views that a bit tells from what they are of; the bit would be lost here.
_AS_COPIES = {"_conj": torch.ops.aten.conj_physical.default, "_neg_view": torch.ops.aten.neg.default}
# Places that are looked up: those of the host are sent, and a mask's number of places is asked for.
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
# Inside of torch they look at the values of a tensor of the host, and not at those of a device; or they make
# tensors on the device by themselves.
_IN_ONE = {"one_hot", "quantile", "nanquantile", "embedding_bag"}
# All that needs to be looked at before torch does it, besides what is given a device.
_SENT = {"to", "cuda", "cpu", "new_tensor", *_IN_ONE}


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

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.value.untyped_storage()

    def tolist(self) -> Any:
        _count("wait", "tolist")
        return self.value.tolist()

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[1]
        leaves = [*_parts(args), *_parts(kwargs.values())]
        if any(isinstance(leaf, torch.Generator) for leaf in leaves):
            raise MixedDevices(f"{func}: a generator of the host for a tensor of cuda:0")
        local = [leaf for leaf in leaves if isinstance(leaf, Tensor) and not isinstance(leaf, Remote)]
        # A number of the host may meet a tensor of the device, element by element or as what is filled in.
        numbers = torch.Tag.pointwise in func.tags or name in _INDEXING or "fill" in name
        apart = [leaf for leaf in local if leaf.dim() or not numbers]
        if name in _INDEXING:
            _looked_up(name, args)
        elif apart and name != "copy_":
            raise MixedDevices(f"{func}: tensors of cuda:0 and of the host")
        if name in _WAITS:
            _count("wait", name)
        if name == "copy_" and not isinstance(args[0], Remote):
            _count("wait", "copy to the host")
            func(args[0], _value(args[1]), *args[2:], **kwargs)
            return args[0]
        if name == "copy_" and apart:
            _count("upload", name)
        if kwargs.get("device") is not None:
            kwargs = {**kwargs, "device": torch.device("cpu")}
        given = {id(leaf.value): leaf for leaf in leaves if isinstance(leaf, Remote)}
        func = _AS_COPIES.get(name, func)
        made = func(*_changed(_value, args), **_changed(_value, kwargs))

        def kept(x: Any) -> Any:
            # What is changed in place stays the same tensor.
            return x if not isinstance(x, Tensor) else given[id(x)] if id(x) in given else Remote(x)

        return _changed(kept, made)


def _looked_up(name: str, args: Any) -> None:
    """Counts what an index costs: `(tensor, places, values)`."""
    whole, places, *values = args
    given = [place for place in places if place is not None]
    if not isinstance(whole, Remote):
        raise MixedDevices(f"{name}: places on cuda:0 in a tensor of the host")
    values = [each for each in values if isinstance(each, Tensor)]
    if any(each.dim() and not isinstance(each, Remote) for each in values):
        raise MixedDevices(f"{name}: values of the host for a tensor of cuda:0")
    if any(not isinstance(place, Remote) for place in given):
        _count("upload", name)
    masks = [each for each in given if isinstance(each, Remote) and each.dtype in (torch.bool, torch.uint8)]
    # One number where a mask holds is filled in without asking where that is (`canDispatchToMaskedFill`).
    filled = len(given) == 1 and bool(values) and not isinstance(values[0], Remote)
    if masks and not filled:
        _count("wait", f"{name} by a mask")


def _parts(values: Iterable[Any]) -> Iterator[Any]:
    """What an operation is given, lists of it opened."""
    for each in values:
        if isinstance(each, list | tuple):
            yield from _parts(each)
        else:
            yield each


def _changed(change: Callable[[Any], Any], x: Any) -> Any:
    """What an operation is given, or gives, with each part changed."""
    if isinstance(x, list | tuple):
        return type(x)([_changed(change, each) for each in x])
    if isinstance(x, dict):
        return {name: _changed(change, each) for name, each in x.items()}
    return change(x)


def _value(x: Any) -> Any:
    return x.value if isinstance(x, Remote) else x


def _is_remote(device: Any) -> bool:
    return isinstance(device, torch.device | str) and torch.device(device).type == "cuda"


class _Sends(TorchFunctionMode):
    """Copies from one device to the other, and tensors that are made on the device."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        given_a_device = bool(kwargs) and kwargs.get("device") is not None and name != "_parse_to"
        if name not in _SENT and not given_a_device:
            return func(*args, **(kwargs or {}))
        kwargs = dict(kwargs or {})
        if name in ("to", "cuda", "cpu") and args and isinstance(args[0], Tensor):
            return _sent(name, *args, **kwargs)
        given = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
        if name in _IN_ONE and any(isinstance(each, Remote) for each in given):
            if any(each.dim() and not isinstance(each, Remote) for each in given):
                raise MixedDevices(f"{name}: tensors of cuda:0 and of the host")
            if name == "one_hot" and len(args) + len(kwargs) < 2:
                _count("wait", name)
            return Remote(func(*_changed(_value, args), **_changed(_value, kwargs)))
        if name == "new_tensor" and isinstance(args[0], Remote):
            _count("upload", name)
            return Remote(args[0].value.new_tensor(*args[1:], **kwargs))
        if _is_remote(kwargs.get("device")):
            if kwargs.get("generator") is not None:
                raise MixedDevices(f"{name}: a generator of the host for a tensor of cuda:0")
            kwargs["device"] = torch.device("cpu")
            made = func(*args, **kwargs)
            if name in ("tensor", "as_tensor") and made is not args[0]:
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
    if kwargs.get("memory_format") is not None:
        cast = cast.to(memory_format=kwargs["memory_format"])
    if isinstance(x, Remote) and not remote:
        _count("wait", "copy to the host")
        return cast.clone() if cast is value else cast
    if remote and not isinstance(x, Remote):
        later = getattr(x, "pinned", False) and kwargs.get("non_blocking", False)
        _count("upload", "to, without waiting" if later else "to")
        return Remote(cast.clone() if cast is value else cast)
    if cast is value and not kwargs.get("copy"):
        return x
    return Remote(cast) if remote else cast


class _Event:
    """In the place of `torch.cuda.Event`: work is done when it is asked for."""

    def __init__(self, enable_timing: bool = False) -> None:
        self._at = 0.0

    def record(self) -> None:
        self._at = time.perf_counter()

    def elapsed_time(self, other: _Event) -> float:
        """Milliseconds, of two that were recorded."""
        assert 0 < self._at <= other._at
        return 1e3 * (other._at - self._at)


def _without_graph(mode: bool = True) -> AbstractContextManager[object]:
    """In the place of `torch.inference_mode`, which does more."""
    return torch.no_grad() if mode else nullcontext()


def _synchronize(*_: Any) -> None:
    _count("wait", "synchronize")


def _pinned(self: Tensor, *_: Any) -> Tensor:
    """A copy that can be sent without waiting."""
    copy = self.clone()
    copy.pinned = True  # type: ignore[attr-defined]
    return copy


_counts: Counter[tuple[str, str, str]] = Counter()


def _count(kind: str, name: str) -> None:
    place, frame = "?", sys._getframe()
    while frame is not None:
        if "concept_monitor_cli" in frame.f_code.co_filename:
            place = f"{frame.f_code.co_filename.split('concept_monitor_cli/')[-1]}:{frame.f_lineno}"
            break
        frame = frame.f_back  # type: ignore[assignment]
    _counts[kind, name, place] += 1


@contextmanager
def simulated_device() -> Iterator[Counter[tuple[str, str, str]]]:
    """Counts of (`wait` or `upload`, operation, place in the package) while it is open."""
    _counts.clear()
    _Places.of.cache_clear()  # what was sent by then is sent again, and nothing of it stays for a real device
    with (
        mock.patch.object(torch.cuda, "Event", _Event),
        mock.patch.object(torch.cuda, "synchronize", _synchronize),
        mock.patch.object(Tensor, "pin_memory", _pinned),
        # Views of such tensors cannot be made for a kind of tensor of one's own.
        mock.patch.object(torch, "inference_mode", _without_graph),
        # A network that is moved gets other parameters; else its own would stay tensors of the host.
        mock.patch.object(torch.__future__, "get_overwrite_module_params_on_conversion", return_value=True),
        _Sends(),
    ):
        try:
            yield _counts
        finally:
            _Places.of.cache_clear()


def waits(counts: Counter[tuple[str, str, str]]) -> int:
    """How often the host waited."""
    return sum(count for (kind, *_), count in counts.items() if kind == "wait")


def uploads(counts: Counter[tuple[str, str, str]]) -> int:
    """How often something was sent to the device."""
    return sum(count for (kind, *_), count in counts.items() if kind == "upload")
