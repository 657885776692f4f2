"""Masks laid over the wrong images: what a unit that knows nothing of the labels reaches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from concept_monitor_cli.functional.calibration import p_values
from concept_monitor_cli.functional.dissection.counts import (
    ImageLabels,
    IoUCounts,
    Luckiest,
    Normaliser,
    by_groups,
    category_bits,
    check_normaliser,
    image_group,
    iou,
    known_planes,
    mask_groups,
    pixel_prefix,
    pixels_inside,
    supported_iou,
)
from concept_monitor_cli.functional.dissection.masks import UnitMasks, gather_runs
from concept_monitor_cli.functional.groups import ImageGroups, Rotations
from concept_monitor_cli.functional.topk import top_rows

LabelRule = Literal["supported", "iou"]
LABEL_RULES: tuple[LabelRule, ...] = ("supported", "iou")

# The normaliser of the supported IoU that is compared with chance, whatever that of the score: with
# `category` and `mask` a unit is left with few pixels where a category is on few images, and by luck these
# overlap well.
TESTED: Normaliser = "none"


@dataclass(frozen=True)
class RankedLabels:
    """The labels of every unit, best first, by one rule.

    Attributes:
        indices: (C, k) labels, best first; ties to the lower index.
        ranked: (C, k) what they are ranked by. A label with 0 here is none of the unit's labels.
        tested: (C,) the statistic that is compared with chance: the supported IoU of the first label.
    """

    indices: torch.Tensor
    ranked: torch.Tensor
    tested: torch.Tensor


def ranked_labels(counts: IoUCounts, rule: LabelRule, normaliser: Normaliser, k: int) -> RankedLabels:
    """The best labels of every unit.

    Two rules. Both are tested by `supported_iou`, unrestricted (`TESTED`), of the label that comes first:

    - `supported`: by the supported IoU itself;
    - `iou`: by the plain IoU under the normaliser, as the literature does (Bau et al. 2017). Among hundreds
      of labels this is often a rare one that the unit meets in a single image; then the statistic is 0.

    Args:
        counts: from `iou_counts`.
        rule: see above.
        normaliser: of the plain IoU.
        k: labels per unit.

    Raises:
        ValueError: an unknown rule or normaliser.
    """
    if rule not in LABEL_RULES:
        raise ValueError(f"unknown label rule {rule!r}, expected one of {', '.join(LABEL_RULES)}")
    supported = supported_iou(counts, TESTED)
    ranking = supported if rule == "supported" else iou(counts, normaliser)
    indices, ranked = top_rows(ranking, k)
    tested = supported.gather(1, indices[:, :1])[:, 0]
    return RankedLabels(indices, ranked, tested.where(ranked[:, 0] > 0, tested.new_zeros(())))


def shuffled_support(
    labels: Iterable[ImageLabels],
    masks: UnitMasks,
    counts: IoUCounts,
    normaliser: Normaliser = "category",
    *,
    rule: LabelRule = "supported",
    groups: ImageGroups | None = None,
    rounds: int = 20,
    seed: int = 0,
    memory: int = 1 << 27,
) -> torch.Tensor:
    """`ranked_labels(...).tested` of every unit when its masks are laid over the wrong images: chance.

    In every round the images are put into a random order and each unit's masks are moved along it by a random
    number of places of its own (`Rotations`). Shape and number of a unit's masks stay as they are: what is
    broken is the pairing alone. The label is chosen again in every round, by the same rule. Groups of images
    change places as a whole; of groups of different sizes, masks are repeated or left out. All counts are
    exact recounts.

    20 rounds, because `1 / 0.05 = 20`: pooled over the layer, they are the fewest with which a single unit
    can pass Benjamini-Hochberg at 0.05, as its add-one p-value can fall below `0.05 / C`.

    Args:
        labels: as for `iou_counts`. Read once, or several times where `memory` asks for it.
        masks: the masks of the whole probe set.
        counts: `iou_counts` of the same.
        normaliser: of the plain IoU, for the rule `iou`.
        rule: see `ranked_labels`.
        groups: of the images; every image for itself by default.
        rounds: R, draws per unit.
        seed: of the orders.
        memory: bytes for the counts of all rounds. Where they take more, the rounds are done in several
            passes over the labels.

    Returns:
        (R, C) float64, for `chance_p_values`.

    Raises:
        ValueError: fewer than two groups of images, counts of other images, or as `iou_counts`.
    """
    check_normaliser(normaliser)
    groups = _exchangeable(masks, groups)
    if len(counts.area) != masks.n_units or counts.n_images != masks.n_images:
        raise ValueError("the counts and the masks are not of the same images and units")
    if isinstance(labels, Iterator):
        labels = list(labels)
    rotations = Rotations.draw(groups, masks.n_units, rounds, np.random.default_rng(seed))
    row_of = _row_of(masks)
    held = (8 if groups.are_single else 12) * counts.intersection.size
    step = max(1, min(rounds, memory // max(1, held)))
    best: list[torch.Tensor] = []
    for first in range(0, rounds, step):
        part = rotations.part(first, min(first + step, rounds))
        drawn = _draws(labels, masks, row_of, part, counts, normaliser if rule == "iou" else TESTED)
        best.extend(ranked_labels(each, rule, normaliser, 1).tested for each in drawn)
    return torch.stack(best)


def shuffled_masks(masks: UnitMasks, *, groups: ImageGroups | None = None, seed: int = 0) -> UnitMasks:
    """The masks laid over the wrong images, as in one round of `shuffled_support`: for nulls of other scores.

    A formula's null, say: cells of these masks, and the search over them, give one draw for every unit.

    Raises:
        ValueError: fewer than two groups of images.
    """
    image, row = shuffled_rows(masks, groups=groups, seed=seed)
    edges, offsets = gather_runs(masks, row)
    return UnitMasks(
        masks.n_images, masks.n_units, masks.size, image, masks.unit[row], offsets.astype(np.int64), edges
    )


def shuffled_rows(
    masks: UnitMasks, *, groups: ImageGroups | None = None, seed: int = 0
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Which masks `shuffled_masks` lays over which images: the image of each pair, ascending, and its row in
    `masks`, whose unit is that of the pair.

    Raises:
        ValueError: fewer than two groups of images.
    """
    groups = _exchangeable(masks, groups)
    rotations = Rotations.draw(groups, masks.n_units, 1, np.random.default_rng(seed))
    row_of, unit = _row_of(masks), np.arange(masks.n_units)
    rows = []
    for image in range(masks.n_images):
        found = row_of[rotations.source_of(image)[0], unit]
        rows.append(found[found >= 0])
    images = np.repeat(np.arange(masks.n_images, dtype=np.int32), [len(each) for each in rows])
    return images, np.concatenate(rows)


