"""What the pictures of a batch climb, and what the layer says of them when they are done."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from concept_monitor_cli.functional import objectives
from concept_monitor_cli.functional import pictures as method
from concept_monitor_cli.options import PictureOptions
from concept_monitor_cli.record.sight import Sight
from concept_monitor_cli.stories.picture_wishes import Scale, Wish


class Score:
    """The objective of a batch of pictures of one layer.

    Args:
        sight: the layer.
        wishes: the pictures; of `--diverse` all of a unit stand together.
        options: which objective.
        scale: what the probing images say of the layer, for pairs and `--diverse`.
        of_images: of caricatures the images, `(B, channels, s, s)`.
    """

    def __init__(
        self,
        sight: Sight,
        wishes: Sequence[Wish],
        options: PictureOptions,
        scale: Scale | None = None,
        of_images: Tensor | None = None,
    ) -> None:
        self._sight, self._wishes, self._options, self._scale = sight, wishes, options, scale
        self._units: Tensor | None = None
        self._said_of_images: Tensor | None = None
        if of_images is not None:
            with torch.no_grad():
                self._said_of_images = sight.maps(of_images).detach()

    def climbed(self, images: Tensor) -> Tensor:
        """The objective of each picture, `(B,)`, in the graph.

        Args:
            images: `(B, channels, s, s)` in [0, 1].
        """
        sight = self._sight
        if self._said_of_images is not None:
            return objectives.caricature(sight.maps(images), self._said_of_images)
        if self._wishes[0].other >= 0:
            return self._blended(images)
        if self._wishes[0].member >= 0:
            return self._diverse(images)
        if self._options.objective == "layer":
            return objectives.layer_energy(sight.maps(images))
        units = self._of(images)
        if self._options.objective == "neuron":
            return method.at_centre(sight.maps(images), units)
        sign = -1.0 if self._options.objective == "unit-" else 1.0
        return sign * method.of_own(sight.pooled(images), units)

    def _of(self, images: Tensor) -> Tensor:
        """The unit of each picture, on the device of the images."""
        if self._units is None or self._units.device != images.device:
            self._units = torch.tensor([wish.unit for wish in self._wishes], device=images.device)
        return self._units

    def _blended(self, images: Tensor) -> Tensor:
        """The way from one unit to another, in `u`: otherwise the louder one decides."""
        assert self._scale is not None
        others = torch.tensor([wish.other for wish in self._wishes], device=images.device)
        mean, maximum = self._scale.mean.to(images.device), self._scale.maximum.to(images.device)
        pooled = self._sight.pooled(images)
        first, second = (
            method.above_mean(method.of_own(pooled, own), mean[own], maximum[own])
            for own in (self._of(images), others)
        )
        return method.blends([wish.share for wish in self._wishes], first, second)

    def _diverse(self, images: Tensor) -> Tensor:
        """`u` of each picture, less how like it is to the others of its unit."""
        assert self._scale is not None
        units = self._of(images)
        mean = self._scale.mean.to(images.device)[units]
        span = self._scale.maximum.to(images.device)[units] - mean
        pooled, maps = self._sight.pooled_and_channels(images)
        # A unit that says the same of all photos has no best one to count from, and is climbed as it is.
        u = (method.of_own(pooled, units) - mean) / torch.where(span > 0, span, 1.0)
        count = self._options.diverse
        cosines = objectives.gram_cosines(maps.reshape(-1, count, *maps.shape[1:]))
        return objectives.diverse(u.reshape(-1, count), cosines, self._options.diversity).flatten()

    def said(self, images: Tensor) -> Tensor:
        """What is said of finished pictures, without a graph.

        Args:
            images: `(B, channels, s, s)`.

        Returns:
            `(B, R)`: the units as a recording has them; of a whole layer how loud it is, of a caricature how
            like its image, `(B, 1)`.
        """
        if self._said_of_images is None and self._options.objective != "layer":
            return self._sight.activations(images)
        with torch.no_grad():
            maps = self._sight.maps(images)
            if self._said_of_images is None:
                return objectives.layer_energy(maps)[:, None]
            return objectives.resemblance(maps, self._said_of_images)[:, None]

    def own(self, said: Tensor) -> Tensor:
        """Of what `said` gives, what each picture is of, `(B,)`."""
        return method.of_own(said, self._of(said))

    def alike(self, images: Tensor, others: Tensor) -> Tensor:
        """How like other images pictures are to the layer, `(B,)`; both `(B, channels, s, s)`."""
        with torch.no_grad():
            return objectives.resemblance(self._sight.maps(images), self._sight.maps(others))
