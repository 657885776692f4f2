"""The pictures of a layer at one epoch: their files, their rows of `pictures.csv`, and as they are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from concept_monitor_cli.concepts.class_names import ClassNames
from concept_monitor_cli.functional import pictures as method
from concept_monitor_cli.options import CHANNELS, PictureOptions, split_name
from concept_monitor_cli.report.picture_figures import Cell
from concept_monitor_cli.run.folder import file_name
from concept_monitor_cli.store import atomic_write
from concept_monitor_cli.stories.asked_images import class_label
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.stories.picture_groups import image_groups, nearest_groups, unlikeness
from concept_monitor_cli.stories.picture_making import Maker
from concept_monitor_cli.stories.picture_tables import (
    NO_STRENGTHS,
    Eyes,
    Shown,
    beside_images,
    cosine_distances,
    strengths,
)
from concept_monitor_cli.stories.picture_wishes import Scale, Task, Wish


@dataclass
class Chance:
    """What chance makes of the pictures of a layer at the last epoch: a number for each picture.

    Attributes:
        seed: `drift` between two seeds.
        still: `drift` of a film in which the network stays as it is.
        alone: unit -> how unlike pictures of it are that differ in nothing but their seed.
    """

    seed: list[float] | None = None
    still: list[float] | None = None
    alone: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Rows:
    """Makes the rows of a run's pictures.

    Args:
        opened: the run.
        maker: which made the pictures.
        options: how.
        names: of the classes, where known.
        eyes: the run's encoder, where it can look at pictures.
    """

    opened: OpenRun
    maker: Maker
    options: PictureOptions
    names: ClassNames | None
    eyes: Eyes | None

    def of(self, each: Shown, task: Task, before: Tensor | None, chance: Chance) -> list[dict[str, Any]]:
        """The rows of a layer at one epoch; its pictures are written.

        Args:
            each: the pictures.
            task: of which they are.
            before: the embeddings of the same pictures at the epoch before; `None` for none.
            chance: what they are compared with.
        """
        drift = None
        if before is not None and each.embeddings is not None:
            drift = cosine_distances(before, each.embeddings)
        above = [NO_STRENGTHS] * len(each.pictures)
        if each.scale is not None:
            above = strengths(each.pictures, each.scale)
        seen = self._seen(each)
        power = method.high_frequency(
            torch.stack([torch.from_numpy(picture.image) for picture in each.pictures])
        ).tolist()
        more = self._of_groups(each, task, chance)
        rows = []
        for number, made in enumerate(each.pictures):
            wish = made.wish
            of_unit = not wish.image and self.options.objective != "layer"
            rows.append(
                {
                    "epoch": each.epoch,
                    "checkpoint": each.checkpoint,
                    "layer": each.layer,
                    "unit": wish.unit if of_unit else None,
                    "other_unit": wish.other if wish.other >= 0 else None,
                    "share": wish.share if wish.other >= 0 else None,
                    "objective": _objective(each.layer, self.options),
                    "parameterisation": self.options.parameters,
                    "seed": self.options.seed,
                    "steps": self.maker.steps_of(task),
                    **above[number],
                    "silent_start": made.silent,
                    "high_frequency": power[number],
                    "photo_high_frequency": _power(self.photo(each, number), made.image.shape[-1]),
                    "concept": each.concepts[number],
                    **seen[number],
                    "drift": None if drift is None else drift[number],
                    "drift_floor": None if chance.seed is None else chance.seed[number],
                    "file": self._write(each, number),
                    "class": class_label(wish.unit, self.names) if self.options.target else "",
                    "class_place": _place(made.activations, wish.unit) if self.options.target else None,
                    "image": wish.image,
                    "layer_cos": float(made.activations[0]) if wish.image else None,
                    "layer_cos_chance": made.chance if wish.image else None,
                    "drift_still": None if chance.still is None else chance.still[number],
                    "member": wish.member if wish.member >= 0 else None,
                    **more[number],
                }
            )
        return rows

    def _seen(self, each: Shown) -> list[dict[str, Any]]:
        found = each.cosines(self.eyes)
        if each.scale is None and self.eyes is not None and each.embeddings is not None:
            own = [self.maker.images[picture.wish.image] for picture in each.pictures]
            cosines = beside_images(each.embeddings, own, self.maker.compared, self.eyes)
            found = [row | cosine for row, cosine in zip(found, cosines, strict=True)]
        return found

    def _of_groups(self, each: Shown, task: Task, chance: Chance) -> list[dict[str, Any]]:
        """Of several pictures of a unit, how unlike they are, and the photos that each is like."""
        columns = ("diversity", "diversity_floor", "group", "group_cos", "other_group_cos")
        found: list[dict[str, Any]] = [dict.fromkeys(columns) for _ in each.pictures]
        if each.pictures[0].wish.member < 0 or each.scale is None:
            return found
        groups = image_groups(self.opened, each.layer, each.epoch)
        for places in members(each):
            own = [each.pictures[place] for place in places]
            unit = own[0].wish.unit
            for place, value in zip(places, unlikeness(own, each.scale), strict=True):
                found[place] |= {"diversity": value, "diversity_floor": chance.alone.get(unit)}
            if unit in groups:
                pooled = self.maker.recorder.pooled(task.record, each.layer)
                near = nearest_groups(own, groups[unit], pooled, each.scale)
                for place, (group, cosine, others) in zip(places, near, strict=True):
                    found[place] |= {"group": group, "group_cos": cosine, "other_group_cos": others}
        return found

    def photo(self, each: Shown, number: int) -> NDArray[np.uint8]:
        """What a picture is put beside: its unit's best photo, of a caricature its image."""
        wish = each.pictures[number].wish
        if each.scale is None:
            return self.maker.images[wish.image].pixels
        return np.asarray(self.opened.probe.image(int(each.scale.best[wish.unit][0])))

    def _write(self, each: Shown, number: int) -> str:
        from PIL import Image

        file = self.file(each, each.pictures[number].wish)
        with atomic_write(self.opened.run.root / file) as temporary:
            Image.fromarray(each.pixels[number]).save(temporary, format="PNG")
        return file

    def stem(self, wish: Wish) -> str:
        """What the file of a picture is called, without folder and ending."""
        options = self.options
        more = [] if options.objective in ("unit", "layer") else [options.objective.replace("unit-", "down")]
        more += [] if options.parameters == "fourier" else [options.parameters]
        more += ["crops"] if options.crops else []
        more += ["warm"] if options.warm else []
        name = f"class_{wish.unit:04d}" if options.target else f"unit_{wish.unit:04d}"
        if wish.image:
            name = f"caricature_{file_name(wish.image.rpartition('/')[2])}"
        elif options.objective == "layer":
            name = "layer"
        elif wish.other >= 0:
            name += f"_to_{wish.other:04d}_{wish.share:.2f}"
        elif wish.member >= 0:
            name += f"_diverse_{wish.member:02d}"
        return ".".join([name, *more])

    def file(self, each: Shown, wish: Wish) -> str:
        """Where a picture is written, below the run."""
        return f"pictures/epoch_{each.epoch:04d}/{file_name(each.layer)}/{self.stem(wish)}.png"

    def cell(self, each: Shown, number: int, row: dict[str, Any]) -> Cell:
        """A picture as it is drawn, beside the photo."""
        wish = each.pictures[number].wish
        concept = class_label(wish.unit, self.names) if self.options.target else each.concepts[number]
        note = f"{wish.share:g} of the way to {wish.other}" if wish.other >= 0 else ""
        shown = (each.pixels[number], self.photo(each, number), row["ratio"], row["ratio_chance"], note)
        if wish.image:
            said = f"{row['layer_cos']:.2f} ({row['layer_cos_chance']:.2f})"
            return Named(number, "", *shown, heading=wish.image.rpartition("/")[2], said=said)
        if self.options.objective == "layer":
            said = f"strength {row['ratio']:.1f}, the start {row['ratio_chance']:.1f}"
            return Named(wish.unit, "", *shown, heading="the whole layer", said=said)
        return Cell(wish.unit, concept, *shown)