def chance_effect(best: torch.Tensor, null: torch.Tensor) -> torch.Tensor:
    """How far beyond chance each unit is, in standard deviations of its own null.

        effect[k] = ( best[k] - mean_r null[r, k] ) / s[k],   s[k]^2 = ( 4 s0^2 + (R - 1) s_k^2 ) / (R + 3)

    `s_k` is the standard deviation of the unit's draws and `s0^2` the mean of all `s_k^2`. Most draws of a
    unit may be 0 (no label has support), and a few that happen to be equal would make any difference
    infinite. So each unit's variance is drawn a little towards that of the layer, with the weight of 4 draws
    (moderated variances: Smyth 2004).

    Args:
        best: (C,), NaN for units that take no part.
        null: (R, C) of the same units, `R >= 2`.

    Returns:
        (C,) float64; NaN where `best` is. Where no draw of the layer differs from another, a unit beyond them
        gets `(R + 1) / sqrt(R)`, the most that it could have if it were one of the draws.

    Source: G. K. Smyth, Linear models and empirical Bayes methods, 2004, section 4.
    """
    rounds = len(null)
    drawn, layer = _part_taking(best, null)
    effect = _moderated(best.double(), drawn.mean(0), drawn.var(0) * (rounds - 1), layer, rounds)
    most = (rounds + 1) / rounds**0.5
    return torch.where(effect.isinf(), effect.sign() * most, effect)


def chance_p_values(best: torch.Tensor, null: torch.Tensor) -> torch.Tensor:
    """p-values of `chance_effect`: the effects of all units' draws form the null distribution.

    The effect of a draw is measured in the other draws of the same unit, so that units and draws are measured
    alike.

    Args:
        best: (C,), NaN for units that take no part.
        null: (R, C) of the same units, `R >= 3`.

    Returns:
        (C,) float64, add-one, at least `1 / (R C' + 1)` with `C'` units that take part; NaN where `best` is.
    """
    taking_part = ~best.isnan()
    if not bool(taking_part.any()):
        return torch.full_like(best.double(), torch.nan)
    effect, effects = chance_effects(best, null)
    return p_values(effect, effects[:, taking_part].flatten())


