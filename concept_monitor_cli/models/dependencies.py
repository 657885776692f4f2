"""Which weights the output of a layer can depend on.

A fine-tuned head leaves `layer4` as it was: with the digest of these weights alone in its key, what was
recorded for one epoch is found again for the next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_iter

from concept_monitor_cli.models.layers import (
    LayerCalls,
    LayerInfo,
    blank_images,
    describe_layers,
    evaluation,
    meta_copy,
)
from concept_monitor_cli.models.taps import find_modules, first_tensor
from concept_monitor_cli.models.without_compiler import without_compiler


class _Stop(BaseException):
    """The last tapped layer has answered."""


class _Touched(TorchFunctionMode):
    """Notes every tensor handed to a torch function."""

    def __init__(self, watched: Mapping[int, Tensor]) -> None:
        super().__init__()
        self._watched = watched
        self.ids: set[int] = set()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        self.ids.update(id(value) for value in tree_iter((args, kwargs)) if id(value) in self._watched)
        return func(*args, **kwargs)


def weights_of_layers(
    model: nn.Module,
    layer_names: Sequence[str],
    input_size: int,
    infos: Mapping[str, LayerInfo] | None = None,
) -> frozenset[str]:
    """Names in the state dict that the outputs of these layers can depend on.

    The network runs on the meta device until the last of the layers has answered. A tensor is left out only
    if all three agree that it played no part: its module was not called, no torch function was given it
    (attention uses the weights of its `out_proj` without calling it), and autograd finds no path from it to
    the layers. Where anything is unclear (a network that does not run on meta tensors, TorchScript), every
    name is returned.

    The names say nothing of the computation itself: an identity of the network (its name and options) and of
    the layer belong into a key beside the digest of these weights.

    Args:
        model: the network, on any device.
        layer_names: as in `model.named_modules()`, perhaps with the key of a tensor (`layer:0`).
        input_size: height and width of an image.
        infos: what `describe_layers` says of these layers, where that is known.

    Returns:
        A subset of `model.state_dict()`'s keys.

    Raises:
        InputError: for a layer that does not exist or cannot be read.
        CmonError: where the network cannot be run on such images.
    """
    if infos is None:
        infos = describe_layers(model, layer_names, input_size)
    every = frozenset(model.state_dict())
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        return every
    try:
        channels = next(iter(infos.values())).channels
        wanted = {name: infos[name].calls for name in layer_names}
        with without_compiler():
            used = _used(meta_copy(model), wanted, input_size, channels)
    except Exception:  # Whatever kept it from running: then nothing is known to be unused.
        return every
    # What is no parameter or buffer (a module's extra state) is kept: its meaning is the module's own.
    tensors = {name for name, _ in _tensors(model)}
    return frozenset(name for name in every if name in used or name not in tensors)


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and buffers under all their names: a tied weight has several."""
    return [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]


def _used(model: nn.Module, wanted: Mapping[str, int], input_size: int, channels: int) -> set[str]:
    """Names of the tensors that had a part in layers called that many times; `model` is spoilt."""
    tensors = _tensors(model)
    for parameter in model.parameters():
        if parameter.is_floating_point() or parameter.is_complex():
            parameter.requires_grad_(True)
    entered: set[str] = set()
    outputs: dict[str, list[Tensor]] = {name: [] for name in wanted}
    left: dict[str, LayerCalls] = {name: LayerCalls(name) for name in wanted}

    def enter(name: str) -> Callable[[nn.Module, Any], None]:
        def hook(_module: nn.Module, _inputs: Any) -> None:
            entered.add(name)

        return hook

    def leave(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, _inputs: Any, output: Any) -> None:
            left[name].count += 1
            # As a sum at once: the output itself may be changed in place later.
            outputs[name].append(first_tensor(output, module, name).sum())
            if all(left[other].count >= count for other, count in wanted.items()):
                raise _Stop

        return hook

    # A module used in several places has several names; hooks on each name note them all.
    for name, module in model.named_modules(remove_duplicate=False):
        module.register_forward_pre_hook(enter(name))
    for name, module in find_modules(model, list(wanted)).items():
        module.register_forward_hook(leave(name))
    touched = _Touched({id(tensor): tensor for _, tensor in tensors})
    images = blank_images(model, 1, input_size, channels)
    with evaluation(model), torch.enable_grad():
        try:
            with touched:
                model(images)
        except _Stop:
            pass
        total = torch.stack([value for values in outputs.values() for value in values]).sum()
        asked = [tensor for _, tensor in tensors if tensor.requires_grad]
        # A layer before any weight (a stem's padding) has no graph at all.
        gradients = (
            torch.autograd.grad(total, asked, allow_unused=True) if total.requires_grad and asked else ()
        )
    reached = {id(tensor) for tensor, gradient in zip(asked, gradients, strict=False) if gradient is not None}
    reached |= touched.ids
    names = {name for name, tensor in tensors if id(tensor) in reached}
    names |= {name for name, _ in tensors if name.rpartition(".")[0] in entered}
    # Under one of its names in use, a shared tensor is in use under all.
    shared = {id(tensor) for name, tensor in tensors if name in names}
    return {name for name, tensor in tensors if id(tensor) in shared}
