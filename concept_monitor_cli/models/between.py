"""A network whose layer says something between what it says and what an earlier network said there.

    with between(earlier, later, layer, scores) as run:
        seen = run(earlier_images, later_images, classes, points)

What follows the layer belongs to the later network, and so does what goes round it. Behind the layer the
points of the way run together where the network lets them (see `interventions`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.models.gradients import replaced
from concept_monitor_cli.models.interventions import Edit, interventions
from concept_monitor_cli.models.layers import LayerInfo
from concept_monitor_cli.models.pooling import by_position
from concept_monitor_cli.models.taps import find_modules, first_tensor, tap

#: Rows with gradients that run together behind the layer.
ROWS = 256


@dataclass(frozen=True)
class OnTheWay:
    """Some points of the way from what an earlier layer said to what a later one says.

    Attributes:
        scores: `(S, B)`, of each image's class, float64.
        gradients: `(S, B, C, P)`: of these with respect to the layer's output at the point; P positions.
        change: `(B, C, P)`: later less earlier output.
    """

    scores: Tensor
    gradients: Tensor
    change: Tensor


class Between:
    """Runs the later network with what lies between its own layer and the earlier one's. Made by `between`.

    Attributes:
        together: whether copies of an image may run together behind the layer; None until it is known.
        why_not: what happened when they did.
    """

    def __init__(
        self,
        later: nn.Module,
        layer: LayerInfo,
        scores: Callable[[Any], Tensor],
        rows: int,
        before: Callable[[Tensor], Tensor],
        together: Callable[[Tensor], tuple[bool, str]],
    ) -> None:
        self._later, self._layer, self._scores, self._rows = later, layer, scores, rows
        self._before, self._may = before, together
        self._old: Tensor | None = None
        self._points: Sequence[float] = ()
        self._calls = 0
        self._leaf: Tensor | None = None
        self._change: Tensor | None = None
        self.together: bool | None = None
        self.why_not = ""

    def _hook(self, module: nn.Module, _inputs: Any, output: Any) -> Any:
        if self._old is None:
            return None  # somebody calls the network past this
        self._calls += 1
        if self._calls != self._layer.calls:
            return None
        tensor = first_tensor(output, module, self._layer.name)
        new, old = tensor.detach(), self._old
        if new.shape != old.shape:
            raise InputError(
                f"{self._layer.name} puts out {_size(old)} at one epoch and {_size(new)} at the other",
                where=self._layer.name,
                hint="changes of units can only be asked of layers of one size (--epochs for others)",
            )
        self._change = new - old
        axis = 1 if self._layer.layout.batch_second else 0
        mixed = torch.cat([old + point * self._change for point in self._points], axis)
        self._leaf = mixed.requires_grad_()
        # The next layer may work in place.
        return replaced(output, tensor, self._leaf.clone())

    def __call__(
        self, earlier_images: Tensor, later_images: Tensor, classes: Tensor, points: Sequence[float]
    ) -> OnTheWay:
        """The scores, and their gradients at the layer, at some points of the way.

        Args:
            earlier_images: `(B, ...)`, as the earlier network wants them.
            later_images: the same images, as the later one does.
            classes: `(B,)` int64, the class whose score is meant.
            points: `S` numbers: 0 is the earlier layer, 1 the later one.

        Raises:
            InputError: the layer changes no score, or has another size at the two epochs.
            RuntimeError: the network fails with one point at a time.
        """
        if self.together is None:
            self.together, self.why_not = self._may(later_images)
        count = len(later_images)
        step = max(1, self._rows // max(2, count)) if self.together else 1
        # One image alone would be added to its copies by broadcasting, without an error.
        twice = count == 1 and step > 1
        if twice:
            earlier_images, later_images, classes = (
                torch.cat([each, each]) for each in (earlier_images, later_images, classes)
            )
        old = self._before(earlier_images)
        parts = [
            self._pass(old, later_images, classes, points[start : start + step])
            for start in range(0, len(points), step)
        ]
        assert self._change is not None
        change = by_position(self._change, self._layer.layout)
        self._change = None
        return OnTheWay(
            torch.cat([scores for scores, _ in parts])[:, :count],
            torch.cat([slopes for _, slopes in parts])[:, :count],
            change[:count],
        )

    def _pass(
        self, old: Tensor, images: Tensor, classes: Tensor, points: Sequence[float]
    ) -> tuple[Tensor, Tensor]:
        self._old, self._points, self._calls, self._leaf = old, points, 0, None
        try:
            with torch.inference_mode(mode=False), torch.enable_grad():
                scores = self._scores(self._later(images.clone()))
                if len(scores) != len(images) * len(points):
                    raise RuntimeError(
                        f"{len(scores)} rows come out where {len(images) * len(points)} were put in"
                    )
                leaf = self._leaf
                assert leaf is not None
                own = scores.gather(1, classes.repeat(len(points))[:, None])[:, 0]
                (slope,) = (
                    torch.autograd.grad(own.sum(), leaf, allow_unused=True) if own.requires_grad else (None,)
                )
        finally:
            self._old = self._leaf = None
        if slope is None:
            raise InputError(
                f"what layer {self._layer.name!r} puts out changes no score",
                where=self._layer.name,
                hint="choose an earlier layer",
            )
        by_unit = by_position(slope, self._layer.layout)
        shape = (len(points), len(images))
        return own.detach().double().reshape(shape), by_unit.reshape(*shape, *by_unit.shape[1:])


def _copied(_name: str, output: Tensor) -> Tensor:
    return output.clone()


def _size(output: Tensor) -> str:
    return " x ".join(map(str, output.shape[1:]))


@contextmanager
def between(
    earlier: nn.Module,
    later: nn.Module,
    layer: LayerInfo,
    scores: Callable[[Any], Tensor],
    *,
    rows: int = ROWS,
) -> Iterator[Between]:
    """Two networks and a layer of both, for the length of a `with` block; all hooks are gone after it.

    Args:
        earlier, later: the networks; their mode (`eval`) is the caller's business.
        layer: which layer. One that is called several times in a pass is changed at its last call.
        scores: the scores `(B, K)` of what the later network returns.
        rows: copies that run together behind the layer.

    Yields:
        A `Between`.

    Raises:
        InputError: for a name that does not exist.
    """
    module = find_modules(later, [layer.name])[layer.name]
    needed = [(weight, weight.requires_grad) for weight in later.parameters()]
    with (
        tap(earlier, [layer.name], capture=_copied, calls={layer.name: layer.calls}) as read,
        interventions(later, layer, scores) as changed,
    ):
        run = Between(
            later,
            layer,
            scores,
            rows,
            # Tensors made in inference mode can be no part of a graph; their copies can.
            lambda images: read(images)[layer.name].clone(),
            lambda images: (changed.runs_together(images), changed.why_not),
        )
        handle = module.register_forward_hook(run._hook)
        try:
            for weight, _ in needed:
                weight.requires_grad_(False)
            yield run
        finally:
            handle.remove()
            for weight, need in needed:
                weight.requires_grad_(need)


def set_back(units: Sequence[int], earlier: Tensor) -> Edit:
    """The change that gives some units what an earlier network said there.

    Args:
        units: which.
        earlier: `(B, C, ...)`, units second: the earlier output for the images of the batch, in their order.
    """
    places = torch.tensor(list(units))

    def edit(output: Tensor) -> None:
        index = places.to(output.device)
        output[:, index] = earlier[:, index]

    return edit
