"""What the weights say of the way from one layer to a later one: a matrix from channels to channels.

Each channel is followed as its mean over positions: convolutions add up their taps, batch norm scales, blocks
add their shortcut, and a nonlinearity lets through its mean slope, for a ReLU the share of positions above 0,
each position in proportion to how active the channel is there. What a convolution carries from one position
to the next is lost, so this is an estimate; where channels are mixed by what the image shows (attention,
layer norm, gates), there is none, and that is said.

    matrix = path_matrix(trace_path(model, "layer3", "layer4"), batches)        # (D, C)
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from concept_monitor_cli.functional.circuits import conv_channels, tap_shares

_ACTIVATIONS = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.GELU,
    nn.SiLU,
    nn.ELU,
    nn.SELU,
    nn.CELU,
    nn.Hardswish,
    nn.Hardtanh,
    nn.Mish,
    nn.Softplus,
    nn.Sigmoid,
    nn.Tanh,
)
_ACTIVATION_NAMES = frozenset(
    ("relu", "relu_", "relu6", "leaky_relu", "gelu", "silu", "elu", "hardswish", "mish", "sigmoid", "tanh")
)
# What leaves the mean of every channel as it is; of a maximum that is so only for a uniform change.
_SAME_MODULES = (
    nn.Identity,
    nn.Dropout,
    nn.Dropout2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.MaxPool2d,
    nn.AdaptiveMaxPool2d,
)
_SAME_NAMES = frozenset(
    ("contiguous", "clone", "dropout", "stochastic_depth", "avg_pool2d", "adaptive_avg_pool2d", "max_pool2d")
)
_ADDITIONS = (operator.add, operator.iadd, torch.add)
_ADDITION_NAMES = frozenset(("add", "add_"))


class NoPathError(Exception):
    """The way between two layers is not one that channels' means can be followed on; says why."""


@dataclass(frozen=True)
class ChannelPath:
    """The way from a layer to a later one, step by step.

    Attributes:
        graph: the network as far as the second layer, to be run.
        first, second: where the layers' outputs are in it.
        between: the steps that depend on the first layer, in order, the second layer's last.
    """

    graph: fx.GraphModule
    first: fx.Node
    second: fx.Node
    between: tuple[fx.Node, ...]

    def nonlinear(self) -> list[fx.Node]:
        """The steps whose slope depends on what they get."""
        return [node for node in self.between if _slope_of(self.graph, node) is not None]

    def matrix(self, slopes: dict[str, Tensor], shapes: dict[str, tuple[int, ...]]) -> Tensor:
        """From the channels of the first layer to those of the second, `(D, C)` float64.

        Args:
            slopes: of each nonlinear step, `(channels, C)`: its mean slope for each channel of the first
                layer.
            shapes: of what each step puts out.

        Raises:
            NoPathError: a step mixes channels by what the image shows.
        """
        channels = shapes[self.first.name][1]
        found: dict[str, Tensor] = {self.first.name: torch.eye(channels, dtype=torch.float64)}
        for node in self.between:
            found[node.name] = self._step(node, found, slopes, shapes)
        return found[self.second.name]

    def _step(
        self,
        node: fx.Node,
        found: dict[str, Tensor],
        slopes: dict[str, Tensor],
        shapes: dict[str, tuple[int, ...]],
    ) -> Tensor:
        inputs = [each for each in node.all_input_nodes if each.name in found]
        one = found[inputs[0].name]
        if node.name in slopes:
            return slopes[node.name] * one
        if node.op == "call_module":
            assert isinstance(node.target, str)
            return _through_module(
                self.graph.get_submodule(node.target),
                node.target,
                one,
                shapes[inputs[0].name],
                shapes[node.name],
            )
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        if node.target in _ADDITIONS or (node.op == "call_method" and name in _ADDITION_NAMES):
            if set(node.kwargs) - {"input", "other"}:
                raise NoPathError("an addition with a factor")
            terms = [each for each in (*node.args, *node.kwargs.values()) if isinstance(each, fx.Node)]
            parts = [found[each.name] for each in terms if each.name in found]
            return torch.stack(parts).sum(0)
        if name in _SAME_NAMES:
            return one
        if name == "mean":
            return one
        if name == "flatten" and _positions(shapes[inputs[0].name]) == 1:
            return one
        if node.target is operator.getitem and _only_positions(node.args[1]):
            return one
        if node.target is F.pad:
            return _padded(one, node)
        if name in ("cat", "concat") and node.kwargs.get("dim", (*node.args, None, None)[1]) == 1:
            return self._side_by_side(node, found, shapes)
        raise NoPathError(f"{name or node.op} mixes channels, or depends on what the image shows")

    def _side_by_side(
        self, node: fx.Node, found: dict[str, Tensor], shapes: dict[str, tuple[int, ...]]
    ) -> Tensor:
        width = shapes[self.first.name][1]
        parts = node.args[0]
        assert isinstance(parts, (list, tuple))
        rows = []
        for each in parts:
            assert isinstance(each, fx.Node)
            own = found.get(each.name)
            empty = torch.zeros(shapes[each.name][1], width, dtype=torch.float64)
            rows.append(empty if own is None else own)
        return torch.cat(rows)


