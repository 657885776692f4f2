"""The layers of a network: their names, what they put out, how many units they have."""

from __future__ import annotations

import copy
import difflib
import fnmatch
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from concept_monitor_cli.errors import CmonError, InputError
from concept_monitor_cli.models.pooling import Kind, Layout, detect_layout, units
from concept_monitor_cli.models.taps import first_tensor, split_name, tensors_in
from concept_monitor_cli.models.without_compiler import without_compiler

# Two images show whether a layer's first axis is the batch.
_BATCH = 2
_SUGGESTIONS = 5


@dataclass(frozen=True)
class LayerInfo:
    """What is known about a layer before any image is seen.

    Args:
        name: as in `model.named_modules()`, with the key of a tensor where it has several (`layer:0`).
        type: the class of the module.
        shape: of its output for one image.
        layout: which axis holds the units.
        units: how many there are (C).
        parameters: numbers learnt in the layer and inside it.
        calls: how often it is called in one forward pass; the last call is the one that counts.
        channels: of the images that the network takes: 3, or 1 for grey.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    layout: Layout
    units: int
    parameters: int
    calls: int = 1
    channels: int = 3

    @property
    def map_size(self) -> tuple[int, int] | None:
        """Height and width of the activation maps; (1, 1) for vectors, None where there are none."""
        return self.layout.grid

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> LayerInfo:
        """What `to_json` gave."""
        grid = values["layout"]["grid"]
        layout = Layout(**{**values["layout"], "grid": None if grid is None else tuple(grid)})
        return cls(**{**values, "shape": tuple(values["shape"]), "layout": layout})


def resolve_layers(model: nn.Module, names: Sequence[str]) -> list[str]:
    """Checks layer names against the network.

    Args:
        model: the network.
        names: as in `model.named_modules()`, or patterns (`conv*`, see `matches`), perhaps with the key of
            one of several tensors (`layer:0`); white space around them is ignored, repeats count once.

    Returns:
        The names in the order given; those of a pattern in the network's order.

    Raises:
        InputError: no name at all, or one that does not exist, with the nearest ones as suggestions.
    """
    known = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    wanted = list(dict.fromkeys(name.strip() for name in names if name.strip()))
    if not wanted:
        raise InputError(
            "no layer named", where="--layer", hint="`cmon layers` lists the layers of a checkpoint"
        )
    found: dict[str, None] = {}
    for name in wanted:
        layer = split_name(name)[0]
        matching = [layer] if layer in known else [other for other in known if matches(other, layer)]
        if not matching:
            near = nearest_names(layer, known)
            hint = "did you mean " + ", ".join(near) + "?" if near else "`cmon layers` lists the layers"
            raise InputError(f"the network has no layer {name!r}", where=type(model).__name__, hint=hint)
        found.update(dict.fromkeys(other + name[len(layer) :] for other in matching))
    return list(found)


def is_pattern(name: str) -> bool:
    """Whether a layer's name is a pattern as in a shell."""
    return any(character in name for character in "*?[")


def matches(name: str, pattern: str) -> bool:
    """Whether a layer's name fits a pattern: `*` and `?` stand for anything but a dot, `**` for that too.

    `layer*` is layer1 to layer4 and nothing inside them; `layer4.*.conv2`, `**.attn`.
    """
    if not is_pattern(pattern):
        return False
    pieces = [".*" if piece == "**" else _shell(piece) for piece in re.split(r"(\*\*)", pattern)]
    return re.fullmatch("".join(pieces), name) is not None


def _shell(pattern: str) -> str:
    """A shell pattern as a regular expression in which nothing but a dot matches a dot."""
    expression = fnmatch.translate(pattern)
    # `(?s:...)\Z` of fnmatch: its inside, with `.` for one character read as one that is no dot.
    inside = re.sub(r"^\(\?s:|\)(\\Z|\\z)$", "", expression)
    return re.sub(r"(?<!\\)\.", "[^.]", inside)


