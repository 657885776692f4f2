"""What detectors that count pixels have in common: masks of units, masks of labels, an IoU normaliser."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.calibration import above_null
from concept_monitor_cli.functional.dissection import (
    QUANTILE,
    GroupCounts,
    IoUCounts,
    LabelRule,
    Normaliser,
    UnitMasks,
    chance_effect,
    check_normaliser,
    concept_sets,
    drawn_winners,
    iou_counts,
    share_first,
)
from concept_monitor_cli.lenses.base import Detector
from concept_monitor_cli.lenses.names.mask_halves import NamedHalf, halves_of_masks
from concept_monitor_cli.record.requests import Masks, Recording, read_masks
from concept_monitor_cli.run.traits import Candidates, Evidence
from concept_monitor_cli.wording import counted

if TYPE_CHECKING:
    from concept_monitor_cli.lenses.halves import Halves
    from concept_monitor_cli.models.layers import LayerInfo
    from concept_monitor_cli.probe import ProbeSet
    from concept_monitor_cli.store import Entry, Writer
    from concept_monitor_cli.study.context import Context


# A unit that fires on fewer groups of images is `sparse`: whatever it overlaps with hangs on a single image,
# and no label can have support. Of units that fire on two or three images no more are called by chance than
# of others (docs/calibration.md).
FEWEST_GROUPS = 2


@dataclass(frozen=True)
class MaskedUnits:
    """The masks of a layer's units.

    Attributes:
        masks: where they fire.
        live: (C,) bool, units that can have a concept.
        sparse: (C,) bool, units that fire on fewer than `FEWEST_GROUPS` groups of images.
    """

    masks: UnitMasks
    live: Tensor
    sparse: NDArray[np.bool_]


@dataclass(frozen=True)
class Sureness:
    """How sure a unit's concept is.

    Attributes:
        stability: (C,) share of the draws in which the first candidate stays first.
        sets: of each unit the places of the candidates that make up nine tenths of the draws.
    """

    stability: NDArray[np.float64]
    sets: list[list[int]]


class PixelDetector(Detector):
    """Compares units and labels pixel by pixel."""

    name: ClassVar[str]
    evidence: ClassVar[Evidence] = "pixels"
    candidates: ClassVar[Candidates] = "annotations"

    def depends_on(self, context: Context) -> dict[str, str]:
        """See `Detector`."""
        return {"annotations": context.labels.digest, "groups": context.groups_digest}

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

    def check_groups(self, context: Context) -> None:
        """Refuse images of which it cannot be known what chance gives.

        Raises:
            InputError: all images are one group.
        """
        if context.groups.n_groups < 2:
            raise InputError(
                f"all {counted(len(context.probe), 'images are')} copies or one group, and "
                f"{self.name} needs 2 groups or "
                "more to know what chance gives",
                where="--probe",
                hint="give more images, or name their groups with --groups",
            )

    def count(self, masks: UnitMasks, context: Context) -> IoUCounts:
        """The pixels that units and labels share."""
        return iou_counts(context.labels, masks, context.labels.category_numbers, context.groups)


class MaskDetector(PixelDetector):
    """Compares where a unit fires with where labels are.

    Args:
        normaliser: which of a unit's pixels count.
        fraction: of all positions, above a unit's threshold.
        stability: draw the images again to say how sure the concepts are.
    """

    name: ClassVar[str]

    def __init__(self, normaliser: Normaliser, fraction: float = QUANTILE, *, stability: bool = True) -> None:
        check_normaliser(normaliser)
        self.normaliser: Normaliser = normaliser
        self.fraction = fraction
        self.stability = stability

    def settings(self) -> dict[str, Any]:
        """See `Detector`."""
        return {
            "iou_normaliser": self.normaliser,
            "fraction": self.fraction,
            "stability": self.stability,
            "fewest_groups": FEWEST_GROUPS,
        }

    def recording(self, context: Context) -> Recording:
        """See `Detector`."""
        return Masks(context.labels.size, self.fraction)

    def read(self, entry: Entry, context: Context) -> MaskedUnits:
        """The masks of a recording, and which of its units can have a concept.

        Raises:
            InputError: all images are one group.
        """
        self.check_groups(context)
        masks = read_masks(entry)
        alive = entry.read("live").astype(bool)
        firing = masks.firing_groups(context.groups) >= FEWEST_GROUPS
        return MaskedUnits(masks, torch.from_numpy(alive & firing), alive & ~firing)

    def sureness(self, counts: GroupCounts, rule: LabelRule, context: Context) -> Sureness:
        """How sure the first of each unit's candidates is, from draws of groups of images."""
        groups = context.groups
        drawn = context.bootstrap.numpy()[:, groups.members[groups.starts]]
        winners = drawn_winners(counts, drawn, rule)
        return Sureness(share_first(winners), concept_sets(winners))

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
                writer.put("scores", scores[self.read(entry, context).live.numpy()])

            with context.store.get_or_make(key, make) as kept:
                parts.append(kept.read("scores"))
        return np.concatenate(parts)

    def sparse_note(self, units: MaskedUnits) -> tuple[str, ...]:
        """What the user should know of the units that are sparse."""
        count = int(units.sparse.sum())
        if not count:
            return ()
        return (
            f"{counted(count, 'units fire')} above their threshold on fewer than {FEWEST_GROUPS} "
            "images, or groups of "
            "images: they are `sparse` and have no concept",
        )

    def halves(self, entry: Entry, context: Context) -> Halves | None:
        """See `Detector`."""
        units = self.read(entry, context)
        return halves_of_masks(self, units.masks, units.live.numpy(), context)

    def names_on_half(self, masks: UnitMasks, context: Context) -> NDArray[np.bool_]:
        """Units that fire on enough groups of these images to be named: (C,)."""
        firing: NDArray[np.bool_] = masks.firing_groups(context.groups) >= FEWEST_GROUPS
        return firing

    @abstractmethod
    def named_on(self, masks: UnitMasks, context: Context) -> NamedHalf:
        """The labels that it gives from a part of the images."""

    @abstractmethod
    def ious_of(
        self, masks: UnitMasks, candidates: Sequence[Sequence[Any]], context: Context
    ) -> NDArray[np.float64]:
        """The IoU of each unit with each of its candidates, (C, L)."""

    @abstractmethod
    def raw_scores(self, masks: UnitMasks, context: Context) -> NDArray[np.float64]:
        """What is compared with chance, before chance is known: rows are units."""


def effect_beyond(tested: Tensor, null: Tensor) -> NDArray[np.float64]:
    """`chance_effect`, or, where all units have one null, in standard deviations of that: (C,)."""
    if null.ndim == 2:
        return chance_effect(tested, null).numpy()
    above: NDArray[np.float64] = above_null(tested, null.double()).numpy()
    return above
