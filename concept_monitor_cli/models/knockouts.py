"""What a later layer puts out when single units of an earlier one are silent, many at once.

    with knockouts(model, first, second) as run:
        plain, changed = run.plain(images), run.without(images, rows, units)

Behind the first layer, each pair of an image and a unit goes on as a row of its own with that unit at 0, and
the pass ends at the second layer. A path round the first layer brings the images, not these rows; that is
noticed, and then each pair goes through the network from its images on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.models.gradients import replaced
from concept_monitor_cli.models.layers import LayerInfo
from concept_monitor_cli.models.pooling import batch_first, unit_axis
from concept_monitor_cli.models.taps import Stop, find_modules, first_tensor

# Unchanged rows of one image come out alike but for rounding.
_SAME = 1e-3


def unit_first(output: Tensor, layer: LayerInfo) -> Tensor:
    """A layer's output as `(B, C, positions)`; a view where that is possible."""
    units = batch_first(output, layer.layout).movedim(unit_axis(layer.layout), 1)
    return units.flatten(2) if units.ndim > 2 else units[:, :, None]


class Knockouts:
    """Runs a network up to a layer, with units of an earlier one silent. Made by `knockouts`.

    Attributes:
        together: whether rows can branch off behind the first layer; None until it is known.
        why_not: what happened when they did.
    """

    def __init__(self, model: nn.Module, first: LayerInfo, second: LayerInfo) -> None:
        self._model, self._first, self._second = model, first, second
        self._rows: Tensor | None = None
        self._units: Tensor | None = None
        self._calls = [0, 0]
        self._seen: Tensor | None = None
        self._put_out: Tensor | None = None
        self.together: bool | None = None
        self.why_not = ""

    def plain(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Both layers' outputs as they are: `(B, C, positions)` and `(B, D, positions)`."""
        after = self._pass(images, None, None, len(images))
        assert self._put_out is not None
        return self._put_out, after

    def without(self, images: Tensor, rows: Tensor, units: Tensor) -> Tensor:
        """The second layer's means over positions, each time with one unit of the first layer at 0.

        Args:
            images: `(B, ...)`, as the network wants them.
            rows: `(P,)` int64: which image each time.
            units: `(P,)` int64: which unit; -1 for none.

        Returns:
            `(P, D)` float32.

        Raises:
            RuntimeError: the network fails.
        """
        if self.together is None:
            self.together = self._try(images)
        if self.together:
            # A single image would be added to its rows by broadcasting, without an error.
            doubled = torch.cat([images, images]) if len(images) == 1 else images
            return self._pass(doubled, rows, units, len(rows)).mean(2)
        return self._pass(images[rows], torch.arange(len(rows)), units, len(rows)).mean(2)

    def _try(self, images: Tensor) -> bool:
        """Whether unchanged rows of some images come out as the images themselves do."""
        few = images[:2] if len(images) > 1 else torch.cat([images, images])
        plain = self._pass(few, None, None, 2)
        rows = torch.tensor([0, 1, 0, 1, 1])
        try:
            again = self._pass(few, rows, torch.full((5,), -1), 5)
        except RuntimeError as error:
            self.why_not = str(error).partition("\n")[0]
            return False
        scale = float(plain.abs().amax().clamp_min(1e-12))
        if float((again - plain[rows.to(plain.device)]).abs().amax()) > _SAME * scale:
            self.why_not = "rows of one image come out different"
            return False
        return True

    def _pass(self, images: Tensor, rows: Tensor | None, units: Tensor | None, expected: int) -> Tensor:
        self._rows, self._units, self._calls = rows, units, [0, 0]
        self._seen = self._put_out = None
        try:
            with torch.inference_mode():
                self._model(images)
        except Stop:
            pass
        seen, self._seen = self._seen, None
        if seen is None:
            raise InputError(
                f"layer {self._second.name!r} takes no part in the forward pass", where=self._second.name
            )
        if len(seen) != expected:
            raise RuntimeError(f"{len(seen)} rows come out where {expected} were put in")
        return seen

    def _change(self, module: nn.Module, _inputs: Any, output: Any) -> Any:
        self._calls[0] += 1
        if self._calls[0] != self._first.calls:
            return None
        tensor = first_tensor(output, module, self._first.name)
        if self._rows is None:
            self._put_out = unit_first(tensor, self._first).clone()
            return None
        assert self._units is not None
        axis = 1 if self._first.layout.batch_second else 0
        # A copy, since the next layer may work in place.
        copies = tensor.index_select(axis, self._rows.to(tensor.device))
        view = copies.transpose(0, 1) if self._first.layout.batch_second else copies
        view = view.movedim(unit_axis(self._first.layout), 1)
        silent = (self._units >= 0).nonzero()[:, 0]
        view[silent.to(tensor.device), self._units[silent].to(tensor.device)] = 0
        return replaced(output, tensor, copies)

    def _read(self, module: nn.Module, _inputs: Any, output: Any) -> None:
        self._calls[1] += 1
        if self._calls[1] != self._second.calls:
            return
        if self._calls[0] < self._first.calls:
            raise InputError(
                f"{self._second.name} does not come after {self._first.name}", where=self._second.name
            )
        tensor = first_tensor(output, module, self._second.name)
        self._seen = unit_first(tensor, self._second).float().clone()
        raise Stop


@contextmanager
def knockouts(model: nn.Module, first: LayerInfo, second: LayerInfo) -> Iterator[Knockouts]:
    """A network with two layers under watch, for the length of a `with` block; the hooks are gone after it.

    Args:
        model: the network; its mode (`eval`) is the caller's business.
        first: whose units are silenced, at its last call.
        second: what is read; the pass ends there.

    Yields:
        See `Knockouts`.

    Raises:
        InputError: for a name that does not exist.
    """
    modules = find_modules(model, [first.name, second.name])
    run = Knockouts(model, first, second)
    handles = [
        modules[first.name].register_forward_hook(run._change),
        modules[second.name].register_forward_hook(run._read),
    ]
    try:
        yield run
    finally:
        for handle in handles:
            handle.remove()
