"""What a layer says of pictures that are being made: its units, inside the autograd graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from concept_monitor_cli.bases import Basis
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.models.geometry import Preprocessing
from concept_monitor_cli.models.gradients import GradientTap, gradient_tap
from concept_monitor_cli.models.layers import LayerInfo, evaluation
from concept_monitor_cli.models.normalise import ImageNormaliser
from concept_monitor_cli.models.pooling import Pooling, batch_first, pool, resolve_pooling, spatial_maps


class Sight:
    """A layer of a network that is shown pictures. Made by `looking`.

    Args:
        run: the tapped network.
        layer: with its channels.
        basis: what counts as a unit; `None` for the channels.
        pooling: of the run.
        shown: from images in [0, 1] to what the network is shown.
    """

    def __init__(
        self,
        run: GradientTap,
        layer: LayerInfo,
        basis: Basis | None,
        pooling: Pooling,
        shown: ImageNormaliser,
    ) -> None:
        self._run, self._layer, self._basis = run, layer, basis
        self._pooling, self._how = pooling, resolve_pooling(layer.layout, pooling)[0]
        self._shown = shown
        self._directions = None if basis is None else torch.from_numpy(basis.matrix).to(shown.mean.device)

    def _output(self, images: Tensor) -> Tensor:
        return self._run(self._shown(images)).outputs[self._layer.name]

    def _linear(self, values: Tensor, axis: int) -> Tensor:
        """The channels, or how far they point in the direction of each member."""
        if self._directions is None:
            return values
        return torch.movedim(torch.movedim(values, axis, -1) @ self._directions, -1, axis)

    @property
    def _maximum(self) -> bool:
        """Whether a member's pooled value is the maximum of its map, which channels do not tell."""
        return self._basis is not None and self._how == "max" and self._layer.map_size not in (None, (1, 1))

    def pooled(self, images: Tensor) -> Tensor:
        """What is climbed: one number for each picture and unit, as the run pools them.

        Of a basis it is `a . d` for the member's column d, without bias and rectification: with a mean over
        positions the mean of `a . d`.

        Args:
            images: `(B, channels, s, s)` in [0, 1].

        Returns:
            `(B, R)`, in the graph.
        """
        return self._pooled(self._output(images))

    def _pooled(self, output: Tensor) -> Tensor:
        if self._maximum:
            return self._linear(self._maps(output), 1).amax((2, 3))
        return self._linear(pool(output, self._layer.layout, self._pooling), 1)

    def maps(self, images: Tensor) -> Tensor:
        """The activation map of each unit, `(B, R, h, w)`, in the graph.

        Raises:
            InputError: the layer has none.
        """
        return self._linear(self.channels(images), 1)

    def channels(self, images: Tensor) -> Tensor:
        """The activation map of each channel, whatever counts as a unit, `(B, C, h, w)`, in the graph.

        Raises:
            InputError: the layer has none.
        """
        return self._maps(self._output(images))

    def pooled_and_channels(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """`pooled` and `channels` of one forward pass."""
        output = self._output(images)
        return self._pooled(output), self._maps(output)

    def _maps(self, output: Tensor) -> Tensor:
        if self._layer.layout.kind == "channels-first":  # at any size of the picture
            return batch_first(output, self._layer.layout).float()
        return spatial_maps(output, self._layer.layout)

    def activations(self, images: Tensor) -> Tensor:
        """The units' activations as a recording has them, `(B, R)` float32, without a graph."""
        with torch.no_grad():
            output = self._output(images).detach()
            pooled = pool(output, self._layer.layout, self._pooling)
            if self._basis is None:
                return pooled
            spatial = self._layer.map_size not in (None, (1, 1))
            if not spatial or self._how == "cls" or (self._basis.encoding == "linear" and not self._maximum):
                return self._basis.encode(pooled)
            own = self._basis.encode(self._maps(output).movedim(1, -1)).movedim(-1, 1)
            return own.amax((2, 3)) if self._maximum else own.mean((2, 3))


@contextmanager
def looking(
    model: nn.Module,
    layer: LayerInfo,
    preprocessing: Preprocessing,
    *,
    basis: Basis | None = None,
    pooling: Pooling = "auto",
    device: torch.device | str = "cpu",
) -> Iterator[Sight]:
    """Shows a layer pictures for the length of a `with` block; the network is as before after it.

    Args:
        model: the network, with its weights; moved to `device`.
        layer: with its channels.
        preprocessing: mean, standard deviation, order of colours.
        basis: what counts as a unit; `None` for the channels.
        pooling: of the run.
        device: where the network runs.
    """
    model.to(device)
    shown = ImageNormaliser(preprocessing, layer.channels, device)
    calls = {layer.name: layer.calls}
    with evaluation(model), gradient_tap(model, [layer.name], calls=calls, early_stop=True) as run:
        yield Sight(run, layer, basis, pooling, shown)


def usable_side(model: nn.Module, channels: int, sides: Sequence[int], device: torch.device | str) -> int:
    """The first of some sides of a picture that a network takes.

    Args:
        model: the network.
        channels: of its images.
        sides: pixels, the preferred one first.
        device: where it runs.

    Raises:
        InputError: none of them.
    """
    failure: Exception | None = None
    model.to(device)
    for side in dict.fromkeys(sides):
        try:
            with evaluation(model), torch.no_grad():
                model(torch.zeros(1, channels, side, side, device=device))
            return side
        except (RuntimeError, ValueError, AssertionError, TypeError) as error:
            failure = failure or error
    reason = " ".join(str(failure).split())[:120]
    raise InputError(
        f"the network takes no images of {sides[0]} pixels: {reason}",
        where="--size",
        hint="many transformers take one size only: leave --size out",
    )
