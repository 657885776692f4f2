"""Units described by a captioner, which writes about the regions of their exemplars."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor

from concept_monitor_cli.encoders.captioners import Captioner
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.descriptions import (
    DRAWS,
    beam_search,
    best_of_subsets,
    description_scores,
    forced,
    log_mean,
)
from concept_monitor_cli.functional.groups import random_images
from concept_monitor_cli.lenses.describing import Description, Told, exemplar_images
from concept_monitor_cli.record.exemplars import geometry_of

if TYPE_CHECKING:
    from concept_monitor_cli.models.geometry import Geometry
    from concept_monitor_cli.store import Entry
    from concept_monitor_cli.study.context import Context

#: Texts of an image, and tokens of a text, at most (MILAN: beam 50 over 15 images at once, 15 tokens).
BEAMS, TOKENS = 10, 15
#: Images that have nothing to do with a unit: for the prior, and for chance.
BACKGROUND = 60
#: A crop is a region and so much of its sides around it.
AROUND = 0.25
# Of the blur outside a region, as a share of the image's longer side.
_BLUR = 0.03

Following = Callable[[Tensor], Tensor]


def view(image: Image.Image, geometry: Geometry, region: NDArray[np.bool_]) -> Image.Image:
    """What a captioner sees of an exemplar: its region and a quarter around it, blurred outside the region.

    Args:
        image: RGB, of any size.
        geometry: which part of it the network saw.
        region: `(h, w)` over that part; the whole part where it is empty.
    """
    left, top, right, bottom = geometry.box(*image.size)
    frame = image.crop((round(left), round(top), round(right), round(bottom)))
    if not region.any() or region.all():
        return frame
    width, height = frame.size
    cells = Image.fromarray(np.where(region, 255, 0).astype(np.uint8)).resize(
        frame.size, Image.Resampling.NEAREST
    )
    blurred = frame.filter(ImageFilter.GaussianBlur(_BLUR * max(frame.size)))
    shown = Image.composite(frame, blurred, cells)
    box = cells.getbbox()
    assert box is not None
    across, down = AROUND * (box[2] - box[0]), AROUND * (box[3] - box[1])
    return shown.crop(
        (
            max(0, round(box[0] - across)),
            max(0, round(box[1] - down)),
            min(width, round(box[2] + across)),
            min(height, round(box[3] + down)),
        )
    )


@dataclass
class CaptionTeller:
    """Lets a captioner write about each exemplar, and scores all its texts on all exemplars of the unit.

    Attributes:
        context: the images.
        captioner: who writes.
        lam: weight of the prior.
        top: descriptions of a unit.
        notes: see `Teller`.
    """

    context: Context
    captioner: Captioner
    lam: float
    top: int
    notes: list[str] = field(default_factory=list)
    _background: dict[str, list[Following]] = field(default_factory=dict)

    def tell(self, entry: Entry, units: Tensor, places: Tensor, *, matrix: bool = False) -> Told:
        """See `Teller`. There is no matrix: every unit has texts of its own."""
        images = exemplar_images(entry, units, places)
        regions, geometry = entry.read("regions").astype(bool), geometry_of(entry)
        background = self.background(entry)
        found = []
        with self.context.progress.task("describing units", len(units), "units") as advance:
            for row, unit in enumerate(units.tolist()):
                views = [
                    self._look(int(image), geometry, regions[unit, int(place)])
                    for image, place in zip(images[row], places[row], strict=True)
                    if place >= 0
                ]
                found.append(self._of_views(views, background))
                advance(1)
        return Told(found)

    def chance(self, entry: Entry, sizes: Sequence[int]) -> dict[int, Tensor]:
        """See `Teller`: the captioner's texts for random images in random regions of the layer's units.

        Raises:
            InputError: too few images.
        """
        background = self.background(entry)
        texts = [self.texts(each) for each in background]
        every = list(dict.fromkeys(text for own in texts for text in own))
        log_p = torch.stack([self._forced(each, every) for each in background])
        own = torch.tensor([[text in mine for text in every] for mine in map(set, texts)])
        return {
            size: best_of_subsets(log_p, own, size, self.lam, draws=DRAWS, seed=self.context.seed)
            for size in sizes
        }

    def background(self, entry: Entry) -> list[Following]:
        """Random images, one of each group, each in the region of a random unit in another image.

        The region of where a unit fires is laid over an image that it was not chosen for, so that crops are
        as large as those of the units and show anything.

        Raises:
            InputError: too few images.
        """
        if entry.key.digest not in self._background:
            groups, generator = self.context.groups, np.random.default_rng(self.context.seed)
            if groups.n_groups < 2:
                raise InputError(
                    "one image, or one group of images, leaves none for what a description is compared with",
                    where="--probe",
                    hint="give more images",
                )
            regions, geometry = entry.read("regions").astype(bool), geometry_of(entry)
            firing = regions[entry.read("live").astype(bool)]
            shapes = firing.reshape(-1, *regions.shape[2:])
            shapes = shapes[shapes.any((1, 2))]
            chosen = random_images(groups, min(BACKGROUND, groups.n_groups), generator)
            drawn = generator.integers(0, max(1, len(shapes)), len(chosen))
            self._background[entry.key.digest] = [
                self._look(int(image), geometry, shapes[place] if len(shapes) else np.ones((1, 1), bool))
                for image, place in zip(chosen, drawn, strict=True)
            ]
        return self._background[entry.key.digest]

    def texts(self, following: Following) -> list[str]:
        """What the captioner writes about one image, best first; each text once."""
        beams = beam_search(
            following,
            self.captioner.start,
            self.captioner.end,
            beams=BEAMS,
            tokens=TOKENS,
            never=self.captioner.never,
        )
        words = (self.captioner.words(tokens) for tokens, _ in beams)
        return [text for text in dict.fromkeys(words) if text]

    def _of_views(self, views: Sequence[Following], background: Sequence[Following]) -> list[Description]:
        candidates = list(dict.fromkeys(text for each in views for text in self.texts(each)))
        if not candidates:
            return []
        given = torch.stack([self._forced(each, candidates) for each in views]).mean(0)
        prior = log_mean(torch.stack([self._forced(each, candidates) for each in background]))
        scores = description_scores(given, prior, self.lam)
        order = scores.argsort(descending=True, stable=True)[: self.top].tolist()
        return [
            Description(candidates[d], "", float(scores[d]), float(given[d]), float(prior[d])) for d in order
        ]

    def _forced(self, following: Following, texts: Sequence[str]) -> Tensor:
        tokens = [self.captioner.tokens(text) for text in texts]
        return forced(following, self.captioner.start, self.captioner.end, tokens)

    def _look(self, image: int, geometry: Geometry, region: NDArray[np.bool_]) -> Following:
        return self.captioner.look(view(self.context.probe.image(image), geometry, region))
