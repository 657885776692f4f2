"""`attribute --check`, where masks say where things are: do the maps of a class point at its thing?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from concept_monitor_cli.concepts.class_names import ClassNames, spelling
from concept_monitor_cli.functional import pointing as method
from concept_monitor_cli.functional.faithfulness import gain
from concept_monitor_cli.functional.pictures import generator
from concept_monitor_cli.probe.decode import shape_image
from concept_monitor_cli.run import CheckpointRecord
from concept_monitor_cli.stories.attribute_making import Map, Photo, Target
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.stories.recorder import Network

if TYPE_CHECKING:
    from concept_monitor_cli.options import AttributionMethod


def things(
    opened: OpenRun,
    network: Network,
    photos: Sequence[Photo],
    targets: Sequence[Target],
    names: ClassNames | None,
) -> dict[int, Tensor]:
    """Where the thing of its target is in each photo that shows it, by the number of the photo.

    Args:
        opened: the run; without masks nothing is known.
        network: which sees the photos.
        photos, targets: a class for each.
        names: of the classes; a mask belongs to the class that is spelt as its label.

    Returns:
        `(s, s)` bool as the network sees the photo.
    """
    annotations, rows = opened.probe.annotations, {name: row for row, name in enumerate(opened.probe.ids)}
    if annotations is None or names is None:
        return {}
    labels: dict[str, set[int]] = {}
    for label in annotations.labels:
        labels.setdefault(spelling(label.name), set()).add(label.index)
    geometry, found = network.architecture.preprocessing.geometry, {}
    for number, (photo, target) in enumerate(zip(photos, targets, strict=True)):
        wanted = labels.get(spelling(names.names[target.wanted]), set())
        if photo.name not in rows or not wanted:
            continue
        row = rows[photo.name]
        masks = annotations.image(row).masks(annotations.mask_size)
        parts = [mask for index, mask in masks.items() if index in wanted]
        if not parts:
            continue
        height, width = np.asarray(opened.probe.image(row)).shape[:2]
        whole = Image.fromarray(np.any(parts, axis=0).astype(np.uint8) * 255).convert("RGB")
        seen = shape_image(whole.resize((width, height), Image.Resampling.NEAREST), geometry)
        mask = torch.from_numpy(np.asarray(seen)[..., 0] >= 128)
        if bool(mask.any()):
            found[number] = mask
    return found


def pointing(
    records: Sequence[CheckpointRecord],
    maps: Mapping[tuple[AttributionMethod, int, int], Map],
    masks: Mapping[int, Tensor],
    layers: Mapping[AttributionMethod, str],
    seed: int,
) -> list[dict[str, Any]]:
    """Rows of `pointing.csv`: hits and shares inside, beside those of random places, the centre, other maps.

    Args:
        records: the epochs.
        maps: by method, epoch and photo.
        masks: of `things`.
        layers: by method, what its maps are of.
        seed: of the images drawn for the interval.
    """
    near = {number: method.surroundings(mask) for number, mask in masks.items()}
    by_chance = torch.tensor([float(near[number].double().mean()) for number in masks], dtype=torch.float64)
    centre = torch.tensor([float(method.at(0.5, 0.5, near[number])) for number in masks], dtype=torch.float64)
    covered = torch.tensor([float(mask.double().mean()) for mask in masks.values()], dtype=torch.float64)
    others = ~np.eye(len(masks), dtype=bool)
    rows = []
    for name in layers:
        for epoch, record in enumerate(records):
            own = [torch.from_numpy(maps[name, epoch, number].values) for number in masks]
            # Of each map at each thing; its own is on the diagonal.
            hits = np.array([[float(method.hits(each, places)) for places in near.values()] for each in own])
            inside = np.array([method.shares_inside(each, list(masks.values())) for each in own])
            hit = torch.from_numpy(hits.diagonal().copy())
            better, low, high = gain(hit - by_chance, generator(seed, "pointing"))
            rows.append(
                {
                    "epoch": record.epoch,
                    "checkpoint": record.name,
                    "layer": layers[name],
                    "method": name,
                    "images": len(masks),
                    "hits": float(hit.mean()),
                    "chance": float(by_chance.mean()),
                    "centre": float(centre.mean()),
                    "others": _mean(hits[others]),
                    "gain": better,
                    "gain_low": low,
                    "gain_high": high,
                    "inside": _mean(inside.diagonal()),
                    "inside_chance": float(covered.mean()),
                    "inside_others": _mean(inside[others]),
                }
            )
    return rows


def _mean(values: NDArray[np.float64]) -> float | None:
    return float(np.nanmean(values)) if np.isfinite(values).any() else None
