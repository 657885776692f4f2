"""A pass over all probe images with changes in one layer: what becomes of the scores?"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from concept_monitor_cli.models.geometry import Preprocessing
from concept_monitor_cli.models.interventions import Edit, interventions
from concept_monitor_cli.models.layers import LayerInfo, evaluation
from concept_monitor_cli.models.normalise import Normaliser
from concept_monitor_cli.models.pooling import batch_first, unit_axis
from concept_monitor_cli.models.taps import tap
from concept_monitor_cli.probe.batches import PixelRows, batches
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.record.scores import class_scores

T = TypeVar("T")


def unit_means(
    model: nn.Module,
    pixels: PixelRows,
    preprocessing: Preprocessing,
    layer: LayerInfo,
    *,
    device: torch.device,
    batch_size: int = 32,
) -> Tensor:
    """`(C,)` float64: the mean of every unit over all images and positions.

    Args:
        model: the network, with its weights.
        pixels: the images.
        preprocessing: as for `record`.
        layer: which layer.
        device: where it runs.
        batch_size: images at a time.
    """
    total = torch.zeros(layer.units, dtype=torch.float64)
    count = 0

    def capture(_name: str, output: Tensor) -> Tensor:
        units = batch_first(output, layer.layout).movedim(unit_axis(layer.layout), 1)
        return units.flatten(2).double().mean(2).sum(0) if units.ndim > 2 else units.double().sum(0)

    with (
        prepared(model, device),
        tap(model, [layer.name], capture=capture, calls={layer.name: layer.calls}) as read,
    ):
        for images in network_images(pixels, preprocessing, layer.channels, device, batch_size, model):
            total += read(images)[layer.name].cpu()
            count += len(images)
    return total / max(1, count)


def scores_with_changes(
    model: nn.Module,
    pixels: PixelRows,
    preprocessing: Preprocessing,
    layer: LayerInfo,
    edits: Sequence[Edit],
    keep: Callable[[Tensor, slice], T],
    *,
    device: torch.device,
    batch_size: int = 32,
    progress: Progress = SILENT,
) -> list[T]:
    """The scores of all images with each of some changes.

    Args:
        model: the network, with its weights.
        pixels: `N` images.
        preprocessing: as for `record`.
        layer: which layer is changed.
        edits: `U` changes.
        keep: what to keep of the scores `(U, B, K)` of a batch, and which images these are.
        device: where the network runs.
        batch_size: images at a time.
        progress: told how many images are done, and where the changes cannot run together.

    Returns:
        What `keep` gave, batch by batch.
    """
    kept, start, said = [], 0, False
    with (
        prepared(model, device),
        interventions(model, layer, lambda result: class_scores(result, model)) as run,
        progress.task(f"changing {layer.name}", len(pixels)) as advance,
    ):
        for images in network_images(pixels, preprocessing, layer.channels, device, batch_size, model):
            scores = run(images, edits)
            if run.together is False and not said:
                said = True
                progress.notice(
                    f"{layer.name}: changes cannot run together, each gets a pass of its own ({run.why_not})"
                )
            kept.append(keep(scores.cpu(), slice(start, start + len(images))))
            start += len(images)
            advance(len(images))
    return kept


@contextlib.contextmanager
def prepared(model: nn.Module, device: torch.device) -> Iterator[None]:
    """A network on its device and in evaluation mode, for the length of a `with` block."""
    model.to(device)
    with evaluation(model):
        yield


def network_images(
    pixels: PixelRows,
    preprocessing: Preprocessing,
    channels: int,
    device: torch.device,
    batch_size: int,
    model: nn.Module,
) -> Iterator[Tensor]:
    """Normalised batches, all images in order.

    Args:
        pixels: the images.
        preprocessing: as for `record`.
        channels: that the network takes.
        device: where it runs.
        batch_size: images at a time.
        model: whose float type they get.
    """
    total, size = len(pixels), preprocessing.geometry.size
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    normalise = Normaliser(preprocessing, min(batch_size, max(1, total)), device, dtype, channels)
    with contextlib.closing(batches(pixels, batch_size, size, device, slice(0, total))) as read:
        for _, batch in read:
            yield normalise(batch.to(device, non_blocking=True))