def chance_effects(best: torch.Tensor, null: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`chance_effect` of units and of every draw, measured alike: in the other draws of the same unit.

    Args:
        best: (C,), NaN for units that take no part.
        null: (R, C) of the same units, `R >= 3`.

    Returns:
        (C,) and (R, C) float64; infinite where no draw that it is measured in differs from another.
    """
    rounds = len(null)
    drawn, layer = _part_taking(best, null)
    mean = drawn.mean(0)
    away = drawn - mean
    squares = (away**2).sum(0)
    effect = _moderated(best.double(), mean, squares, layer, rounds)
    rest = mean - away / (rounds - 1)
    rest_squares = (squares - away**2 * (rounds / (rounds - 1))).clamp_min(0)
    return effect, _moderated(drawn, rest, rest_squares, layer, rounds - 1)


# How many draws the layer's variance counts as, beside a unit's own.
_PRIOR_DRAWS = 4


def _part_taking(best: torch.Tensor, null: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The draws, and the mean variance of the units that take part."""
    drawn = null.double()
    taking_part = ~best.isnan()
    return drawn, drawn[:, taking_part].var(0).mean() if bool(taking_part.any()) else drawn.new_zeros(())


def _moderated(
    value: torch.Tensor, mean: torch.Tensor, squares: torch.Tensor, layer: torch.Tensor, draws: int
) -> torch.Tensor:
    """`(value - mean) / s`; infinite where `s` is 0, and 0 where the difference is; both but for rounding."""
    variance = (_PRIOR_DRAWS * layer + squares) / (_PRIOR_DRAWS + draws - 1)
    away, rounding = value - mean, 8 * torch.finfo(mean.dtype).eps * mean.abs()
    deviation = torch.where(variance > rounding**2, variance.sqrt(), 0.0)
    return torch.where(away.abs() <= rounding, 0.0, away / deviation)


def _exchangeable(masks: UnitMasks, groups: ImageGroups | None) -> ImageGroups:
    groups = ImageGroups.single(masks.n_images) if groups is None else groups
    if groups.n_images != masks.n_images:
        raise ValueError(f"groups of {groups.n_images} images came with masks of {masks.n_images}")
    if groups.n_groups < 2:
        raise ValueError(
            "at least two images, or groups of images, are needed to break the pairing of images and masks"
        )
    return groups


def _row_of(masks: UnitMasks) -> NDArray[np.int32]:
    """The row of each image and unit in the masks, -1 where the unit does not fire there: (N, C)."""
    row_of = np.full((masks.n_images, masks.n_units), -1, dtype=np.int32)
    row_of[masks.image, masks.unit] = np.arange(len(masks), dtype=np.int32)
    return row_of


def _draws(
    labels: Iterable[ImageLabels],
    masks: UnitMasks,
    row_of: NDArray[np.int32],
    rotations: Rotations,
    counts: IoUCounts,
    normaliser: Normaliser,
) -> Iterator[IoUCounts]:
    """The rotations' rounds, counted in one pass over the labels: what `iou_counts` would give in each."""
    n_labels = len(counts.label_area)
    rounds, units = rotations.shift.shape
    bits = category_bits(counts.label_categories)
    categories, areas = np.unique(bits), masks.areas()
    # A unit fires on 0.5 % of the pixels: int32 holds them up to tens of millions of images.
    shared, most = np.zeros((2, rounds * units, n_labels), dtype=np.int32)
    luckiest, alone = Luckiest(most), rotations.groups.are_single
    area = np.zeros(rounds * units, dtype=np.int64)
    counted = np.zeros((2, rounds * units, len(categories)), dtype=np.int64)  # by image, by mask
    unit = np.arange(units)
    for number, image, last in by_groups(labels, masks.n_images, rotations.groups):
        rows = row_of[rotations.source_of(number), unit].ravel()
        draws = np.flatnonzero(rows >= 0)
        if len(draws):
            indices, planes = known_planes(image, masks.size, n_labels)
            rows = rows[draws]
            edges, offsets = gather_runs(masks, rows)
            inside = pixels_inside(edges, offsets, pixel_prefix(planes))
            shared[np.ix_(draws, indices)] += inside
            luckiest.add(draws, indices, inside, alone=alone)
            area[draws] += areas[rows]
            if normaliser != "none":
                here = np.full(len(rows), image_group(bits[indices])), mask_groups(inside, bits[indices])
                for each, group in zip(counted, here, strict=True):
                    each[draws] += np.where(group[:, None] & categories, areas[rows][:, None], 0)
        if last:
            luckiest.end_group()
    # One bit per column, so that the pixels that count against a label are those of its own category.
    for each in range(rounds):
        part = slice(each * units, (each + 1) * units)
        yield IoUCounts(
            intersection=shared[part].astype(np.int64),
            luckiest=most[part].astype(np.int64),
            label_area=counts.label_area,
            area=area[part],
            groups=categories,
            area_by_image=counted[0, part],
            area_by_mask=counted[1, part],
            label_categories=counts.label_categories,
            n_images=counts.n_images,
        )
