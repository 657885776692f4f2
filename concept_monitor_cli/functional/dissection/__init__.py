"""Network Dissection: which labelled pixels a unit fires on, counted exactly (Bau et al. 2017).

The steps, a module each, in the order in which they are used:

1. `thresholds`: the value that a unit exceeds at a share of 0.005 of all positions (`activation_threshold`);
2. `masks`: where the upsampled map exceeds it, kept as runs of pixels (`unit_masks`, `UnitMasks`);
3. `counts`: integer counts of a batch of images, which add up over batches and shards (`IoUCounts`,
   `IoUCounter`), `iou`, which reads them under one of three normalisers, and `supported_iou`, the part of the
   IoU that does not hang on one image;
4. `chance`: the same where masks and images do not belong together (`shuffled_support`, `shuffled_masks`).

**Why runs.** A unit's mask is a few blobs, and a unit is silent on most images. Kept as the start and the
stop of each run of pixels in reading order, the masks of a layer take a few dozen bytes per unit and image,
so they stay in memory where packed bits would not. And counting becomes cheap: with `prefix[p, c]` the number
of pixels of label c before pixel p, a run holds `prefix[stop, c] - prefix[start, c]` pixels of c. A mask
therefore costs two rows per run instead of one per pixel; for all masks of an image it is one sparse matrix
product.
"""

from concept_monitor_cli.functional.dissection.chance import shuffled_masks, shuffled_support
from concept_monitor_cli.functional.dissection.counts import (
    IOU_DETECTOR,
    NORMALISERS,
    ImageLabels,
    IoUCounter,
    IoUCounts,
    Normaliser,
    category_bits,
    check_images,
    check_normaliser,
    iou,
    iou_counts,
    label_planes,
    supported_iou,
)
from concept_monitor_cli.functional.dissection.masks import IntArray, UnitMasks, unit_masks
from concept_monitor_cli.functional.dissection.thresholds import (
    QUANTILE,
    activation_threshold,
)

__all__ = [
    "IOU_DETECTOR",
    "NORMALISERS",
    "QUANTILE",
    "ImageLabels",
    "IntArray",
    "IoUCounter",
    "IoUCounts",
    "Normaliser",
    "UnitMasks",
    "activation_threshold",
    "category_bits",
    "check_images",
    "check_normaliser",
    "iou",
    "iou_counts",
    "label_planes",
    "shuffled_masks",
    "shuffled_support",
    "supported_iou",
    "unit_masks",
]
