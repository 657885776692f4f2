"""What the layers of batch normalisation see, beside what they remember of the training.

with input_moments(model, layers) as read:
    for moments in read(images):         # one `Moments` per layer, in the order of the forward pass
        ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@dataclass(frozen=True)
class RunningLayer:
    """A layer of batch normalisation with running statistics.

    Attributes:
        name: in the network.
        module: the layer.
        mean: `(C,)` float64 on the CPU, the running mean.
        variance: `(C,)` float64 on the CPU, the running variance.
        eps: that the layer adds to a variance.
    """

    name: str
    module: nn.Module
    mean: Tensor
    variance: Tensor
    eps: float

    @property
    def trained(self) -> bool:
        """Whether the statistics are other than those of a new layer."""
        return bool((self.mean != 0).any() or (self.variance != 1).any())


@dataclass(frozen=True)
class Moments:
    """The input of a layer, per image and channel: `(B, C)` float64 each, on the CPU.

    Attributes:
        layer: the layer.
        means: over the positions.
        squares: means of the squares over the positions.
    """

    layer: RunningLayer
    means: Tensor
    squares: Tensor

    def before(self, other: Moments) -> Moments:
        """These images, and after them others of the same layer."""
        return Moments(
            self.layer, torch.cat([self.means, other.means]), torch.cat([self.squares, other.squares])
        )

    def of_first(self, images: int) -> Moments:
        """Of the first images only."""
        return Moments(self.layer, self.means[:images], self.squares[:images])


def running_layers(model: nn.Module) -> list[RunningLayer]:
    """The layers of batch normalisation that remember the training, in the order of the modules.

    That is torch's `BatchNorm1d`, `2d`, `3d` and `SyncBatchNorm`, what libraries derive from them (timm's
    `BatchNormAct2d`), and frozen ones (`FrozenBatchNorm2d` of torchvision and timm, which derive from nothing
    of the kind). Layers without running statistics, and those whose statistics the checkpoint lacks or that
    are no numbers, are left out.
    """
    layers = []
    for name, module in model.named_modules():
        if not isinstance(module, _BatchNorm) and "BatchNorm" not in type(module).__name__:
            continue
        mean, variance = getattr(module, "running_mean", None), getattr(module, "running_var", None)
        if not isinstance(mean, Tensor) or not isinstance(variance, Tensor) or mean.is_meta:
            continue
        mean, variance = mean.detach().cpu().double(), variance.detach().cpu().double()
        if bool(mean.isfinite().all()) and bool((variance.isfinite() & (variance >= 0)).all()):
            layers.append(RunningLayer(name, module, mean, variance, float(getattr(module, "eps", 1e-5))))
    return layers


class _Stop(BaseException):
    """Ends a forward pass early; no `Exception`, so that a network's own `except Exception` lets it by."""


@contextmanager
def input_moments(
    model: nn.Module,
    layers: Sequence[RunningLayer],
    *,
    first: int | None = None,
    matched: bool = False,
) -> Iterator[Callable[[Tensor], list[Moments]]]:
    """Reads the inputs of layers for the length of a `with` block; the hooks are gone after it in any case.

    A layer that is called several times in a forward pass counts once, with the average over its calls. A
    layer that takes no part in it is left out.

    Args:
        model: the network, in evaluation mode.
        layers: of `running_layers`.
        first: end the forward pass once so many of the layers were called.
        matched: once a layer's input is read, its channels get the running mean and variance over the batch.
            What comes after the layer then sees what it saw in the training, as far as the means and
            variances of channels go, and what is read next depends less on how other the images are.

    Yields:
        A function of the normalised images `(B, 3, S, S)` that runs the network in inference mode and returns
        the moments of each layer in the order of their first call.
    """
    seen: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def hook(number: int) -> Callable[[nn.Module, Any], None]:
        def read(_module: nn.Module, inputs: Any) -> Any:
            # Ends before a further layer is read, so that the last one asked for has all of its calls so far.
            if first is not None and number not in seen and len(seen) >= first:
                raise _Stop
            moments = _moments(inputs[0])
            seen.setdefault(number, []).append(moments)
            return (_matched(inputs[0], moments, layers[number]), *inputs[1:]) if matched else None

        return read

    def run(images: Tensor) -> list[Moments]:
        seen.clear()
        try:
            with torch.inference_mode():
                model(images)
        except _Stop:
            pass
        if not seen:
            return []
        # Brought to the host in one piece, and not in the middle of the pass.
        on_device = [each for calls in seen.values() for pair in calls for each in pair]
        flat = torch.cat([each.flatten() for each in on_device]).cpu().double()
        parts = iter(torch.split(flat, [each.numel() for each in on_device]))
        found = []
        for number, calls in seen.items():
            pairs = [[next(parts).view(each.shape) for each in pair] for pair in calls]
            means, squares = (torch.stack(each).mean(0) for each in zip(*pairs, strict=True))
            found.append(Moments(layers[number], means, squares))
        seen.clear()
        return found

    handles = []
    try:
        for number, layer in enumerate(layers):
            handles.append(layer.module.register_forward_pre_hook(hook(number)))
        yield run
    finally:
        for handle in handles:
            handle.remove()


def _moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and mean square per image and channel of `(B, C, ...)`, float32."""
    values = values.detach().float()
    if values.ndim == 2:
        values = values[..., None]
    over = tuple(range(2, values.ndim))  # no flattening: channels-last memory would be copied for it
    positions = values[0, 0].numel()
    squares = torch.linalg.vector_norm(values, dim=over).square() / positions
    return values.mean(over), squares


def _matched(values: Tensor, moments: tuple[Tensor, Tensor], layer: RunningLayer) -> Tensor:
    """The values `(B, C, ...)` with a layer's running mean and variance in each channel, over the batch.

    Args:
        values: the layer's input.
        moments: of `_moments`.
        layer: the layer.
    """
    # MPS has no float64.
    means, squares = ((each.cpu() if each.device.type == "mps" else each).double() for each in moments)
    mean = means.mean(0)
    variance = (squares.mean(0) - mean.square()).clamp_min(0)
    scale = ((layer.variance.to(mean.device) + layer.eps) / (variance + layer.eps)).sqrt()
    shift = layer.mean.to(mean.device) - mean * scale
    shape = (1, -1) + (1,) * (values.ndim - 2)
    return values * scale.to(values).view(shape) + shift.to(values).view(shape)
