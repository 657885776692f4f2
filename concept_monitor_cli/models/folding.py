"""Writing an ablation into the weights: the parameters that make a unit put out one number for every image.

    constant_units(model, "layer4", [3, 17], [0.0, 0.0])

What makes the layer's output is followed backwards: through a ReLU, to every term of a residual sum, to the
norm or convolution at the end of each, whose scale becomes 0 and whose shift the number wanted.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from concept_monitor_cli.models.channel_paths import NoPathError, network_graph

# f(0) = 0, and what they do elsewhere does not matter for a unit at 0.
_ZERO_TO_ZERO = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.ELU, nn.Tanh, nn.Hardswish, nn.Mish)
_ZERO_NAMES = frozenset(("relu", "relu_", "gelu", "silu", "tanh", "leaky_relu", "elu", "hardswish"))
_SAME = (nn.Identity, nn.Dropout, nn.Dropout2d)
_SUMS = (operator.add, operator.iadd, torch.add)


@torch.no_grad()
def constant_units(model: nn.Module, layer: str, units: Sequence[int], values: Sequence[float]) -> list[str]:
    """Change a network's weights in place so that some units always put out one number.

    Args:
        model: the network, in evaluation mode.
        layer: whose units.
        units: which.
        values: what each puts out, everywhere.

    Returns:
        the names of the parameters that were changed.

    Raises:
        NoPathError: no parameter makes these units constant; says what stands in the way. Nothing is changed.
    """
    graph, put_out = network_graph(model)
    if layer not in put_out:
        raise NoPathError(f"{layer} puts out no single tensor when the network's code is followed")
    plan: list[tuple[str, Tensor]] = []
    _follow(model, graph, put_out[layer], torch.tensor(list(values), dtype=torch.float64), plan, whole=False)
    index = torch.tensor(list(units))
    changed = []
    for name, wanted in plan:
        module = model.get_submodule(name)
        weight, bias = module.weight, module.bias
        assert isinstance(weight, Tensor)
        weight[index.to(weight.device)] = 0
        changed.append(f"{name}.weight")
        if isinstance(bias, Tensor):
            bias[index.to(bias.device)] = wanted.to(bias)
            changed.append(f"{name}.bias")
    return changed


def _follow(
    model: nn.Module,
    graph: fx.Graph,
    node: fx.Node,
    values: Tensor,
    plan: list[tuple[str, Tensor]],
    *,
    whole: bool,
) -> None:
    """Find the parameters behind a step; `whole`: what it puts out may go to no other step."""
    if whole and len(node.users) > 1:
        raise NoPathError(f"what {node.target} puts out goes on by another way as well")
    before = node.all_input_nodes
    if node.op == "call_module":
        assert isinstance(node.target, str)
        module = model.get_submodule(node.target)
        if isinstance(module, _SAME):
            return _follow(model, graph, before[0], values, plan, whole=True)
        if isinstance(module, _ZERO_TO_ZERO):
            _check_passes(isinstance(module, nn.ReLU), values, node.target)
            return _follow(model, graph, before[0], values, plan, whole=True)
        if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.Conv2d, nn.Linear)):
            if sum(each.target == node.target for each in graph.nodes if each.op == "call_module") > 1:
                raise NoPathError(f"{node.target} is used several times")
            if not isinstance(module.weight, Tensor):
                raise NoPathError(f"{node.target} has no scale that could be set to 0")
            if not isinstance(module.bias, Tensor) and bool((values != 0).any()):
                raise NoPathError(f"{node.target} has no bias that could carry a mean")
            plan.append((node.target, values))
            return None
        raise NoPathError(f"{node.target} ({type(module).__name__}) cannot be told to put out one number")
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if node.target in _SUMS or (node.op == "call_method" and name in ("add", "add_")):
        if len(before) != 2:
            raise NoPathError("a sum with something that is no output of a layer")
        _follow(model, graph, before[0], values, plan, whole=True)
        return _follow(model, graph, before[1], torch.zeros_like(values), plan, whole=True)
    if name in _ZERO_NAMES:
        _check_passes(name.startswith("relu"), values, name)
        return _follow(model, graph, before[0], values, plan, whole=True)
    raise NoPathError(f"{name or node.op} cannot be told to put out one number")


def _check_passes(is_relu: bool, values: Tensor, name: Any) -> None:
    """A ReLU lets a positive number through; other functions are only sure of 0."""
    wrong = (values < 0).any() if is_relu else (values != 0).any()
    if bool(wrong):
        raise NoPathError(f"{name} changes the number that a unit would be set to")
