"""A network that is in use: a copy of it on which nothing of the user's hangs, and what tells it from others.

Somebody's training goes on with the network itself, so nothing is ever run on it. What is run is a copy: on
the CPU, in evaluation mode, in float32, without gradients, and without the user's hooks.
"""

from __future__ import annotations

import copy
import hashlib
import random
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from concept_monitor_cli.checkpoints import tensor_digest
from concept_monitor_cli.errors import CmonError, InputError
from concept_monitor_cli.models.layers import LayerInfo, evaluation, resolve_layers, stem_channels
from concept_monitor_cli.models.sources import ModelSource
from concept_monitor_cli.models.taps import first_tensor, split_name, tap

# Where `nn.Module` keeps hooks. Those of `torch.nn.utils` in `_forward_pre_hooks` make weights (pruning, old
# weight and spectral normalisation), and belong to the network.
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_FLAGS = ("_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs")
# Those of saving and loading may stay; but what they are bound to must not be copied with them.
_SAVING = (
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
_NOISE_IMAGES = 2
# Of the final outputs of two networks whose weights are laid out differently (attention in one matrix or in
# three): rounding is below this share of the largest output, another activation function far above.
_ROUNDING = 1e-3


def unwrapped(model: nn.Module) -> nn.Module:
    """The network within `DataParallel`, `DistributedDataParallel` and `torch.compile`."""
    while True:
        inner = model.module if isinstance(model, (DataParallel, DistributedDataParallel)) else None
        inner = inner if inner is not None else model.__dict__.get("_modules", {}).get("_orig_mod")
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """The network's state dict, copied to the CPU.

    Raises:
        InputError: its tensors are not all here: on the meta device, or shared out among processes.
    """
    state: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            continue  # `get_extra_state`: no weights
        _require_whole(name, value, model)
        state[name] = value.detach().to("cpu", copy=True)
    return state


def _require_whole(name: str, tensor: Tensor, model: nn.Module) -> None:
    if type(tensor).__name__ in ("DTensor", "ShardedTensor") or tensor.is_meta:
        kept = "on the meta device" if tensor.is_meta else "shared out among processes (FSDP)"
        raise InputError(
            f"{name} is {kept}, so the network cannot be run here",
            where=type(model).__name__,
            hint="save checkpoints, and `cmon dissect` or `cmon watch` them",
        )


def detached_copy(model: nn.Module) -> tuple[nn.Module, int]:
    """A copy of a network that shares nothing with it, on the CPU, in evaluation mode and float32.

    Args:
        model: the network, on any device, in any mode.

    Returns:
        The copy, and how many of the user's hooks were left out of it.

    Raises:
        InputError: the network cannot be copied.
    """
    memo: dict[int, Any] = {}
    left_out = 0
    forwards = [_replaced_forward(module) for module in model.modules()]
    for module in model.modules():
        for tensor in _tensors(module):
            if id(tensor) not in memo:
                _require_whole("a tensor", tensor, model)
                memo[id(tensor)] = _plain_copy(tensor)
        for place in _HOOKS:
            hooks = module.__dict__.get(place)
            if hooks:
                kept = OrderedDict((key, hook) for key, hook in hooks.items() if _makes_weights(place, hook))
                left_out += len(hooks) - len(kept)
                memo[id(hooks)] = kept
        for place in (*_FLAGS, *_SAVING):
            if module.__dict__.get(place):
                memo[id(module.__dict__[place])] = copy.copy(module.__dict__[place])
    try:
        copied = copy.deepcopy(model, memo)
    except Exception as error:  # a lock, an open file, a generator among the attributes
        raise InputError(
            f"the network cannot be copied: {error}",
            where=type(model).__name__,
            hint="hand over the part that is the network itself, or dissect a saved checkpoint",
        ) from error
    for module, forward in zip(copied.modules(), forwards, strict=True):
        if forward is not None:
            module.__dict__["forward"] = MethodType(forward, module)
        else:
            module.__dict__.pop("forward", None)
    return copied.requires_grad_(False).eval(), left_out


def _replaced_forward(module: nn.Module) -> Callable[..., Any] | None:
    """The function that stands for `forward` in one module alone; `None` for that of its class.

    Raises:
        InputError: it may hold on to the network that is in use, which a copy must not run.
    """
    # accelerate wraps `forward` for mixed precision, and keeps what it was.
    forward = module.__dict__.get("_original_forward", module.__dict__.get("forward"))
    if forward is None:
        return None
    if isinstance(forward, MethodType) and forward.__self__ is module:
        function = forward.__func__
        if function is type(module).forward:
            return None
        if getattr(function, "__closure__", None) is None:
            return function
    raise InputError(
        "forward was replaced by a function that may belong to this very network, so no copy can be run",
        where=type(module).__name__,
        hint="make it a method (types.MethodType) of what it is given, or a class of its own",
    )


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    """Parameters, buffers, and tensors that are plain attributes."""
    own = (*module._parameters.values(), *module._buffers.values(), *module.__dict__.values())
    return (value for value in own if isinstance(value, Tensor))


def _plain_copy(tensor: Tensor) -> Tensor:
    # Not even the order of the numbers in memory is taken over: sums in another order are rounded otherwise.
    values = tensor.detach().to("cpu", copy=True).contiguous()
    values = values.float() if values.is_floating_point() else values
    return nn.Parameter(values, requires_grad=False) if isinstance(tensor, nn.Parameter) else values


def _makes_weights(place: str, hook: object) -> bool:
    return place == "_forward_pre_hooks" and type(hook).__module__.startswith("torch.nn.utils.")


@contextmanager
def undisturbed() -> Iterator[None]:
    """Random states come back as they were; what is computed inside does not depend on the caller's modes.

    Those of Python, NumPy and torch on all devices. Autocast is off and gradients are on inside, as in a
    program of its own, and the default type of floats is float32.
    """
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    dtype = torch.get_default_dtype()
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            for kind in ("cpu", "cuda", "mps"):
                if kind == "cpu" or getattr(torch, kind).is_available():
                    stack.enter_context(torch.autocast(kind, enabled=False))
            torch.set_default_dtype(torch.float32)
            yield
    finally:
        torch.set_default_dtype(dtype)
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        if mps is not None:
            torch.mps.set_rng_state(mps)


def _noise(size: int, channels: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(_NOISE_IMAGES, channels, size, size, generator=generator)


def answers(model: nn.Module, layers: Sequence[str], size: int, channels: int = 3) -> dict[str, Tensor]:
    """What layers of a network put out for fixed noise: what it computes, told from outside.

    Args:
        model: a network of one's own, on the CPU.
        layers: which; none: the network's own output, under `""`.
        size: height and width of an image, pixels.
        channels: of an image.

    Returns:
        By layer, `(2, ...)`.
    """
    with torch.random.fork_rng(devices=[]), evaluation(model):
        torch.manual_seed(0)  # a network that draws numbers draws the same each time
        if layers:
            with tap(model, layers, capture=_copied, early_stop=False) as read:
                return read(_noise(size, channels))
        with torch.inference_mode():
            return {"": first_tensor(model(_noise(size, channels)), model, "the network")}


def _copied(_name: str, output: Tensor) -> Tensor:
    return output.clone()


def computes_the_same(
    live: nn.Module, other: nn.Module, layers: Sequence[LayerInfo], size: int, *, exact: bool
) -> bool:
    """Whether two networks with the same weights do the same with them, as far as noise shows.

    Where both have these layers, their outputs are compared. Where the other one's layers have other names
    (transformers' weights in timm's network), the final outputs are, to rounding.

    Args:
        live: the copy of the network that is in use.
        other: the network that it is taken for.
        layers: of the other one.
        size: height and width of an image, pixels.
        exact: the weights are the same numbers in the same places, so the outputs must be; otherwise they
            were folded, and rounding may differ.
    """
    names, channels = [layer.name for layer in layers], layers[0].channels
    known = dict(live.named_modules(remove_duplicate=False))
    by_layer = names if all(split_name(name)[0] in known for name in names) else []
    try:
        mine, its = (answers(network, by_layer, size, channels) for network in (live, other))
    except (CmonError, RuntimeError, TypeError, ValueError):
        return False
    if by_layer and exact:
        return all(torch.equal(mine[name], its[name]) for name in by_layer)
    return all(_agree(mine[name].float(), its[name].float()) for name in its)


def _agree(one: Tensor, two: Tensor) -> bool:
    return one.shape == two.shape and bool(((one - two).abs() <= _ROUNDING * two.abs().max()).all())


def part_with(model: nn.Module, layers: Sequence[str]) -> nn.Module:
    """The network that has these layers: the module itself, or the one child of it that has them all.

    Raises:
        InputError: neither; about the module itself.
    """
    try:
        resolve_layers(model, layers)
        return model
    except InputError as error:
        found = []
        for child in model.children():
            try:
                resolve_layers(child, layers)
                found.append(child)
            except InputError:
                continue
        if len(found) != 1:
            raise error
        return found[0]


@dataclass(frozen=True)
class LiveSource(ModelSource):
    """A network that cannot be built anew: only the copy of the one that is in use is there.

    Attributes:
        network: the copy. It is run, and moved to where it is run.
    """

    network: nn.Module = field(default_factory=nn.Identity, repr=False, compare=False)

    @classmethod
    def of(cls, network: nn.Module) -> LiveSource:
        """Of a copy that `detached_copy` made."""
        kind = type(network)
        name = f"{kind.__module__}.{kind.__qualname__}"
        return cls("live", name, {}, None, stem_channels(network) or 3, network=network)

    def known_by(self, layers: Sequence[LayerInfo], size: int) -> str:
        """What tells it from other networks, for keys: its code, told by what it makes of noise."""
        found = answers(self.network, [layer.name for layer in layers], size, layers[0].channels)
        digest = hashlib.sha256()
        for name in sorted(found):
            digest.update(f"{name} {tensor_digest(found[name])}\n".encode())
        return digest.hexdigest()

    @property
    def label(self) -> str:
        """The name of its class."""
        return self.name

    def describe(self) -> str:
        """One sentence for the user."""
        return f"network: {self.name}, run as it is"

    def build(self, device: str | torch.device = "cpu", *, seed: int = 0) -> nn.Module:
        """Not possible.

        Raises:
            InputError: always.
        """
        raise InputError(
            "fresh weights of this network cannot be drawn: how it is built is not known",
            where=self.name,
            hint="name what builds it: model='package.module:factory'",
        )

    def restore(self, state_dict: Mapping[str, Tensor], device: str | torch.device = "cpu") -> nn.Module:
        """The copy, which has its weights already, on a device."""
        return self.network.to(device)
