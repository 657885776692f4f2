"""A pass of two networks over images: what the change of each unit of a layer brought the images' classes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from concept_monitor_cli.functional.evolutions import STEPS, elsewhere, midpoints
from concept_monitor_cli.models.between import Between, between, set_back
from concept_monitor_cli.models.geometry import Preprocessing
from concept_monitor_cli.models.interventions import Interventions, interventions
from concept_monitor_cli.models.layers import LayerInfo, evaluation
from concept_monitor_cli.models.normalise import Normaliser
from concept_monitor_cli.models.pooling import units_second
from concept_monitor_cli.models.taps import tap
from concept_monitor_cli.probe.batches import PixelRows, batches
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.record.scores import class_scores


@dataclass(frozen=True)
class Side:
    """One of the two networks.

    Attributes:
        model: the network, with its weights.
        pixels: the images.
        preprocessing: as for `record`.
    """

    model: nn.Module
    pixels: PixelRows
    preprocessing: Preprocessing


@dataclass(frozen=True)
class Evolved:
    """What the changes of a layer's units brought, image by image.

    Attributes:
        path, fast: `(n, C)` float32, as in `functional.evolutions`.
        before, after: `(n,)` float64: the score of the image's class where the layer says what it said at the
            earlier epoch, and what it says at the later one.
        elsewhere: `(K', C)` float32 for the distinct classes in ascending order: see
            `functional.evolutions.elsewhere`.
        why_not: why copies of an image cannot run together behind the layer; empty where they can.
    """

    path: Tensor
    fast: Tensor
    before: Tensor
    after: Tensor
    elsewhere: Tensor
    why_not: str


class _Chosen:
    """Some of the images, in an order of their own."""

    def __init__(self, pixels: PixelRows, images: Sequence[int]) -> None:
        self._pixels, self._images = pixels, images

    def __len__(self) -> int:
        return len(self._images)

    def rows(self, start: int, stop: int) -> NDArray[np.uint8]:
        return np.concatenate([self._pixels.rows(i, i + 1) for i in self._images[start:stop]])


class _Passing:
    """Both networks on their device, and the images of each in step."""

    def __init__(
        self, earlier: Side, later: Side, layer: LayerInfo, device: torch.device, batch: int
    ) -> None:
        self.earlier, self.later, self.layer = earlier, later, layer
        self.device, self.batch = device, batch
        self.scores = partial(_scores, later.model)

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        """Both networks are in evaluation mode."""
        with contextlib.ExitStack() as stack:
            for side in (self.earlier, self.later):
                side.model.to(self.device)
                stack.enter_context(evaluation(side.model))
            yield

    def images(self, chosen: Sequence[int]) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Batches of some images: which, and as each network wants them."""
        before, after = (self._of(side, chosen) for side in (self.earlier, self.later))
        start = 0
        with contextlib.closing(before), contextlib.closing(after):
            for one, other in zip(before, after, strict=True):
                yield slice(start, start + len(one)), one, other
                start += len(one)

    def _of(self, side: Side, chosen: Sequence[int]) -> Any:
        size = side.preprocessing.geometry.size
        dtype = next((p.dtype for p in side.model.parameters() if p.is_floating_point()), torch.float32)
        most = min(self.batch, max(1, len(chosen)))
        normalise = Normaliser(side.preprocessing, most, self.device, dtype, self.layer.channels)
        pixels = _Chosen(side.pixels, chosen)
        with contextlib.closing(
            batches(pixels, self.batch, size, self.device, slice(0, len(chosen)))
        ) as read:
            for _, batch in read:
                # The normaliser hands out one buffer again and again.
                yield normalise(batch.to(self.device, non_blocking=True)).clone()


def _scores(model: nn.Module, result: Any) -> Tensor:
    return class_scores(result, model)