@dataclass(frozen=True)
class Named(Cell):
    """A picture that is of no unit.

    Attributes:
        heading, said: in place of the unit and its strength.
    """

    heading: str = ""
    said: str = ""

    @property
    def title(self) -> str:
        """See `Cell`."""
        return self.heading

    @property
    def strength(self) -> str:
        """See `Cell`."""
        return self.said


def members(each: Shown) -> list[list[int]]:
    """The places of the pictures of each unit, of `--diverse`."""
    found: dict[int, list[int]] = {}
    for place, picture in enumerate(each.pictures):
        found.setdefault(picture.wish.unit, []).append(place)
    return list(found.values())


def alone(of_seeds: Sequence[Sequence[Any]], scale: Scale) -> dict[int, float]:
    """Unit -> how unlike pictures of it are that differ in nothing but their seed.

    Args:
        of_seeds: the `Picture`s of the units from each seed.
        scale: of the layer.
    """
    found = {}
    for own in zip(*of_seeds, strict=True):
        found[own[0].wish.unit] = float(np.mean(unlikeness(own, scale)))
    return found


def _objective(layer: str, options: PictureOptions) -> str:
    """What was climbed, by its name in the table."""
    named = {
        "pair": bool(options.pair),
        "caricature": bool(options.caricature),
        "diverse": options.diverse > 1,
        "class": bool(options.target),
        "direction": split_name(layer)[1] != CHANNELS and options.objective == "unit",
    }
    return next((name for name, holds in named.items() if holds), options.objective)


def _place(activations: NDArray[np.float32], unit: int) -> int:
    """At which place a class stands among all, by what a picture makes of them."""
    return 1 + int((activations > activations[unit]).sum())


def _square(photo: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    from PIL import Image

    return np.asarray(Image.fromarray(photo).resize((side, side), Image.Resampling.BICUBIC))


def _power(photo: NDArray[np.uint8], side: int) -> float:
    """The share of high frequencies in a photo at the size of the picture: what is natural."""
    pixels = torch.from_numpy(_square(photo, side).copy())
    return float(method.high_frequency(pixels.permute(2, 0, 1)[None].float() / 255)[0])
