"""What a network says when something is changed in a layer: many changes in one pass.

    with interventions(model, layer) as run:
        scores = run(images, edits)         # (edits, B, K)

Behind the layer, each of `B` images goes on as `U` copies with one change in each, so that what comes before
the layer is computed once. The result is that of `U` passes. A skip path round the layer brings the `B`
images, not their copies, and is noticed: the network fails, or other rows come out than went in. Then
each change gets a pass of its own, and `Interventions.together` says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from concept_monitor_cli.models.gradients import replaced
from concept_monitor_cli.models.layers import LayerInfo
from concept_monitor_cli.models.pooling import units_second
from concept_monitor_cli.models.taps import find_modules, first_tensor

#: Changes a layer's output in place: images on axis 0, units on axis 1, positions after them.
Edit = Callable[[Tensor], None]

#: Rows that run together behind the layer.
ROWS = 512
# Scores of one image in a batch of another size differ by rounding.
_SAME = 1e-3


class Interventions:
    """Runs a network with changes in one layer. Made by `interventions`.

    Attributes:
        together: whether the copies run together; None until it is known.
        why_not: what happened when they did.
    """

    def __init__(
        self,
        model: nn.Module,
        module: nn.Module,
        layer: LayerInfo,
        scores: Callable[[Any], Tensor],
        rows: int,
    ) -> None:
        self._model, self._module, self._layer = model, module, layer
        self._scores, self._rows = scores, rows
        self._edits: Sequence[Edit | None] | None = None
        self._calls = 0
        self.together: bool | None = None
        self.why_not = ""

    def _hook(self, module: nn.Module, _inputs: Any, output: Any) -> Any:
        if self._edits is None:
            return None  # somebody calls the network past this, or nothing is to be changed
        self._calls += 1
        if self._calls != self._layer.calls:
            return None
        tensor = first_tensor(output, module, self._layer.name)
        images_axis = 1 if self._layer.layout.batch_second else 0
        # The next layer may work in place, so even one changed output is a copy.
        copies = torch.cat([tensor] * len(self._edits), images_axis)
        each = tensor.shape[images_axis]
        for place, edit in enumerate(self._edits):
            if edit is not None:
                own = copies.narrow(images_axis, place * each, each)
                edit(units_second(own, self._layer.layout))
        return replaced(output, tensor, copies)

    def __call__(self, images: Tensor, edits: Sequence[Edit]) -> Tensor:
        """The scores with each of the changes.

        Args:
            images: `(B, ...)`, as the network wants them.
            edits: `U` changes. Each is called with a view `(B, C, ...)` of the layer's output, and changes it
                in place.

        Returns:
            `(U, B, K)`.

        Raises:
            RuntimeError: the network fails even with one change at a time.
        """
        with torch.inference_mode():
            if len(edits) > 1:
                self.runs_together(images)
            if not self.together:
                return torch.stack([self._pass(images, [edit])[0] for edit in edits])
            # One image alone would be added to its copies by broadcasting, without an error.
            doubled = torch.cat([images, images]) if len(images) == 1 else images
            step = max(1, self._rows // len(doubled))
            parts = [self._pass(doubled, edits[i : i + step]) for i in range(0, len(edits), step)]
            return torch.cat(parts)[:, : len(images)]

    def runs_together(self, images: Tensor) -> bool:
        """Whether copies of images may run together behind the layer; tried once.

        Args:
            images: some, as the network wants them.
        """
        if self.together is None:
            with torch.inference_mode():
                self.together = self._try(images)
        return self.together

    def _try(self, images: Tensor) -> bool:
        """Whether unchanged copies of some images come out as the images themselves do."""
        few = images[:2] if len(images) > 1 else torch.cat([images, images])
        plain = self._pass(few, [None])[0]
        try:
            copies = self._pass(few, [None, None, None])
        except RuntimeError as error:
            self.why_not = str(error).partition("\n")[0]
            return False
        scale = float(plain.abs().amax().clamp_min(1e-12))
        if float((copies - plain).abs().amax()) > _SAME * scale:
            self.why_not = "copies of an image get other scores than the image itself"
            return False
        return True

    def _pass(self, images: Tensor, edits: Sequence[Edit | None]) -> Tensor:
        self._edits, self._calls = edits, 0
        try:
            scores = self._scores(self._model(images))
        finally:
            self._edits = None
        expected = len(images) * len(edits)
        if len(scores) != expected:
            raise RuntimeError(f"{len(scores)} rows come out where {expected} were put in")
        return scores.reshape(len(edits), len(images), -1).float()


@contextmanager
def interventions(
    model: nn.Module, layer: LayerInfo, scores: Callable[[Any], Tensor], *, rows: int = ROWS
) -> Iterator[Interventions]:
    """A network whose layer can be changed, for the length of a `with` block; the hook is gone after it.

    Args:
        model: the network; its mode (`eval`) is the caller's business.
        layer: which layer. One that is called several times in a pass is changed at its last call, which is
            the one that recordings show.
        scores: the scores `(B, K)` of what the network returns.
        rows: copies that run together behind the layer.

    Yields:
        A function of images and changes.

    Raises:
        InputError: for a name that does not exist.
    """
    module = find_modules(model, [layer.name])[layer.name]
    run = Interventions(model, module, layer, scores, rows)
    handle = module.register_forward_hook(run._hook)
    try:
        yield run
    finally:
        handle.remove()


def set_units(units: Sequence[int], values: Tensor | float) -> Edit:
    """The change that gives some units a value at all positions.

    Args:
        units: which.
        values: one for all, or `(len(units),)`.
    """
    places = list(units)

    def edit(output: Tensor) -> None:
        index = torch.tensor(places, device=output.device)
        new = torch.as_tensor(values, dtype=output.dtype, device=output.device).expand(len(places))
        output[:, index] = new.view(1, -1, *[1] * (output.ndim - 2)).expand(
            len(output), len(places), *output.shape[2:]
        )

    return edit


def set_directions(directions: Tensor, values: Tensor | float) -> Edit:
    """The change that gives what is read along some directions a value, at all positions.

    Args:
        directions: `(C, r)`, orthonormal columns.
        values: one for all, or `(r,)`.
    """

    def edit(output: Tensor) -> None:
        U = directions.to(output)
        new = torch.as_tensor(values, dtype=output.dtype, device=output.device)
        units_last = output.movedim(1, -1)
        units_last -= (units_last @ U - new) @ U.T

    return edit
