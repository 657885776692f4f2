"""Would a unit have the same label, had other images been drawn? The bootstrap over groups of images.

Kept of each unit are a few leading labels only, and of these the pixels by group of images, for the groups in
which the unit fires: memory grows with the number of masks, not with units times labels times images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from concept_monitor_cli.functional.dissection.chance import LabelRule
from concept_monitor_cli.functional.dissection.counts import (
    ImageLabels,
    Normaliser,
    by_groups,
    category_bits,
    check_normaliser,
    image_group,
    known_planes,
    mask_groups,
    pixel_prefix,
    pixels_inside,
)
from concept_monitor_cli.functional.dissection.masks import IntArray, UnitMasks
from concept_monitor_cli.functional.groups import ImageGroups

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

#: Labels of a unit that compete in the draws, its best ones in the whole set.
CANDIDATES = 10
#: The labels that come first in this share of the draws are a unit's concept set.
CONCEPT_SET = 0.9


@dataclass(frozen=True)
class GroupCounts:
    """The pixels of each unit's candidates, by group of images, where the unit fires.

    The set is cut into `A` parts, such as labels, and each candidate is made of some of them.

    Attributes:
        offsets: (C + 1,); unit `k` has the rows `[k]` to `[k + 1]`.
        group: (P,) the group of each row.
        inside: (P, A) sparse, pixels of the unit's mask in each part.
        counted: (P, L) pixels of the unit's mask that count against each candidate.
        areas: (G, A) sparse, pixels of each part in each group.
        members: of a unit, (A, L) int64: 1 where a part belongs to the candidate; no part of a candidate that
            is not there.
    """

    offsets: IntArray
    group: IntArray
    inside: csr_matrix
    counted: IntArray
    areas: csr_matrix
    members: Callable[[int], IntArray]


def label_group_counts(
    labels: Iterable[ImageLabels],
    masks: UnitMasks,
    candidates: IntArray,
    label_categories: Sequence[int] | IntArray,
    groups: ImageGroups,
    normaliser: Normaliser = "none",
) -> GroupCounts:
    """Count the pixels of each unit's candidates by group of images. One pass over the labels.

    Args:
        labels: the labels of each image that `masks` covers, in the same order.
        masks: the units' masks.
        candidates: (C, L) labels of each unit, best first; -1 where there are fewer.
        label_categories: as for `iou_counts`.
        groups: of the images.
        normaliser: which of a unit's pixels count.

    Raises:
        ValueError: as `iou_counts`.
    """
    bits = category_bits(np.asarray(label_categories, dtype=np.int64))
    collected = GroupCollector(masks, groups, np.where(candidates >= 0, bits[candidates], 0), normaliser)
    rows = masks.image_rows()
    for number, image, _ in by_groups(labels, masks.n_images, groups):
        indices, planes = known_planes(image, masks.size, len(bits))
        prefix = pixel_prefix(planes)
        first, stop = int(rows[number]), int(rows[number + 1])
        offsets = masks.offsets[first : stop + 1]
        inside = pixels_inside(masks.edges[offsets[0] : offsets[-1]], offsets, prefix)
        collected.add(number, indices, prefix[-1], inside)
        if normaliser == "category":
            collected.met(number, np.full(stop - first, image_group(bits[indices])))
        elif normaliser == "mask":
            collected.met(number, mask_groups(inside, bits[indices]))

    def members(unit: int) -> IntArray:
        found: IntArray = (np.arange(len(bits))[:, None] == candidates[unit]).astype(np.int64)
        return found

    return collected.counts(len(bits), members)


class GroupCollector:
    """Collects what the images have of each part, and puts it together by unit and group.

    Args:
        masks: the units' masks.
        groups: of the images.
        categories: (C, L) bit mask of the categories of each candidate, for the normaliser.
        normaliser: which of a unit's pixels count.
    """

    def __init__(
        self, masks: UnitMasks, groups: ImageGroups, categories: IntArray, normaliser: Normaliser
    ) -> None:
        check_normaliser(normaliser)
        self._masks, self._groups, self._categories = masks, groups, categories
        self._rows = masks.image_rows()
        areas = masks.areas()[:, None]
        self._counted = np.repeat(areas, categories.shape[1], axis=1)
        self._place: list[tuple[IntArray, IntArray, IntArray]] = []  # pair, part, pixels
        self._areas: list[tuple[IntArray, IntArray, IntArray]] = []  # group, part, pixels

    def add(self, image: int, parts: IntArray, sizes: NDArray[Any], inside: NDArray[Any]) -> None:
        """An image.

        Args:
            image: its number.
            parts: (K,) the parts that it has.
            sizes: (K,) their pixels in it.
            inside: (n, K) the pixels in each of its masks.
        """
        self._areas.append((np.full(len(parts), self._groups.of[image]), parts, sizes.astype(np.int64)))
        row, column = np.nonzero(inside)
        self._place.append((self._rows[image] + row, parts[column], inside[row, column].astype(np.int64)))

    def met(self, image: int, categories: IntArray) -> None:
        """The categories that an image's masks meet: only against these their pixels count.

        Args:
            image: its number.
            categories: (n,) a bit mask for each of its masks.
        """
        part = slice(self._rows[image], self._rows[image + 1])
        own = self._categories[self._masks.unit[part]]
        self._counted[part] = np.where(categories[:, None] & own, self._counted[part], 0)

    def counts(self, n_parts: int, members: Callable[[int], IntArray]) -> GroupCounts:
        """What was collected."""
        from scipy.sparse import csr_matrix

        masks, group = self._masks, self._groups.of[self._masks.image]
        order, starts = _equal_rows(masks.unit, group)
        row_of = np.empty(len(order), dtype=np.int64)
        row_of[order] = np.repeat(np.arange(len(starts)), np.diff([*starts, len(order)]))
        pair, part, pixels = (np.concatenate(each) for each in zip(*self._place, strict=True))
        where, piece, sizes = (np.concatenate(each) for each in zip(*self._areas, strict=True))
        counted = self._counted[order]
        return GroupCounts(
            offsets=np.searchsorted(masks.unit[order][starts], np.arange(masks.n_units + 1)),
            group=group[order][starts],
            inside=csr_matrix((pixels, (row_of[pair], part)), shape=(len(starts), n_parts)),
            counted=np.add.reduceat(counted, starts) if len(starts) else counted,
            areas=csr_matrix((sizes, (where, piece)), shape=(self._groups.n_groups, n_parts)),
            members=members,
        )


def _equal_rows(unit: NDArray[np.int32], group: IntArray) -> tuple[IntArray, IntArray]:
    """An order of the pairs by unit, then group, and where in it each (unit, group) begins."""
    order = np.lexsort((group, unit)).astype(np.int64)
    if not len(order):
        return order, order
    new = (np.diff(unit[order]) != 0) | (np.diff(group[order]) != 0)
    return order, np.flatnonzero(np.concatenate([[True], new])).astype(np.int64)


def drawn_winners(counts: GroupCounts, draws: IntArray, rule: LabelRule) -> IntArray:
    """Which candidate of each unit comes first when groups of images are drawn with replacement.

    With `w_g` the times that group `g` was drawn, all counts are sums over groups with these weights. A group
    that was drawn twice counts as one image twice as large in the part that is left out by `supported_iou`:
    it is `I - max_g w_g I_g` there.

    Args:
        counts: of the units' candidates.
        draws: (R, G), how often each group was drawn.
        rule: by which the first is chosen; see `ranked_labels`.

    Returns:
        (R, C) int64, the place among the candidates; -1 where none of them has anything. Ties go to the
        candidate that comes first.
    """
    draws = np.asarray(draws, dtype=np.int64)
    units = len(counts.offsets) - 1
    winners = np.full((len(draws), units), -1, dtype=np.int64)
    sizes = (counts.areas.T @ draws.T).T  # (R, A)
    for unit in range(units):
        rows = slice(counts.offsets[unit], counts.offsets[unit + 1])
        if rows.start == rows.stop:
            continue
        members, drawn = counts.members(unit), draws[:, counts.group[rows]]
        inside = counts.inside[rows] @ members
        shared = drawn @ inside
        part = shared
        if rule == "supported":
            part = shared - np.stack([(drawn * each).max(axis=1) for each in inside.T], axis=1)
        union = drawn @ counts.counted[rows] + sizes @ members - shared
        score = np.divide(part, union, out=np.zeros(union.shape), where=union > 0)
        winners[:, unit] = np.where(score.max(axis=1) > 0, score.argmax(axis=1), -1)
    return winners


def candidate_ious(counts: GroupCounts) -> NDArray[np.float64]:
    """The IoU of each unit with each of its candidates over all images: (C, L); 0 for one not there."""
    units = len(counts.offsets) - 1
    sizes = np.asarray(counts.areas.sum(axis=0)).ravel()
    ious = np.zeros((units, counts.counted.shape[1]))
    for unit in range(units):
        rows, members = slice(counts.offsets[unit], counts.offsets[unit + 1]), counts.members(unit)
        shared = np.asarray(counts.inside[rows].sum(axis=0)).ravel() @ members
        union = counts.counted[rows].sum(axis=0) + sizes @ members - shared
        np.divide(shared, union, out=ious[unit], where=union > 0)
    return ious


def share_first(winners: IntArray) -> NDArray[np.float64]:
    """The share of the draws in which the first candidate stays first: (C,), from winners (R, C)."""
    share: NDArray[np.float64] = (winners == 0).mean(axis=0)
    return share


def concept_sets(winners: IntArray, share: float = CONCEPT_SET) -> list[list[int]]:
    """The fewest candidates that come first in this share of the draws, most frequent first.

    Args:
        winners: (R, C) places among the candidates, -1 for none.
        share: of the draws.

    Returns:
        for each unit the places among its candidates. Fewer draws than the share may have a winner at all:
        then all winners.

    Example:
        >>> concept_sets(np.array([[0], [0], [2], [1], [2], [0], [0], [0], [0], [0]]), 0.9)
        [[0, 2]]
    """
    sets = []
    for column in winners.T:
        times = np.bincount(column[column >= 0], minlength=1)
        order = np.argsort(-times, kind="stable")
        order = order[times[order] > 0]
        enough = int(np.searchsorted(np.cumsum(times[order]), share * len(column) - 1e-9)) + 1
        sets.append(order[:enough].tolist())
    return sets