def _positions(shape: tuple[int, ...]) -> int:
    count = 1
    for length in shape[2:]:
        count *= length
    return count


def _only_positions(index: Any) -> bool:
    """Whether an index leaves images and channels as they are."""
    return (
        isinstance(index, tuple)
        and len(index) > 2
        and all(each == slice(None, None, None) for each in index[:2])
        and all(isinstance(each, slice) for each in index)
    )


def _padded(one: Tensor, node: fx.Node) -> Tensor:
    """Zeros around positions, or around channels."""
    pads = node.args[1] if len(node.args) > 1 else node.kwargs.get("pad")
    if not isinstance(pads, (list, tuple)) or not all(isinstance(each, int) for each in pads):
        raise NoPathError("padding of an unknown size")
    before, after = pads[4:6] if len(pads) >= 6 else (0, 0)
    assert isinstance(before, int)
    assert isinstance(after, int)
    blank = one.new_zeros
    return torch.cat([blank(before, one.shape[1]), one, blank(after, one.shape[1])])


def _through_module(
    module: nn.Module, name: str, one: Tensor, shape: tuple[int, ...], out: tuple[int, ...]
) -> Tensor:
    if isinstance(module, nn.Conv2d):
        return _conv(module, shape, out) @ one
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        if module.running_var is None:
            raise NoPathError(f"{name} normalises by each batch")
        scale = (module.running_var.detach().double().cpu() + module.eps).rsqrt()
        gamma = 1.0 if module.weight is None else module.weight.detach().double().cpu()
        return (gamma * scale)[:, None] * one
    if isinstance(module, nn.Linear):
        if len(shape) > 2:
            raise NoPathError(f"{name} ({type(module).__name__}) works on the last axis of a map")
        return module.weight.detach().double().cpu() @ one
    if isinstance(module, nn.Flatten) and _positions(shape) == 1:
        return one
    if isinstance(module, _SAME_MODULES):
        return one
    raise NoPathError(f"{name} ({type(module).__name__}) mixes channels, or depends on what the image shows")


def _conv(module: nn.Conv2d, shape: tuple[int, ...], out: tuple[int, ...]) -> Tensor:
    shares = []
    for axis in range(2):
        kernel, stride, dilation = (
            int(each[axis]) for each in (module.kernel_size, module.stride, module.dilation)
        )
        if isinstance(module.padding, str):
            padding = dilation * (kernel - 1) // 2 if module.padding == "same" else 0
        else:
            padding = int(module.padding[axis])
        size = shape[2 + axis]
        own = tap_shares(size, out[2 + axis], kernel, stride=stride, padding=padding, dilation=dilation)
        shares.append(own if module.padding_mode == "zeros" else own * 0 + 1)
    return conv_channels(module.weight, shares, module.groups)


# -- the way -------------------------------------------------------------------------------------------------


class _Tracer(fx.Tracer):
    """Notes where the output of every module is in the graph; of one that is called again the last."""

    def __init__(self) -> None:
        super().__init__()
        self.put_out: dict[str, fx.Node] = {}

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        result = super().call_module(m, forward, args, kwargs)
        if isinstance(result, fx.Proxy):
            self.put_out[self.path_of_module(m)] = result.node
        return result


def network_graph(model: nn.Module) -> tuple[fx.Graph, dict[str, fx.Node]]:
    """A network's code as a graph, and where in it the output of every module is.

    Raises:
        NoPathError: it cannot be followed.
    """
    tracer = _Tracer()
    try:
        graph = tracer.trace(model)
    except Exception as error:  # whatever a network's own code makes of a symbol
        reason = str(error).partition("\n")[0]
        raise NoPathError(f"the network's code cannot be followed ({reason})") from error
    return graph, tracer.put_out


