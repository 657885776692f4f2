"""The pixels of each unit's best formulas by group of images: for the bootstrap over these."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from concept_monitor_cli.functional.compositional.cells import cut_images
from concept_monitor_cli.functional.compositional.formulas import Formula
from concept_monitor_cli.functional.dissection import (
    GroupCollector,
    GroupCounts,
    ImageLabels,
    IntArray,
    Normaliser,
    UnitMasks,
    category_bits,
)
from concept_monitor_cli.functional.groups import ImageGroups


def formula_group_counts(
    labels: Iterable[ImageLabels],
    masks: UnitMasks,
    candidates: Sequence[Sequence[Formula]],
    label_categories: Sequence[int] | IntArray,
    groups: ImageGroups,
    normaliser: Normaliser = "none",
) -> GroupCounts:
    """Count the pixels of each unit's candidates by group of images, as `label_group_counts` does for labels.

    The parts are cells, pixels that carry the same labels. One pass over the labels.

    Args:
        labels: the labels of each image that `masks` covers, in the same order.
        masks: the units' masks.
        candidates: of each unit, best first.
        label_categories: as for `iou_counts`.
        groups: of the images.
        normaliser: which of a unit's pixels count.

    Raises:
        ValueError: as `iou_counts`.
    """
    bits = category_bits(np.asarray(label_categories, dtype=np.int64))
    most = max([1, *(len(each) for each in candidates)])
    own = np.zeros((len(candidates), most), dtype=np.int64)
    for unit, formulas in enumerate(candidates):
        for place, formula in enumerate(formulas):
            own[unit, place] = np.bitwise_or.reduce(bits[list(formula.names)])
    collected = GroupCollector(masks, groups, own, normaliser)
    cells: dict[tuple[int, ...], int] = {}
    for number, cut, ((first, stop),), _ in cut_images(labels, [masks], groups):
        inside = cut.inside(masks, first, stop)[:, 1:]  # the first is the pixels without a label
        parts = np.array([cells.setdefault(each, len(cells)) for each in cut.signatures[1:]], dtype=np.int64)
        collected.add(number, parts, cut.sizes[1:], inside)
        if normaliser != "none":
            of_cell = np.array(
                [np.bitwise_or.reduce(bits[list(each)]) for each in cut.signatures[1:]], dtype=np.int64
            )
            there = inside > 0 if normaliser == "mask" else np.ones(inside.shape, dtype=bool)
            collected.met(number, np.bitwise_or.reduce(np.where(there, of_cell, 0), axis=1, initial=0))
    carried: dict[int, list[int]] = {}
    for signature, cell in cells.items():
        for label in signature:
            carried.setdefault(label, []).append(cell)

    def mask(label: int) -> NDArray[np.bool_]:
        row = np.zeros(len(cells), dtype=bool)
        row[carried.get(label, [])] = True
        return row

    def members(unit: int) -> IntArray:
        found = np.zeros((len(cells), most), dtype=np.int64)
        for place, formula in enumerate(candidates[unit]):
            found[:, place] = formula.evaluate(mask)
        return found

    return collected.counts(len(cells), members)