def nearest_names(name: str, known: Sequence[str]) -> list[str]:
    """Up to five names that the user may have meant: similar spelling first, then names that contain it.

    Args:
        name: what was asked for.
        known: what there is.
    """
    folded: dict[str, str] = {}
    for other in known:
        folded.setdefault(other.lower(), other)
    alike = [
        folded[match] for match in difflib.get_close_matches(name.lower(), folded, n=_SUGGESTIONS, cutoff=0.6)
    ]
    # `encoder_layer_3` in `encoder.layers.encoder_layer_3`, or a prefix such as `module.` too many. The
    # shortest is the outermost, the one usually meant.
    holding = [k for k in known if name.lower() in k.lower() or name.lower().endswith("." + k.lower())]
    return list(dict.fromkeys([*alike[:3], *sorted(holding, key=len), *alike]))[:_SUGGESTIONS]


def list_layers(model: nn.Module, input_size: int) -> list[LayerInfo]:
    """All layers that can be dissected, in the order of the network's definition.

    Layers that take no part in the forward pass, or put out something other than one tensor per image of one
    to three axes, are left out.

    Args:
        model: the network, on any device; nothing is computed with its weights where it runs on meta tensors.
        input_size: height and width of an image.

    Raises:
        CmonError: where the network cannot be run on such images.
    """
    calls, channels = trace(model, input_size)
    found = []
    for name, module in model.named_modules():
        if name in calls:
            for call in _outputs(calls[name], module):
                try:
                    found.append(_info(model, module, call, None, channels))
                except InputError:
                    continue
    return found


def _outputs(call: LayerCalls, module: nn.Module) -> list[LayerCalls]:
    """A layer under its name, or under each tensor's name where several are of equal standing."""
    try:
        first_tensor(call.output, module, call.name)
    except InputError:
        keys = tensors_in(call.output)
        return [LayerCalls(f"{call.name}:{key}", call.count, call.output) for key in keys]
    return [call]


def describe_layers(
    model: nn.Module,
    names: Sequence[str],
    input_size: int,
    *,
    kinds: Mapping[str, Kind] | None = None,
    optional: Collection[str] = (),
) -> dict[str, LayerInfo]:
    """What is known about these layers.

    Args:
        model: the network.
        names: layers, checked as by `resolve_layers`.
        input_size: height and width of an image.
        kinds: axis orders set by the user, by layer.
        optional: layers that are left out where they cannot be read, because a pattern names them.

    Raises:
        InputError: for a layer that does not exist, takes no part in the forward pass or has no clear units.
        CmonError: where the network cannot be run on such images.
    """
    names = resolve_layers(model, names)
    modules = dict(model.named_modules(remove_duplicate=False))
    calls, channels = trace(model, input_size)
    # A module with two names is traced under the first.
    first_name = {id(module): name for name, module in model.named_modules()}
    found = {}
    for name in names:
        module = modules[split_name(name)[0]]
        try:
            call = calls.get(first_name[id(module)])
            if call is None:
                raise InputError(
                    f"layer {name!r} takes no part in the network's forward pass",
                    where=name,
                    hint="choose the layer that contains it; `cmon layers` lists those that can be read",
                )
            call = LayerCalls(name, call.count, call.output)
            found[name] = _info(model, module, call, (kinds or {}).get(name), channels)
        except InputError:
            if name not in optional:
                raise
    return found


@dataclass
class LayerCalls:
    """How a layer took part in a forward pass: how often it was called, and what it put out last."""

    name: str
    count: int = 0
    output: Any = field(default=None, repr=False)


def _info(
    model: nn.Module, module: nn.Module, call: LayerCalls, kind: Kind | None, channels: int
) -> LayerInfo:
    output = first_tensor(call.output, module, call.name)
    second = output.ndim == 3 and output.shape[0] != _BATCH and output.shape[1] == _BATCH
    if second:
        output = output.transpose(0, 1)  # (tokens, B, C), torch's `batch_first=False`
    if output.ndim < 2 or output.shape[0] != _BATCH or not output.is_floating_point():
        raise InputError(
            f"layer {call.name!r} puts out {tuple(output.shape)} for {_BATCH} images, not one row for each",
            where=call.name,
            hint="choose the layer that contains it; `cmon layers` lists those that can be read",
        )
    shape = tuple(output.shape[1:])
    name = split_name(call.name)[0]
    layout = replace(
        detect_layout(shape, module=module, model=model, name=name, kind=kind), batch_second=second
    )
    count = sum(parameter.numel() for parameter in module.parameters())
    kind_of_module = type(module).__name__
    return LayerInfo(
        call.name, kind_of_module, shape, layout, units(shape, layout), count, call.count, channels
    )