def trace_path(model: nn.Module, first: str, second: str) -> ChannelPath:
    """The way from the output of a layer to that of a later one.

    Args:
        model: the network, in evaluation mode.
        first, second: names as in `model.named_modules()`.

    Raises:
        NoPathError: the network cannot be traced, or the one layer does not lead to the other.
    """
    graph, put_out = network_graph(model)
    for name in (first, second):
        if name not in put_out:
            raise NoPathError(f"{name} puts out no single tensor when the network's code is followed")
    cut = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    last = put_out[second]
    for node in graph.nodes:
        copied[node] = cut.node_copy(node, copied.__getitem__)
        if node is last:
            break
    start, end = copied.get(put_out[first]), copied[last]
    if start is None or start is end:
        raise NoPathError(f"{first} does not lead to {second}")
    cut.output(end)
    depends = {start}
    between = []
    for node in copied.values():
        if node is not start and any(each in depends for each in node.all_input_nodes):
            depends.add(node)
            between.append(node)
    if end not in depends:
        raise NoPathError(f"{first} does not lead to {second}")
    leads = {end}
    for node in reversed(between):
        if node in leads:
            leads.update(node.all_input_nodes)
    return ChannelPath(
        fx.GraphModule(model, cut), start, end, tuple(node for node in between if node in leads)
    )


def _slope_of(graph: fx.GraphModule, node: fx.Node) -> Callable[[Tensor], Tensor] | None:
    """The function of a nonlinear step, not in place."""
    if node.op == "call_module":
        assert isinstance(node.target, str)
        module = graph.get_submodule(node.target)
        if not isinstance(module, _ACTIVATIONS):
            return None
        return module
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if name not in _ACTIVATION_NAMES:
        return None
    kwargs = {key: value for key, value in node.kwargs.items() if key not in ("inplace", "input")}
    rest = [each for each in node.args[1:] if not isinstance(each, bool)]
    plain = getattr(F, name.rstrip("_"), None) or getattr(torch, name)
    return lambda x: plain(x, *rest, **kwargs)


class _Watch(fx.Interpreter):
    """Runs the network, and adds up the slopes of the nonlinear steps."""

    def __init__(self, path: ChannelPath) -> None:
        super().__init__(path.graph)
        self._slopes = {node: _slope_of(path.graph, node) for node in path.nonlinear()}
        self._first = path.first
        self._active = torch.zeros(0)  # (B, C, ...)
        self._sums: dict[str, Tensor] = {}
        self._totals: dict[str, Tensor] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        function = self._slopes.get(n)
        if function is not None:
            self._add(n.name, function, self.env[n.all_input_nodes[0]])
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.shapes[n.name] = tuple(result.shape)
        if n is self._first:
            self._active = result.detach().abs().float()
        return result

    def _add(self, name: str, function: Callable[[Tensor], Tensor], given: Tensor) -> None:
        with torch.enable_grad():
            x = given.detach().clone().requires_grad_()
            # A copy, since a module that works in place may not do so on a leaf.
            (slope,) = torch.autograd.grad(function(x.clone()).sum(), x)
        active = _on_grid(self._active, slope)
        own = slope.float().flatten(2) if slope.ndim > 2 else slope.float()[:, :, None]
        summed = torch.einsum("bmp,bcp->mc", own, active)
        self._sums[name] = summed.double() + self._sums.get(name, 0.0)
        self._totals[name] = active.sum((0, 2)).double() + self._totals.get(name, 0.0)

    def slopes(self) -> dict[str, Tensor]:
        # A channel that is silent on all images adds nothing, whatever its slope.
        return {
            name: (total / self._totals[name]).nan_to_num(0.0).cpu() for name, total in self._sums.items()
        }


def _on_grid(active: Tensor, slope: Tensor) -> Tensor:
    """A layer's maps `(B, C, ...)` on the grid of another's, `(B, C, positions)`: means over each place."""
    maps = active if active.ndim > 2 else active[:, :, None]
    size = slope.shape[2:]
    if maps.shape[2:] == size:
        return maps.flatten(2)
    if maps.ndim == 4 and len(size) == 2:
        return F.adaptive_avg_pool2d(maps, (int(size[0]), int(size[1]))).flatten(2)
    return maps.flatten(2).mean(2, keepdim=True).expand(-1, -1, max(1, math.prod(size)))


def path_matrix(path: ChannelPath, batches: Iterable[Tensor]) -> Tensor:
    """From the channels of the first layer to those of the second, `(D, C)` float64.

    Args:
        path: the way.
        batches: images, as the network wants them; over these each nonlinear step has its mean slope,
            positions counted by how active the channel of the first layer is there.

    Raises:
        NoPathError: a step mixes channels by what the image shows; said after the first batch.
    """
    watch = _Watch(path)
    matrix = None
    for images in batches:
        with torch.no_grad():
            watch.run(images)
        if matrix is None:
            matrix = path.matrix(watch.slopes(), watch.shapes)
    if matrix is None:
        raise NoPathError("there are no images")
    return path.matrix(watch.slopes(), watch.shapes)
