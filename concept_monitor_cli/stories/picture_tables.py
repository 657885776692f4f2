"""What stands beside a picture in `pictures.csv`: its strength, what the encoder sees in it, and chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from concept_monitor_cli.encoders import Encoder, PrecomputedEncoder
from concept_monitor_cli.functional import pictures as method
from concept_monitor_cli.monitor.history import History
from concept_monitor_cli.options import PictureOptions
from concept_monitor_cli.stories.attribute_making import Photo
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.stories.picture_wishes import PHOTOS, Picture, Scale
from concept_monitor_cli.study import Context

Pixels = NDArray[np.uint8]


def pixels_of(picture: Picture, options: PictureOptions) -> Pixels:
    """A picture as it is looked at and written, `(s, s, 3)`. Crops leave no frame that is to be cut off."""
    image = torch.from_numpy(picture.image)
    if not options.crops:
        image = method.shown(image[None], options.parameters)[0]
    if len(image) == 1:
        image = image.expand(3, -1, -1)
    found: Pixels = (image.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    return found


@dataclass(frozen=True)
class Eyes:
    """The run's encoder, as far as it can look at pictures.

    Attributes:
        encoder: it.
        photos: `(N, D)`, the probing images.
        words: `(M, D)`, the concepts.
        places: concept -> its number.
    """

    encoder: Encoder
    photos: Tensor
    words: Tensor
    places: Mapping[str, int]

    @classmethod
    def of(cls, context: Context) -> Eyes | None:
        """`None` where the run has no encoder, or one that only knows the embeddings of its images."""
        encoder = context.encoder
        if encoder is None or isinstance(encoder, PrecomputedEncoder) or encoder.preprocessing is None:
            return None
        concepts = context.concepts.concepts
        return cls(
            encoder,
            context.image_embeddings.cpu(),
            context.text_embeddings.cpu(),
            {word: place for place, word in enumerate(concepts)},
        )

    def look_at(self, pictures: Sequence[Pixels]) -> Tensor:
        """The embeddings of pictures, `(B, D)` of unit length."""
        from PIL import Image

        assert self.encoder.preprocessing is not None
        side = self.encoder.preprocessing.geometry.size
        shown = [
            np.asarray(Image.fromarray(each).resize((side, side), Image.Resampling.BICUBIC))
            for each in pictures
        ]
        return self.encoder.image(torch.from_numpy(np.stack(shown)).to(self.encoder.device)).cpu()


@dataclass(frozen=True)
class Shown:
    """The pictures of a layer at one epoch, with what is said of them.

    Attributes:
        epoch, checkpoint, layer: which.
        pictures: one for each unit, or the way of a pair.
        scale: what the probing images say of the layer; `None` of caricatures.
        pixels: the pictures as they are written.
        embeddings: `(B, D)`, or `None` without an encoder that can look.
        concepts: of each picture's unit at this epoch; empty for none.
        others: all concepts that units of the layer have at this epoch.
    """

    epoch: int
    checkpoint: str
    layer: str
    pictures: Sequence[Picture]
    scale: Scale | None
    pixels: Sequence[Pixels]
    embeddings: Tensor | None
    concepts: Sequence[str]
    others: Sequence[str]

    def cosines(self, eyes: Eyes | None) -> list[dict[str, Any]]:
        """What the encoder sees in each picture, beside chance."""
        nothing: dict[str, Any] = {
            "concept_rank": None,
            "concepts": None,
            "concept_p": None,
            "photo_cos": None,
            "other_cos": None,
        }
        if eyes is None or self.embeddings is None or self.scale is None:
            return [dict(nothing) for _ in self.pictures]
        found = []
        tops = [eyes.photos[self.scale.best[picture.wish.unit][:PHOTOS]] for picture in self.pictures]
        for number, vector in enumerate(self.embeddings):
            row = dict(nothing)
            near = [float((top @ vector).mean()) for top in tops]
            row["photo_cos"] = near[number]
            units = [picture.wish.unit for picture in self.pictures]
            away = [value for value, unit in zip(near, units, strict=True) if unit != units[number]]
            row["other_cos"] = float(np.mean(away)) if away else None
            own = eyes.places.get(self.concepts[number])
            if own is not None:
                words = eyes.words @ vector
                row["concept_rank"] = 1 + int((words > words[own]).sum())
                row["concepts"] = len(words)
                rest = [eyes.places[word] for word in self.others if word != self.concepts[number]]
                if rest:
                    row["concept_p"] = (1 + int((words[rest] >= words[own]).sum())) / (1 + len(rest))
            found.append(row)
        return found


#: What a caricature, which is of no unit, has in the columns of `strengths`.
NO_STRENGTHS: dict[str, float] = dict.fromkeys(
    ("activation", "probe_mean", "probe_max", "ratio", "ratio_chance", "robust_ratio"), float("nan")
)


def beside_images(
    embeddings: Tensor, own: Sequence[Photo], compared: Sequence[Photo], eyes: Eyes
) -> list[dict[str, float]]:
    """How like its image each caricature is to the encoder, and how like other images.

    Args:
        embeddings: `(B, D)`, of the caricatures.
        own: the image of each.
        compared: other images; the own one among them does not count.
        eyes: the encoder.
    """
    of_own = eyes.look_at([photo.pixels for photo in own])
    of_others = eyes.look_at([photo.pixels for photo in compared])
    found = []
    for vector, image, photo in zip(embeddings, of_own, own, strict=True):
        foreign = [number for number, other in enumerate(compared) if other.digest != photo.digest]
        found.append(
            {
                "photo_cos": float(image @ vector),
                "other_cos": float((of_others[foreign] @ vector).mean()),
            }
        )
    return found


def strengths(pictures: Sequence[Picture], scale: Scale) -> list[dict[str, float]]:
    """How far above its photos each picture excites its unit, and what other units' pictures do to it.

    `ratio_chance` is the mean of the unit's `u` over the pictures of the other units; of a whole layer `u` of
    the start.
    """
    units = torch.tensor([picture.wish.unit for picture in pictures])
    mean, maximum = scale.mean[units], scale.maximum[units]
    # Row: whose unit; column: which picture.
    table = torch.from_numpy(np.stack([picture.activations for picture in pictures])).T[units]
    u = method.above_mean(table, mean[:, None], maximum[:, None])
    robust = method.above_mean(torch.tensor([picture.robust for picture in pictures]), mean, maximum)
    foreign = units[:, None] != units[None, :]
    found = []
    for row in range(len(pictures)):
        away = u[row][foreign[row]]
        if not np.isnan(pictures[row].chance):
            away = method.above_mean(torch.tensor([pictures[row].chance]), mean[row], maximum[row])
        found.append(
            {
                "activation": float(table[row, row]),
                "probe_mean": float(mean[row]),
                "probe_max": float(maximum[row]),
                "ratio": float(u[row, row]),
                "ratio_chance": float(away.mean()) if len(away) else float("nan"),
                "robust_ratio": float(robust[row]),
            }
        )
    return found


def history_of(opened: OpenRun, layer: str) -> History | None:
    """The labels of a layer: those of the first detector whose labels are concepts."""
    own = [history for history in opened.histories if history.layer == layer]
    words = [history for history in own if opened.traits[history.detector].in_word_space]
    return next(iter([*words, *own]), None)


def concepts_at(history: History | None, epoch: int, units: Sequence[int]) -> tuple[list[str], list[str]]:
    """The concepts of some units at an epoch, and all that units of the layer have then.

    Args:
        history: the layer's; `None` where the run did not dissect it.
        epoch: when.
        units: which.
    """
    if history is None or epoch not in history.epochs:
        return ["" for _ in units], []
    codes = history.labels[:, int(np.flatnonzero(history.epochs == epoch)[0])]
    place = {int(unit): number for number, unit in enumerate(history.units)}
    names = history.concepts(codes)[0]
    return (
        [names[place[unit]] if unit in place else "" for unit in units],
        sorted({name for name in names if name}),
    )


def cosine_distances(first: Tensor, second: Tensor) -> list[float]:
    """`1 - cos` of two sets of embeddings, row by row."""
    return [
        1 - float(torch.nn.functional.cosine_similarity(a, b, dim=0))
        for a, b in zip(first, second, strict=True)
    ]
