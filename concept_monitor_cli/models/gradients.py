"""Reading what a layer puts out inside the autograd graph, so that gradients can be taken at it.

    with gradient_tap(model, ["layer4"]) as run:
        seen = run(images)              # its result (B, classes) and outputs {"layer4": (B, C, h, w)}
        slopes = gradients(seen.result[:, 3], seen.outputs)     # {"layer4": (B, C, h, w)}

The weights take no part: they need no gradient inside the `with` block and are as before after it. The
sibling of `taps.tap`, which reads without a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.models.layers import LayerInfo
from concept_monitor_cli.models.taps import Calls, Stop, find_modules, first_tensor


@dataclass(frozen=True)
class InGraph:
    """One pass with gradients.

    Attributes:
        result: what the network returned; None where the pass ended after the last tapped layer.
        outputs: layer -> what it put out, in the graph that leads from the inputs to the result.
    """

    result: Any
    outputs: dict[str, Tensor]


def replaced(output: Any, old: Tensor, new: Tensor) -> Any:
    """An output with one of its tensors replaced wherever it stands; its structure keeps its type."""
    if output is old:
        return new
    if isinstance(output, Mapping):
        changed = {key: replaced(value, old, new) for key, value in output.items()}
        # transformers' ModelOutput takes its entries by name and leaves out those that are None.
        return changed if type(output) is dict else type(output)(**changed)
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return type(output)(*(replaced(value, old, new) for value in output))
    if isinstance(output, (tuple, list)):
        return type(output)(replaced(value, old, new) for value in output)
    return output


class GradientTap:
    """Runs a network with gradients and returns what its tapped layers put out. Made by `gradient_tap`."""

    def __init__(
        self,
        model: nn.Module,
        modules: Mapping[str, nn.Module],
        calls: Mapping[str, int] | None,
        early_stop: bool,
    ) -> None:
        self._model = model
        self._modules = dict(modules)
        self._running = False
        self._calls = Calls(list(modules), calls, early_stop)
        self._kept: dict[str, Tensor] = {}

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Any], Any]:
        def hook(module: nn.Module, _inputs: Any, output: Any) -> Any:
            if not self._running:
                return None  # somebody calls the network or a part of it past the tap
            if not self._calls.is_last(name):
                return None
            tensor = first_tensor(output, module, name)
            # With frozen weights nothing before the first tapped layer has a gradient, unless the images do.
            kept = tensor if tensor.requires_grad else tensor.detach().requires_grad_()
            self._kept[name] = kept
            self._calls.stop_if_done()
            # The next layer may work in place (`ReLU(inplace=True)` after a batch norm) and would change what
            # was kept: it gets a copy.
            return replaced(output, tensor, kept.clone())

        return hook

    def __call__(self, *inputs: Any) -> InGraph:
        """One forward pass with gradients.

        Args:
            inputs: the network's own. Gradients reach them where they need one (`images.requires_grad_()`).

        Returns:
            The network's result and the outputs of the layers, in the order of the names given.

        Raises:
            InputError: where a tapped layer takes no part in the forward pass, or its output is unclear.
        """
        self._kept = {}
        self._calls.begin()
        self._running = True
        result = None
        try:
            with torch.inference_mode(mode=False), torch.enable_grad():
                # Tensors made in inference mode can be no part of a graph; their copies can.
                ready = [each.clone() if _made_in_inference(each) else each for each in inputs]
                result = self._model(*ready)
        except Stop:
            pass
        else:
            self._calls.learn()
        finally:
            self._running = False
            kept, self._kept = self._kept, {}
        return InGraph(result, {name: kept[name] for name in self._modules})


def _made_in_inference(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_inference()


@contextmanager
def gradient_tap(
    model: nn.Module,
    names: Sequence[str] = (),
    *,
    calls: Mapping[str, int] | None = None,
    early_stop: bool = False,
) -> Iterator[GradientTap]:
    """Taps layers inside the autograd graph for the length of a `with` block.

    After it the hooks are gone and every weight needs a gradient if it did before, whatever happened. A layer
    that is called several times in one pass answers with its last call, as in `taps.tap`.

    Args:
        model: the network; its mode (`eval`) is the caller's business.
        names: layers as in `model.named_modules()`, perhaps with the key of a tensor (`layer:0`); a repeated
            one counts once. Without any, only the result is of interest.
        calls: how often each layer is called in one forward pass, where known (`LayerInfo.calls`): with
            `early_stop` the first pass stops early too.
        early_stop: end the pass after the last tapped layer; the first pass runs to its end unless `calls` is
            known.

    Yields:
        A function of the network's inputs that returns an `InGraph`.

    Raises:
        InputError: for a name that does not exist.
    """
    modules = find_modules(model, list(dict.fromkeys(names)))
    run = GradientTap(model, modules, calls, early_stop and bool(modules))
    needed = [(weight, weight.requires_grad) for weight in model.parameters()]
    handles = []
    try:
        for weight, _ in needed:
            weight.requires_grad_(False)
        for name, module in modules.items():
            handles.append(module.register_forward_hook(run._hook(name)))
        yield run
    finally:
        for handle in handles:
            handle.remove()
        for weight, need in needed:
            weight.requires_grad_(need)


def gradients(of: Tensor, outputs: Mapping[str, Tensor], *, keep_graph: bool = False) -> dict[str, Tensor]:
    """The gradient of the sum of a tensor with respect to what layers put out.

    Args:
        of: a tensor of the graph. One number per image (B,) gives each image its own gradient, since images
            do not mix in evaluation mode.
        outputs: layer -> its output in the graph (`InGraph.outputs`).
        keep_graph: the graph is needed again.

    Returns:
        layer -> `d sum(of) / d output`, shaped as the output; without a graph.

    Raises:
        InputError: where the tensor has no graph, or a gradient is zero everywhere: the layer does not reach
            it.
    """
    if not of.requires_grad:
        raise InputError(
            "the network's output has no gradient",
            hint="a part of the network works under torch.no_grad, or its result was reduced under it",
        )
    with torch.inference_mode(mode=False):
        found = torch.autograd.grad(
            of,
            list(outputs.values()),
            grad_outputs=torch.ones_like(of),
            retain_graph=keep_graph,
            allow_unused=True,
        )
    slopes = {}
    for name, slope in zip(outputs, found, strict=True):
        if slope is None or not bool((slope != 0).any()):
            raise InputError(
                f"what layer {name!r} puts out does not change this output: its gradient is zero everywhere",
                where=name,
                hint="choose an earlier layer (patch tokens after the last block of a ViT that reads its "
                "class token do not reach the output, nor what stands before a silent ReLU)",
            )
        slopes[name] = slope
    return slopes


# In the names of modules that scale what they read of an image by its own spread.
_OF_IMAGES = ("layernorm", "rmsnorm", "groupnorm", "instancenorm")


def normalises_images(model: nn.Module) -> bool:
    """Whether a network normalises single images, as transformers and ConvNeXt do: layer, group or RMS norm.

    What follows such a norm hardly knows how large its input is: `y(t A)` is nearly the same for all `t` that
    are not very small.
    """
    kinds = {cls.__name__.lower() for module in model.modules() for cls in type(module).__mro__}
    return any(part in kind for kind in kinds for part in _OF_IMAGES)


@contextmanager
def scaled(model: nn.Module, layer: LayerInfo, shares: Sequence[float]) -> Iterator[None]:
    """Multiplies what a layer puts out, for the length of a `with` block: `t A` instead of `A`.

    What a skip path brings round the layer stays as it is. A tap opened inside the block sees the scaled
    output.

    Args:
        model: the network.
        layer: of several calls in one pass the last one is scaled.
        shares: a factor for each image of the batch.
    """
    module = find_modules(model, [layer.name])[layer.name]
    calls = 0

    def hook(module: nn.Module, _inputs: Any, output: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls % layer.calls:
            return None
        tensor = first_tensor(output, module, layer.name)
        shape = [1] * tensor.ndim
        shape[1 if layer.layout.batch_second else 0] = len(shares)
        factors = torch.tensor(shares, dtype=tensor.dtype, device=tensor.device).reshape(shape)
        return replaced(output, tensor, tensor * factors)

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
