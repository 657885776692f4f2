"""Showing some photos to a network in one way, and how far that is from what it remembers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce

import numpy as np
import torch
from torch import Tensor, nn

from concept_monitor_cli.errors import CmonError, InputError
from concept_monitor_cli.evidence.candidates import Presentation
from concept_monitor_cli.functional.input_evidence import layer_divergence, network_divergence
from concept_monitor_cli.functional.resampling import image_counts
from concept_monitor_cli.models.batch_norm import Moments, RunningLayer, input_moments, running_layers
from concept_monitor_cli.models.geometry import Geometry
from concept_monitor_cli.models.layers import evaluation
from concept_monitor_cli.models.normalise import Normaliser
from concept_monitor_cli.probe.decode import Pixels8, shape_image
from concept_monitor_cli.probe.probe_set import ProbeSet
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.record.forward import is_out_of_memory

PHOTOS = 32
"""Probing images that are shown to the whole network."""

MOST_PHOTOS = 128
"""Probing images that are shown to the first layers, which alone tell of the order of colours."""

RESAMPLES = 200
"""Resamples of the photos in the bootstrap."""

_BATCH = 16


def chosen_rows(images: int, photos: int = MOST_PHOTOS) -> list[int]:
    """Which probing images are looked at: evenly spread, in a random order that is always the same.

    So the first few of them are spread over the set as well.
    """
    rows = np.unique(np.linspace(0, images - 1, min(images, photos)).round().astype(int))
    return [int(row) for row in np.random.default_rng(0).permutation(rows)]


class Photos:
    """Some images of a probing set, decoded once and cut to each geometry that is asked for.

    Args:
        probe: the probing set.
        progress: told of images that cannot be read; they are left out.
    """

    def __init__(self, probe: ProbeSet, progress: Progress = SILENT) -> None:
        self._images = []
        for row in chosen_rows(len(probe)):
            try:
                self._images.append(probe.image(row))
            except InputError as error:
                progress.detail(f"not looked at: {error.what}")
        self._cut: dict[Geometry, list[Pixels8]] = {}

    def __len__(self) -> int:
        return len(self._images)

    def pixels(self, geometry: Geometry, count: int) -> Tensor:
        """The first `count` of them, uint8 `(count, S, S, 3)`."""
        cut = self._cut.setdefault(geometry, [])
        cut += [shape_image(image, geometry) for image in self._images[len(cut) : count]]
        return torch.from_numpy(np.stack(cut[:count]))


@dataclass(frozen=True)
class Measured:
    """How far a presentation is from what the network remembers.

    Attributes:
        presentation: what was shown.
        photos: how many.
        layers: how many layers of batch normalisation were compared.
        divergence: the median over these of the divergence, for the photos as they are.
        resampled: `(R,)`, the same for resamples of the photos.
        first: `(R,)`, of the first layer of the forward pass alone, likewise.
    """

    presentation: Presentation
    photos: int
    layers: int
    divergence: float
    resampled: Tensor
    first: Tensor

    @property
    def interval(self) -> tuple[float, float]:
        """The middle 95 % of the resamples."""
        ends = torch.quantile(self.resampled, torch.tensor([0.025, 0.975], dtype=torch.float64))
        return float(ends[0]), float(ends[1])


class Eye:
    """Networks of one checkpoint, that are shown photos.

    What was seen is kept, so that a photo is shown once in each way. `passes` counts what that cost: photos
    times the share of the layers that they went through.

    Args:
        weights: the checkpoint's state dict.
        photos: what they are shown.
        device: where they run.
        seed: of the resamples.
    """

    def __init__(
        self, weights: Mapping[str, Tensor], photos: Photos, device: torch.device, seed: int = 0
    ) -> None:
        self.photos = photos
        self._weights, self._device, self._seed = weights, device, seed
        self._models: dict[str, nn.Module] = {}
        self._seen: dict[tuple[object, ...], dict[int | None, list[Moments]]] = {}
        self.passes = 0.0

    def layers(self, presentation: Presentation) -> list[RunningLayer]:
        """The layers of the presentation's network that have running statistics."""
        return running_layers(self._model(presentation))

    def _model(self, presentation: Presentation) -> nn.Module:
        label = presentation.source.label
        if label not in self._models:
            model = presentation.source.restore(self._weights, self._device).float()
            self._models[label] = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self._models[label]

    def forget(self, labels: Sequence[str]) -> None:
        """Free the memory of all networks but these."""
        self._models = {label: model for label, model in self._models.items() if label in labels}

    def look(self, presentation: Presentation, photos: int, *, first: int | None = None) -> Measured | None:
        """Show photos.

        Args:
            presentation: the network, and how they are shown.
            photos: how many of them.
            first: compare only so many layers, the first of the forward pass.

        Returns:
            What was measured; None where the network takes no images of that size.

        Raises:
            CmonError: the memory does not suffice.
        """
        shown = self.moments(presentation, photos, first=first)
        if not shown:
            return None
        counts = torch.cat([torch.ones(1, photos, dtype=torch.int64), _counts(photos, self._seed)])
        layers = [_divergence(each, counts) for each in shown if each.layer.trained]
        if not layers:
            return None
        together = network_divergence(layers)
        return Measured(
            presentation,
            photos,
            len(layers),
            float(together[0]),
            together[1:],
            first=layers[0][1:],
        )

    def moments(self, presentation: Presentation, photos: int, *, first: int | None = None) -> list[Moments]:
        """The moments of the layers' inputs over the first photos, in the order of the forward pass.

        Empty where the network takes no images of that size.
        """
        by_depth = self._seen.setdefault(presentation.key, {})
        for depth, moments in by_depth.items():
            deep = depth is None or (first is not None and depth >= first)
            if deep and (not moments or len(moments[0].means) >= photos):
                return [each.of_first(photos) for each in moments[:first]]
        known = by_depth.get(first, [])
        begin = len(known[0].means) if known else 0
        fresh = self._show(presentation, begin, photos, first)
        by_depth[first] = (
            [one.before(other) for one, other in zip(known, fresh, strict=True)] if begin else fresh
        )
        return by_depth[first]

    def matched(self, presentation: Presentation) -> list[Moments]:
        """The moments of the layers' inputs over all photos, where each layer hands on what it remembers.

        See `input_moments`: all photos are one batch. Empty where the network takes no images of that size.
        """
        return self._show(presentation, 0, len(self.photos), None, matched=True)

    def _show(
        self, presentation: Presentation, begin: int, end: int, first: int | None, *, matched: bool = False
    ) -> list[Moments]:
        """The moments over some of the photos."""
        model = self._model(presentation)
        layers = running_layers(model)
        pixels = self.photos.pixels(presentation.preprocessing.geometry, end)
        batch = end - begin if matched else min(_BATCH, end - begin)
        normalise = Normaliser(presentation.preprocessing, batch, self._device, torch.float32)
        starts = range(begin, end, batch)
        try:
            with evaluation(model), input_moments(model, layers, first=first, matched=matched) as read:
                pieces = [
                    read(normalise(pixels[start : min(start + batch, end)].to(self._device)))
                    for start in starts
                ]
        except CmonError:
            raise
        except Exception as error:  # whatever a network's code raises on images of another size
            if is_out_of_memory(error):
                raise CmonError(
                    f"out of memory on {self._device} with {batch} images at a time",
                    where=presentation.source.label,
                    hint="a device with more memory",
                ) from error
            return []  # too small for its strides, or of another size than it was built for
        self.passes += (end - begin) * len(pieces[0]) / max(1, len(layers))
        return [reduce(Moments.before, moments) for moments in zip(*pieces, strict=True)]


@lru_cache(maxsize=4)
def _counts(photos: int, seed: int) -> Tensor:
    return image_counts(photos, range(RESAMPLES), seed=seed)


def _divergence(moments: Moments, counts: Tensor) -> Tensor:
    layer = moments.layer
    return layer_divergence(
        moments.means, moments.squares, layer.mean, layer.variance, eps=layer.eps, counts=counts
    )
