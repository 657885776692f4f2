"""How much of a layer's means is due to each unit of an earlier layer: measured, and read off the weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.circuits import proportional_draws, sampling_error
from concept_monitor_cli.models.channel_paths import NoPathError, path_matrix, trace_path
from concept_monitor_cli.models.geometry import Preprocessing
from concept_monitor_cli.models.knockouts import Knockouts, knockouts
from concept_monitor_cli.models.layers import LayerInfo
from concept_monitor_cli.probe.batches import PixelRows
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.record.changed import network_images, prepared

# Rows that run together behind the first layer.
_ROWS = 256


@dataclass(frozen=True)
class Network:
    """A network and its images, ready to be run.

    Attributes:
        model: with its weights.
        pixels: `N` images.
        preprocessing: as for `record`.
        rows: `(n,)` int64, rising: which images count.
        device: where it runs.
        batch_size: images at a time.
    """

    model: nn.Module
    pixels: PixelRows
    preprocessing: Preprocessing
    rows: NDArray[np.int64]
    device: torch.device
    batch_size: int = 32


@dataclass(frozen=True)
class Edges:
    """What the units of a layer do to those of a later one.

    Attributes:
        units: `(c,)` int64: which units of the first layer.
        effect: `(c, D)` float64: the later unit's mean less what it is with the earlier unit at 0.
        error: `(c, D)` float64: standard error of that; 0 where all images were tried that change anything.
        means, later_means: `(C,)` and `(D,)` float64, of both layers over images and positions.
        tried: images that were tried, over all units.
        skipped: why rows could not branch off behind the first layer; empty where they could.
    """

    units: Tensor
    effect: Tensor
    error: Tensor
    means: Tensor
    later_means: Tensor
    tried: int
    skipped: str = ""


@torch.no_grad()
def measure_edges(
    network: Network,
    first: LayerInfo,
    second: LayerInfo,
    *,
    draws: int,
    units: Sequence[int] | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Edges:
    """Silence each unit of a layer on some images, and see what becomes of a later layer's means.

    Args:
        network: the network and its images.
        first: whose units are silenced.
        second: what is read.
        draws: images for each unit, drawn in proportion to its activation (`proportional_draws`).
        units: only these of the first layer.
        seed: of the draws.
        progress: told how far it is.

    Raises:
        InputError: the second layer does not come after the first, or activations are not finite.
    """
    chosen = list(range(first.units)) if units is None else list(units)
    with prepared(network.model, network.device), knockouts(network.model, first, second) as run:
        sizes, means, after = _plain(network, run, first.channels, progress)
        if not np.isfinite(sizes).all():
            raise InputError(
                f"activations of {first.name} are infinite or not a number, so what its units add is unknown",
                where=first.name,
                hint="take a checkpoint before the training broke down, or another layer",
            )
        plan = [proportional_draws(sizes[:, unit], draws, seed=seed + unit) for unit in chosen]
        found = _changes(network, run, first.channels, chosen, plan, after, progress)
    effect = torch.zeros(len(chosen), second.units, dtype=torch.float64)
    error = torch.zeros_like(effect)
    for place, ((images, weights), change) in enumerate(zip(plan, found, strict=True)):
        if not len(images):
            continue
        effect[place] = (torch.from_numpy(weights)[:, None] * change).sum(0)
        if (sizes[:, chosen[place]] > 0).sum() > draws:
            times = weights * draws * sizes[images, chosen[place]] / sizes[:, chosen[place]].mean()
            own = torch.from_numpy(weights * draws / times)[:, None] * change
            error[place] = sampling_error(own, torch.from_numpy(times))
    return Edges(
        torch.tensor(chosen),
        effect,
        error,
        means,
        after.mean(0),
        sum(len(images) for images, _ in plan),
        run.why_not if run.together is False else "",
    )


def _plain(
    network: Network, run: Knockouts, channels: int, progress: Progress
) -> tuple[NDArray[np.float64], Tensor, Tensor]:
    """Mean absolute activations `(n, C)`, means `(C,)` of the first layer, means `(n, D)` of the second."""
    parts = []
    with progress.task("two layers as they are", len(network.rows)) as advance:
        for images, _ in _counting(network, channels):
            before, later = run.plain(images)
            before, later = before.double(), later.double()
            # In one piece, as each copy is waited for.
            parts.append(torch.cat([before.abs().mean(2), before.mean(2), later.mean(2)], 1).cpu())
            advance(len(images))
    units = before.shape[1]
    sizes, means, after = torch.split(torch.cat(parts), [units, units, later.shape[1]], 1)
    return sizes.contiguous().numpy(), means.contiguous().mean(0), after.contiguous()


def _changes(
    network: Network,
    run: Knockouts,
    channels: int,
    units: Sequence[int],
    plan: Sequence[tuple[NDArray[np.int64], NDArray[np.float64]]],
    after: Tensor,
    progress: Progress,
) -> list[Tensor]:
    """For each unit what its absence takes from the later means on each of its images, `(m, D)`."""
    by_image: dict[int, list[tuple[int, int]]] = {}
    for place, (images, _) in enumerate(plan):
        for order, image in enumerate(images.tolist()):
            by_image.setdefault(image, []).append((place, order))
    found = [torch.zeros(len(images), after.shape[1], dtype=torch.float64) for images, _ in plan]
    with progress.task("silencing units", sum(map(len, by_image.values())), "changes") as advance:
        for batch, numbers in _counting(network, channels):
            pairs = [
                (row, number, place, order)
                for row, number in enumerate(numbers)
                for place, order in by_image.get(number, ())
            ]
            for start in range(0, len(pairs), _ROWS):
                part = pairs[start : start + _ROWS]
                without = run.without(
                    batch,
                    torch.tensor([row for row, _, _, _ in part]),
                    torch.tensor([units[place] for _, _, place, _ in part]),
                )
                change = after[[number for _, number, _, _ in part]] - without.double().cpu()
                for own, (_, _, place, order) in zip(change, part, strict=True):
                    found[place][order] = own
                advance(len(part))
    return found


def _counting(network: Network, channels: int) -> Iterator[tuple[Tensor, list[int]]]:
    """Batches of the images that count, and their numbers among these."""
    start, done = 0, 0
    for images in network_images(
        network.pixels,
        network.preprocessing,
        channels,
        network.device,
        network.batch_size,
        network.model,
    ):
        stop = start + len(images)
        inside = network.rows[(network.rows >= start) & (network.rows < stop)] - start
        if len(inside):
            yield images[torch.from_numpy(inside)], list(range(done, done + len(inside)))
        start, done = stop, done + len(inside)


def weigh_edges(network: Network, first: LayerInfo, second: LayerInfo, means: Tensor) -> Tensor:
    """What the weights let expect of each edge: the way's matrix times the mean of the earlier unit.

    Args:
        network: the network and its images.
        first, second: the layers.
        means: `(C,)`, of the first.

    Returns:
        `(C, D)` float64.

    Raises:
        NoPathError: channels cannot be followed through the network's code.
    """
    if first.layout.kind not in ("channels-first", "flat") or second.layout.kind not in (
        "channels-first",
        "flat",
    ):
        raise NoPathError("units are not on the second axis (tokens, or channels last)")
    with prepared(network.model, network.device):
        path = trace_path(network.model, first.name, second.name)
        matrix = path_matrix(path, (images for images, _ in _counting(network, first.channels)))
    return matrix.T * means[:, None]
