"""What detectors that count pixels have in common: masks of units, masks of labels, an IoU normaliser."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.dissection import (
    QUANTILE,
    IoUCounts,
    Normaliser,
    UnitMasks,
    check_normaliser,
    iou_counts,
)
from concept_monitor_cli.lenses.base import Detector
from concept_monitor_cli.record.requests import Masks, Recording, read_masks

if TYPE_CHECKING:
    from concept_monitor_cli.models.layers import LayerInfo
    from concept_monitor_cli.probe import ProbeSet
    from concept_monitor_cli.store import Entry, Writer
    from concept_monitor_cli.study.context import Context


class MaskDetector(Detector):
    """Compares where a unit fires with where labels are.

    Args:
        normaliser: which of a unit's pixels count.
        fraction: of all positions, above a unit's threshold.
    """

    name: ClassVar[str]

    def __init__(self, normaliser: Normaliser, fraction: float = QUANTILE) -> None:
        check_normaliser(normaliser)
        self.normaliser: Normaliser = normaliser
        self.fraction = fraction

    def settings(self) -> dict[str, Any]:
        """See `Detector`."""
        return {"iou_normaliser": self.normaliser, "fraction": self.fraction}

    def depends_on(self, context: Context) -> dict[str, str]:
        """See `Detector`."""
        return {"annotations": context.labels.digest}

    def recording(self, context: Context) -> Recording:
        """See `Detector`."""
        return Masks(context.labels.size, self.fraction)

    def check(self, probe: ProbeSet, layers: Sequence[LayerInfo]) -> None:
        """See `Detector`.

        Raises:
            InputError: the probing set has no masks, or too few images to know what chance gives; a layer has
                no space.
        """
        if probe.annotations is None and probe.masks_problem is not None:
            problem = probe.masks_problem
            what = f"{self.name} needs masks: {problem.what}"
            raise InputError(what, where=problem.where, hint=problem.hint)
        if probe.annotations is None:
            raise InputError(
                f"{self.name} needs masks of labels, and the probing set {probe.name} has none",
                where="--probe",
                hint="give a Broden directory, a COCO panoptic folder or a folder of images and index PNGs; "
                "or use --detector clip-dissect, which needs no masks",
            )
        if len(probe) < 2:
            raise InputError(
                f"{self.name} needs 2 images or more to know what chance gives, not {len(probe)}",
                where="--probe",
            )
        for layer in layers:
            if layer.map_size in (None, (1, 1)):
                raise InputError(
                    f"{layer.name} ({layer.type}) has no maps, and {self.name} asks where a unit fires",
                    where=f"--layer {layer.name}",
                    hint="choose a convolutional layer before it, or use --detector clip-dissect",
                )

    def count(self, masks: UnitMasks, context: Context) -> IoUCounts:
        """The pixels that units and labels share."""
        return iou_counts(context.labels, masks, context.labels.category_numbers)

    def untrained_scores(self, entries: Sequence[Entry], context: Context) -> NDArray[Any]:
        """`raw_scores` of the live units of untrained networks, one network after the other.

        They are the same for every checkpoint of an architecture, so they are kept.

        Args:
            entries: the recordings.
            context: see `find`.
        """
        parts = []
        for entry in entries:
            key = context.store.key(
                "null",
                detector=self.name,
                settings=self.settings(),
                recording=entry.key.digest,
                **self.depends_on(context),
            )

            def make(writer: Writer, entry: Entry = entry) -> None:
                scores = self.raw_scores(read_masks(entry), context)
                writer.put("scores", scores[entry.read("live").astype(bool)])

            with context.store.get_or_make(key, make) as kept:
                parts.append(kept.read("scores"))
        return np.concatenate(parts)

    @abstractmethod
    def raw_scores(self, masks: UnitMasks, context: Context) -> NDArray[np.float64]:
        """What is compared with chance, before chance is known: rows are units."""


def live_units(entry: Entry) -> Tensor:
    """`C`, bool."""
    return torch.from_numpy(entry.read("live").astype(bool))
