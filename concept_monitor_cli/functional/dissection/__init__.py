"""Network Dissection: which labelled pixels a unit fires on, counted exactly (Bau et al. 2017).

The steps, a module each, in the order in which they are used:

1. `thresholds`: the value that a unit exceeds at a share of 0.005 of all positions (`activation_threshold`);
2. `masks`: where the upsampled map exceeds it, kept as runs of pixels (`unit_masks`, `UnitMasks`);
3. `counts`: integer counts of a batch of images, which add up over batches and shards (`IoUCounts`,
   `IoUCounter`), `iou`, which reads them under one of three normalisers, and `supported_iou`, the part of the
   IoU that does not hang on one image;
4. `chance`: which label is a unit's (`ranked_labels`), and what the same rule finds where masks and images do
   not belong together (`shuffled_support`, `shuffled_masks`);
5. `resampled`: whether the label would be the same, had other images been drawn.

**Why runs.** A unit's mask is a few blobs, and a unit is silent on most images. Kept as the start and the
stop of each run of pixels in reading order, the masks of a layer take a few dozen bytes per unit and image,
so they stay in memory where packed bits would not. And counting becomes cheap: with `prefix[p, c]` the number
of pixels of label c before pixel p, a run holds `prefix[stop, c] - prefix[start, c]` pixels of c. A mask
therefore costs two rows per run instead of one per pixel; for all masks of an image it is one sparse matrix
product.
"""

from concept_monitor_cli.functional.dissection.chance import (
    LABEL_RULES,
    TESTED,
    LabelRule,
    RankedLabels,
    chance_effect,
    chance_effects,
    chance_p_values,
    ranked_labels,
    shuffled_masks,
    shuffled_rows,
    shuffled_support,
)
from concept_monitor_cli.functional.dissection.counts import (
    IOU_DETECTOR,
    NORMALISERS,
    ImageLabels,
    IoUCounter,
    IoUCounts,
    Normaliser,
    by_groups,
    category_bits,
    check_images,
    check_normaliser,
    iou,
    iou_counts,
    label_planes,
    supported_iou,
)
from concept_monitor_cli.functional.dissection.masks import IntArray, UnitMasks, unit_masks
from concept_monitor_cli.functional.dissection.resampled import (
    CANDIDATES,
    GroupCollector,
    GroupCounts,
    candidate_ious,
    concept_sets,
    drawn_winners,
    label_group_counts,
    share_first,
)
from concept_monitor_cli.functional.dissection.thresholds import (
    QUANTILE,
    activation_threshold,
)

__all__ = [
    "CANDIDATES",
    "IOU_DETECTOR",
    "LABEL_RULES",
    "NORMALISERS",
    "QUANTILE",
    "TESTED",
    "GroupCollector",
    "GroupCounts",
    "ImageLabels",
    "IntArray",
    "IoUCounter",
    "IoUCounts",
    "LabelRule",
    "Normaliser",
    "RankedLabels",
    "UnitMasks",
    "activation_threshold",
    "by_groups",
    "candidate_ious",
    "category_bits",
    "chance_effect",
    "chance_effects",
    "chance_p_values",
    "check_images",
    "check_normaliser",
    "concept_sets",
    "drawn_winners",
    "iou",
    "iou_counts",
    "label_group_counts",
    "label_planes",
    "ranked_labels",
    "share_first",
    "shuffled_masks",
    "shuffled_rows",
    "shuffled_support",
    "supported_iou",
    "unit_masks",
]