def meta_copy(model: nn.Module) -> nn.Module:
    """A copy of a network on the meta device: shapes without numbers, no memory for weights.

    Hooks on the copy leave the original alone.

    Args:
        model: the network, on any device.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        tensors: list[Tensor | None] = [*module._parameters.values(), *module._buffers.values()]
        # Tensors kept as plain attributes would be left behind on the real device.
        tensors += [value for value in module.__dict__.values() if isinstance(value, Tensor)]
        for tensor in tensors:
            if tensor is None or id(tensor) in memo:
                continue
            empty = torch.empty_like(tensor.detach(), device="meta")
            is_parameter = isinstance(tensor, nn.Parameter)
            memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
    return copy.deepcopy(model, memo)


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """`model.eval()` for the length of a `with` block; every module's own mode comes back after it."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def trace(model: nn.Module, input_size: int) -> tuple[dict[str, LayerCalls], int]:
    """Runs a network once on two blank images, on the meta device where it can, and notes every call.

    Args:
        model: the network.
        input_size: height and width of an image.

    Returns:
        By name, for every module that was called; and how many channels the images had: 3, or 1 where the
        network takes grey ones.

    Raises:
        InputError: the network takes images of another number of channels.
        CmonError: where the network cannot be run on such images.
    """
    tried: dict[int, Exception] = {}
    for channels in (3, 1):
        try:
            return _trace_somewhere(model, input_size, channels), channels
        except Exception as error:
            tried[channels] = error
    stem = stem_channels(model)
    if stem is not None and stem not in tried:
        raise InputError(
            f"the network takes images of {stem} channels, and photos have 3",
            where=type(model).__name__,
            hint="give --model file.py:factory with a network that takes RGB and makes these channels of it",
        ) from tried[3]
    grey = stem == 1
    raise CmonError(
        f"the network cannot be run on {input_size} x {input_size} {'grey' if grey else 'RGB'} images: "
        f"{tried[1 if grey else 3]}",
        where=type(model).__name__,
        hint="set the size that it expects with --input-size",
    ) from tried[1 if grey else 3]


def stem_channels(model: nn.Module) -> int | None:
    """Channels that the first convolution of a network takes; None for a network without one."""
    stem = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    return None if stem is None else stem.in_channels


def _trace_somewhere(model: nn.Module, input_size: int, channels: int) -> dict[str, LayerCalls]:
    try:
        with without_compiler():
            return _trace(meta_copy(model), input_size, channels)
    except Exception:
        # Not every network runs on meta tensors (values read back, tensors made on the CPU): use it as it is.
        if any(tensor.is_meta for tensor in chain(model.parameters(), model.buffers())):
            raise
    return _trace(model, input_size, channels)


def blank_images(model: nn.Module, count: int, input_size: int, channels: int = 3) -> Tensor:
    """Zeros (count, channels, S, S) of the device and float type of the network's weights."""
    tensors = chain(model.parameters(), model.buffers())
    like = next((tensor for tensor in tensors if tensor.is_floating_point()), torch.zeros(()))
    return torch.zeros(count, channels, input_size, input_size, device=like.device, dtype=like.dtype)


def _trace(model: nn.Module, input_size: int, channels: int) -> dict[str, LayerCalls]:
    calls: dict[str, LayerCalls] = {}
    handles = []

    def watch(name: str, module: nn.Module) -> None:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            call = calls.setdefault(name, LayerCalls(name))
            call.count += 1
            call.output = _shape_only(output)

        handles.append(module.register_forward_hook(hook))

    try:
        for name, module in model.named_modules():
            # TorchScript takes no hooks; what is inside cannot be read.
            if name and not isinstance(module, torch.jit.ScriptModule):
                watch(name, module)
        # With gradients on, torch's transformer layers take the path that calls their submodules.
        with evaluation(model), torch.enable_grad():
            model(blank_images(model, _BATCH, input_size, channels))
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _shape_only(output: Any) -> Any:
    """The output with its tensors on the meta device, so that a trace keeps no activations and no graph."""
    if isinstance(output, Tensor):
        return torch.empty_like(output.detach(), device="meta")
    if isinstance(output, Mapping):
        return {key: _shape_only(value) for key, value in output.items()}
    if isinstance(output, (tuple, list)):
        return [_shape_only(value) for value in output]
    return output
