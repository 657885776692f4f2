"""Several pictures of a unit: how unlike they are, and which of the unit's groups of photos each is like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from concept_monitor_cli.functional.objectives import apart
from concept_monitor_cli.functional.pictures import above_mean
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.stories.picture_wishes import Picture, Scale


@dataclass(frozen=True)
class ImageGroup:
    """Top photos of a unit that belong together, as `cmon evaluate --measure groups` found them.

    Attributes:
        number: of the group.
        concept: what it is called; empty for nothing.
        images: numbers of the probing images, strongest first.
    """

    number: int
    concept: str
    images: tuple[int, ...]


def image_groups(opened: OpenRun, layer: str, epoch: int) -> dict[int, list[ImageGroup]]:
    """The groups of each unit of a layer that `evaluate` showed at an epoch, by the first detector.

    Only units with several groups; none where `evaluate` did not look.
    """
    table = opened.run.table("evaluation-group-images")
    if table is None:
        return {}
    own = table[(table["layer"] == layer) & (table["epoch"] == epoch) & (table["group"] >= 0)]
    own = own[own["detector"] == own["detector"].min()].drop_duplicates(["unit", "place"])
    numbers = {name: number for number, name in enumerate(opened.probe.ids)}
    found: dict[int, list[ImageGroup]] = {}
    for (unit, group), rows in own.sort_values("place").groupby(["unit", "group"]):
        images = tuple(numbers[name] for name in rows["image"] if name in numbers)
        found.setdefault(int(unit), []).append(ImageGroup(int(group), str(rows["concept"].iloc[0]), images))
    return {unit: groups for unit, groups in found.items() if len(groups) > 1}


def _beside_the_unit(said: Tensor, scale: Scale, unit: int) -> Tensor:
    """What the other units of a layer say, each in units of its photos, `(n, R - 1)`; dead ones are left out.

    Args:
        said: `(n, R)`.
        scale: of the layer.
        unit: the one that all of these excite.
    """
    u = above_mean(said.float(), scale.mean, scale.maximum)
    kept = (scale.maximum > scale.mean).clone()
    kept[unit] = False
    return u[:, kept]


def unlikeness(pictures: Sequence[Picture], scale: Scale) -> list[float]:
    """How unlike the others of its unit each picture is to the layer: `1 - cos` of what its other units say.

    Args:
        pictures: of one unit.
        scale: of the layer.
    """
    said = torch.stack([torch.from_numpy(picture.activations) for picture in pictures])
    return apart(_beside_the_unit(said, scale, pictures[0].wish.unit)).tolist()


def nearest_groups(
    pictures: Sequence[Picture], groups: Sequence[ImageGroup], pooled: Tensor, scale: Scale
) -> list[tuple[int, float, float]]:
    """Which group of photos each picture is most like to the layer.

    Args:
        pictures: of one unit.
        groups: of that unit, two or more.
        pooled: `(N, R)`, what the layer says of the probing images.
        scale: of the layer.

    Returns:
        For each picture the group's number, the cosine to it, and the mean cosine to the others: of what the
        other units of the layer say of the picture and, in the mean, of the group's photos.
    """
    unit = pictures[0].wish.unit
    said = torch.stack([torch.from_numpy(picture.activations) for picture in pictures])
    own = torch.nn.functional.normalize(_beside_the_unit(said, scale, unit), dim=1)
    photos = torch.stack(
        [_beside_the_unit(pooled[list(group.images)], scale, unit).mean(0) for group in groups]
    )
    cosines = own @ torch.nn.functional.normalize(photos, dim=1).T
    found = []
    for row in cosines:
        best = int(row.argmax())
        rest = (row.sum() - row[best]) / (len(row) - 1)
        found.append((groups[best].number, float(row[best]), float(rest)))
    return found