def evolved(
    earlier: Side,
    later: Side,
    layer: LayerInfo,
    chosen: Sequence[int],
    classes: Tensor,
    *,
    device: torch.device,
    batch_size: int = 32,
    steps: int = STEPS,
    progress: Progress = SILENT,
) -> Evolved:
    """What the change of each unit from one network to the other brought, along the path and at its end.

    Args:
        earlier, later: the networks.
        layer: of both.
        chosen: `n` images, those of a class one after the other, classes ascending.
        classes: `(n,)` int64, the class of each.
        device: where they run.
        batch_size: images at a time.
        steps: points of the path.
        progress: told how many images are done.

    Raises:
        InputError: the layer changes no score, or has another size in the two networks.
    """
    passing = _Passing(earlier, later, layer, device, batch_size)
    points = [*midpoints(steps), 0.0, 1.0]
    parts: list[Tensor] = []
    swapped, members, rows = torch.zeros(0), 0, []
    with (
        passing.ready(),
        between(earlier.model, later.model, layer, passing.scores) as run,
        progress.task(f"{layer.name}: between two epochs", len(chosen)) as advance,
    ):
        for place, one, other in passing.images(chosen):
            asked = classes[place].to(device)
            seen = run(one, other, asked, points)
            change = seen.change.double()
            slopes = seen.gradients[:steps].double().mean(0)  # (B, C, P)
            last = seen.gradients[-1].double()
            # In one piece, as each copy is waited for.
            brought = ((slopes * change).sum(2), (last * change).sum(2), seen.scores[-2:].T.double())
            parts.append(torch.cat(brought, 1).cpu())
            for name in dict.fromkeys(classes[place].tolist()):
                mine = (classes[place] == name).nonzero()[:, 0].to(change.device)
                both = torch.einsum("iop,iup->ou", slopes[mine], change[mine])
                swapped = both if not members else swapped + both
                members += len(mine)
                if members == int((classes == name).sum()):
                    rows.append(elsewhere(swapped / members).float())
                    members = 0
            advance(len(one))
        why_not = _why_not(run)
    whole = torch.cat(parts)
    path, fast = whole[:, :-2].float().chunk(2, 1)
    return Evolved(
        path.contiguous(),
        fast.contiguous(),
        whole[:, -2].clone(),
        whole[:, -1].clone(),
        torch.stack(rows).cpu(),
        why_not,
    )


def _why_not(run: Between | Interventions) -> str:
    return run.why_not if run.together is False else ""


def scores_set_back(
    earlier: Side,
    later: Side,
    layer: LayerInfo,
    chosen: Sequence[int],
    classes: Tensor,
    sets: Sequence[Sequence[int]],
    *,
    device: torch.device,
    batch_size: int = 32,
    progress: Progress = SILENT,
) -> Tensor:
    """The score of each image's class in the later network with some units as they were in the earlier one.

    Args:
        earlier, later: the networks.
        layer: of both.
        chosen: `n` images.
        classes: `(n,)` int64, the class of each.
        sets: `U` sets of units, each set back on its own.
        device: where they run.
        batch_size: images at a time.
        progress: told how many images are done.

    Returns:
        `(n, U)` float64.
    """
    passing = _Passing(earlier, later, layer, device, batch_size)
    parts = []

    def units(_name: str, output: Tensor) -> Tensor:
        return units_second(output.clone(), layer.layout)

    with (
        passing.ready(),
        tap(earlier.model, [layer.name], capture=units, calls={layer.name: layer.calls}) as read,
        interventions(later.model, layer, passing.scores) as run,
        progress.task(f"{layer.name}: units set back", len(chosen)) as advance,
    ):
        for place, one, other in passing.images(chosen):
            old = read(one)[layer.name]
            scores = run(other, [set_back(each, old) for each in sets])  # (U, B, K)
            asked = classes[place].to(scores.device)
            own = scores.gather(2, asked.expand(len(sets), -1)[..., None])[..., 0]
            parts.append(own.T.double().cpu())
            advance(len(one))
    return torch.cat(parts)
