"""What either half of the images says of units that are named by masks.

As `lenses.halves` asks it of similarities: a unit is named on one half of the groups of images, and how well
its mask and the label overlap is asked of the other, beside labels of other units there. The thresholds of
units are those of all images.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from concept_monitor_cli.functional.dissection import ImageLabels, UnitMasks
from concept_monitor_cli.functional.groups import ImageGroups, halves
from concept_monitor_cli.lenses.halves import LEAST_GROUPS, Halves, asked_units, cosine_distance

if TYPE_CHECKING:
    from concept_monitor_cli.study.context import Context

#: Labels of other units that each unit is compared with on the other half: their mean is chance.
OTHERS = 8


@dataclass(frozen=True)
class NamedHalf:
    """The labels of units on one half.

    Attributes:
        labels: of every unit; `None` for one without.
        texts: the same as words; `""`.
        places: `(C, D)`, in the space of words, NaN for a unit without; `None` where there are none.
    """

    labels: Sequence[Hashable | None]
    texts: Sequence[str]
    places: Tensor | None = None


class AskedDetector(Protocol):
    """A detector that says how well labels fit."""

    def ious_of(
        self, masks: UnitMasks, candidates: Sequence[Sequence[Any]], context: Context
    ) -> NDArray[np.float64]:
        """The IoU of each unit with each of its candidates, `(C, L)`."""


class HalvedDetector(AskedDetector, Protocol):
    """A detector that can be asked about a half of the images."""

    def named_on(self, masks: UnitMasks, context: Context) -> NamedHalf:
        """The labels that it gives from these images."""


class _SomeImages(Sequence[ImageLabels]):
    """The labels of some images."""

    def __init__(self, labels: Sequence[ImageLabels], rows: NDArray[np.int64]) -> None:
        self._labels, self._rows = labels, rows.tolist()
        self.names, self.categories = labels.names, labels.categories  # type: ignore[attr-defined]
        self.category_numbers = labels.category_numbers  # type: ignore[attr-defined]
        self.size = labels.size  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> ImageLabels:  # type: ignore[override]
        image: ImageLabels = self._labels[self._rows[index]]
        return image


def on_images(context: Context, rows: NDArray[np.int64]) -> Context:
    """The context of some of the images: their labels and groups."""
    some = copy.copy(context)
    some.__dict__.update(
        labels=_SomeImages(context.labels, rows), groups=ImageGroups.read(context.groups.of[rows])
    )
    return some


def halves_of_masks(
    detector: HalvedDetector, masks: UnitMasks, live: NDArray[np.bool_], context: Context
) -> Halves | None:
    """Name the live units of a layer on either half of the images, and ask the other half.

    Args:
        detector: its rule.
        masks: of all units on all images.
        live: `(C,)`, units that can have a label.
        context: labels and groups of the images.

    Returns:
        `held_out` is the IoU of a unit with its label of the other half, `chance` the mean of those of up to
        `OTHERS` other units' labels. `None` where there are too few groups of images, or no live unit.
    """
    units = asked_units(live)
    if context.groups.n_groups < 2 * LEAST_GROUPS or not len(units):
        return None
    first = halves(context.groups, seed=context.seed)
    rows = [np.flatnonzero(half) for half in (first, ~first)]
    parts = [masks.part(own, units) for own in rows]
    contexts = [on_images(context, own) for own in rows]
    named = [detector.named_on(*each) for each in zip(parts, contexts, strict=True)]
    found = [
        asked_of_other_half(detector, named[here].labels, parts[1 - here], contexts[1 - here], context.seed)
        for here in (0, 1)
    ]
    own, chance = (torch.stack(pair).nanmean(0).numpy() for pair in zip(*found, strict=True))
    distance = np.full(len(units), np.nan)
    if named[0].places is not None and named[1].places is not None:
        distance = cosine_distance(named[0].places, named[1].places).cpu().numpy()
    concept_a, concept_b = (np.array(each.texts, dtype=object) for each in named)
    return Halves(units, concept_a, concept_b, distance, own, chance, measure="iou")


def asked_of_other_half(
    detector: AskedDetector,
    labels: Sequence[Hashable | None],
    masks: UnitMasks,
    context: Context,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """The IoU of labels on images that they were not found on, and that of other units' labels."""
    generator = np.random.default_rng(seed)
    known = [label for label in labels if label is not None]
    candidates: list[list[Hashable]] = []
    for label in labels:
        # Drawn among units, so that a frequent label is frequent in chance, too.
        others = [other for other in known if other != label] if label is not None else []
        chosen = generator.choice(len(others), min(OTHERS, len(others)), replace=False)
        candidates.append([] if label is None else [label, *(others[place] for place in chosen)])
    own, chance = (torch.full((len(labels),), torch.nan, dtype=torch.float64) for _ in range(2))
    if not known:
        return own, chance
    ious = detector.ious_of(masks, candidates, context)
    for unit, each in enumerate(candidates):
        if each:
            own[unit] = float(ious[unit, 0])
        if len(each) > 1:
            chance[unit] = float(ious[unit, 1 : len(each)].mean())
    return own, chance
