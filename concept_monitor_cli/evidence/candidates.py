"""The ways in which a network's images may have been presented in its training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.models.build import ModelSource
from concept_monitor_cli.models.geometry import Channels, Preprocessing
from concept_monitor_cli.models.preprocess import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Triple,
)

# CLIP's own statistics of its training images (openai/CLIP, clip.py).
CLIP_MEAN: Triple = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Triple = (0.26862954, 0.26130258, 0.27577711)
_HALF: Triple = (0.5, 0.5, 0.5)
_ZERO: Triple = (0.0, 0.0, 0.0)
_ONE: Triple = (1.0, 1.0, 1.0)
_BYTE: Triple = (1 / 255, 1 / 255, 1 / 255)

NORMALISATIONS: Mapping[str, tuple[Triple, Triple]] = {
    "ImageNet": (IMAGENET_MEAN, IMAGENET_STD),
    "mean and std 0.5": (_HALF, _HALF),
    "CIFAR-10": (CIFAR10_MEAN, CIFAR10_STD),
    "CLIP": (CLIP_MEAN, CLIP_STD),
    "0..1": (_ZERO, _ONE),
    "0..255": (_ZERO, _BYTE),
    "0..255 less ImageNet's mean": (IMAGENET_MEAN, _BYTE),
}
"""Name -> mean and standard deviation, for pixels in 0..1. The last one is Caffe's."""

ALIKE_STD, ALIKE_MEAN = 1.3, 0.1
"""Normalisations whose standard deviations differ by less than this factor, and their means by less than
this, are not told apart: photos of one collection differ more from those of another."""

SMALLER_SIZES = (32, 64, 96, 128)
"""Sides in pixels that networks are trained at though their architecture was made for larger images."""

SMALL = 64
"""An architecture for images up to this side is tried at twice the side, too."""


@dataclass(frozen=True)
class Presentation:
    """A network and what its images look like: one answer to "how was it trained?".

    Attributes:
        source: the architecture.
        preprocessing: geometry, normalisation, channel order.
    """

    source: ModelSource
    preprocessing: Preprocessing

    @property
    def normalisation(self) -> str:
        """Its name, or the numbers where it has none."""
        return normalisation_name(self.preprocessing.mean, self.preprocessing.std)

    @property
    def size(self) -> int:
        """Side of the square in pixels."""
        return self.preprocessing.geometry.size

    @property
    def channels(self) -> Channels:
        """Order of the colours."""
        return self.preprocessing.channels

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for equal presentations."""
        return (*self.parts.values(), self.preprocessing.geometry)

    @property
    def parts(self) -> dict[str, str | int]:
        """What can differ between two presentations, by the name of the part."""
        return {
            "architecture": self.source.label,
            "channel order": self.channels,
            "normalisation": self.normalisation,
            "size": self.size,
        }

    def __str__(self) -> str:
        swapped = ", blue first" if self.channels == "bgr" else ""
        return f"{self.source.label}, {self.normalisation}, {self.size} pixels{swapped}"


def alike(one: tuple[Triple, Triple], other: tuple[Triple, Triple]) -> bool:
    """Whether two normalisations show the same image too much alike to be told apart by evidence.

    ImageNet's, CIFAR-10's and CLIP's are; mean and std 0.5, and those without a mean, are not.
    """
    (mean, std), (other_mean, other_std) = one, other
    near = all(abs(a - b) < ALIKE_MEAN for a, b in zip(mean, other_mean, strict=True))
    return near and all(max(a / b, b / a) < ALIKE_STD for a, b in zip(std, other_std, strict=True))


def normalisation_name(mean: Triple, std: Triple) -> str:
    """What a normalisation is called; its numbers where it has no name."""
    for name, known in NORMALISATIONS.items():
        if all(abs(a - b) < 5e-4 for a, b in zip((*mean, *std), (*known[0], *known[1]), strict=True)):
            return name
    shown = (" ".join(f"{value:.3g}" for value in values) for values in (mean, std))
    return "mean {}, std {}".format(*shown)


@dataclass(frozen=True)
class Ways:
    """Makes presentations that differ from the usual one in some of their parts.

    Args:
        usual: what is assumed without evidence.
        prepare: the preprocessing of a network, where `input_size`, `mean`, `std`, `channels` can be given.
    """

    usual: Presentation
    prepare: Callable[..., Preprocessing]

    def with_parts(
        self,
        *,
        source: ModelSource | None = None,
        normalisation: tuple[Triple, Triple] | None = None,
        channels: Channels | None = None,
        size: int | None = None,
    ) -> Presentation | None:
        """The usual presentation with other parts; None where the network takes no images of that size."""
        source = self.usual.source if source is None else source
        known = self.usual.preprocessing
        mean, std = (known.mean, known.std) if normalisation is None else normalisation
        wanted: dict[str, Any] = {"mean": mean, "std": std, "channels": channels or known.channels}
        # Every size is given: an alternative architecture may have another one of its own.
        wanted["input_size"] = self.usual.size if size is None else size
        try:
            return Presentation(source, self.prepare(source, **wanted))
        except InputError:
            return None

    def twin(self, shown: Presentation) -> Presentation | None:
        """The presentation with swapped colours."""
        known = shown.preprocessing
        return self.with_parts(
            source=shown.source,
            normalisation=(known.mean, known.std),
            channels="rgb" if shown.channels == "bgr" else "bgr",
            size=shown.size,
        )

    def neighbours(self, shown: Presentation) -> list[Presentation]:
        """The presentation with each part as usual in which it is not."""
        usual, known = self.usual, shown.preprocessing
        mine: dict[str, Any] = {
            "source": shown.source,
            "normalisation": (known.mean, known.std),
            "channels": shown.channels,
            "size": shown.size,
        }
        others: dict[str, dict[str, Any]] = {
            "architecture": {"source": usual.source},
            "normalisation": {"normalisation": (usual.preprocessing.mean, usual.preprocessing.std)},
            "size": {"size": usual.size},
        }
        made = [
            self.with_parts(**{**mine, **other})
            for part, other in others.items()
            if shown.parts[part] != usual.parts[part]
        ]
        return [each for each in made if each is not None]

    def normalisations(self, own: Preprocessing) -> Iterator[tuple[Triple, Triple]]:
        """The usual, an alternative architecture's own, and the known ones; of those alike the first."""
        usual = self.usual.preprocessing
        seen: list[tuple[Triple, Triple]] = []
        for pair in ((usual.mean, usual.std), (own.mean, own.std), *NORMALISATIONS.values()):
            if not any(alike(pair, other) for other in seen):
                seen.append(pair)
                yield pair

    def sizes(self, own: Preprocessing) -> list[int]:
        """Sizes that make sense: the usual, an architecture's own, smaller ones, twice a small one."""
        usual = self.usual.size
        smaller = [size for size in SMALLER_SIZES if size < 0.75 * usual]
        larger = [2 * usual] if usual <= SMALL else []
        return list(dict.fromkeys([usual, own.geometry.size, *smaller, *larger]))
