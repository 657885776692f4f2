"""Network Dissection: a unit detects the label whose pixels it fires on (Bau et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from concept_monitor_cli.functional.calibration import benjamini_hochberg, p_values, pooled_p_values
from concept_monitor_cli.functional.dissection import (
    IOU_DETECTOR,
    QUANTILE,
    Normaliser,
    UnitMasks,
    iou,
    shuffled_support,
    supported_iou,
)
from concept_monitor_cli.functional.topk import top_rows
from concept_monitor_cli.lenses.base import Findings, register_detector
from concept_monitor_cli.lenses.names.masked import MaskDetector, live_units
from concept_monitor_cli.record.requests import read_masks

if TYPE_CHECKING:
    from concept_monitor_cli.options import DissectOptions
    from concept_monitor_cli.store import Entry
    from concept_monitor_cli.study.context import Context

# Times that the masks are laid over the wrong images; see `shuffled_support`.
ROUNDS = 20

# The normaliser of what is compared with chance; see `NetworkDissection`.
TESTED: Normaliser = "none"

BY_CATEGORY = "by-category"


@register_detector
class NetworkDissection(MaskDetector):
    """Names a unit by the label with the highest IoU with the pixels on which it fires most.

    The p-value asks whether the unit fires on any label more than chance does: its best supported IoU
    (`supported_iou`, the part of an IoU that does not hang on one image) is compared with those for masks
    laid over the wrong images. The plain IoU would not do: the best one that chance reaches is that of a rare
    label in a single image, and units that know a common label well stay below it. So a unit with a high IoU
    at a rare label may be no more than chance, and one with an IoU below 0.04 may be beyond it. What is
    compared is unrestricted, whatever the normaliser of the score: with `category` and `mask` a unit is left
    with few pixels where a category is on few images, and by luck these few overlap well.

    Args:
        normaliser: see `MaskDetector`.
        top_concepts: how many concepts to keep per unit.
        fraction: see `MaskDetector`.
    """

    name: ClassVar[str] = "network-dissection"

    def __init__(
        self, normaliser: Normaliser = "category", top_concepts: int = 5, fraction: float = QUANTILE
    ) -> None:
        super().__init__(normaliser, fraction)
        self.top_concepts = top_concepts

    @classmethod
    def from_options(cls, options: DissectOptions) -> NetworkDissection:
        """See `Detector`."""
        return cls(options.iou_normaliser or "category", options.top_concepts)

    def settings(self) -> dict[str, Any]:
        """See `Detector`."""
        return {
            **super().settings(),
            "top_concepts": self.top_concepts,
            "rounds": ROUNDS,
            "tested": f"supported-{TESTED}",
        }

    def raw_scores(self, masks: UnitMasks, context: Context) -> NDArray[np.float64]:
        """The best supported IoU of every unit: `C`."""
        scores: NDArray[np.float64] = supported_iou(self.count(masks, context), TESTED).amax(1).numpy()
        return scores

    def find(
        self, entry: Entry, context: Context, *, untrained: Sequence[Entry] = (), matrix: bool = False
    ) -> Findings:
        """See `Detector`.

        `more` holds `by-category`: the best label of every live unit in each category, `unit`, `category`,
        `concept`, `score`.
        """
        labels, live = context.labels, live_units(entry)
        masks = read_masks(entry)
        counts = self.count(masks, context)
        scores = iou(counts, self.normaliser)
        best = supported_iou(counts, TESTED).amax(1).masked_fill(~live, torch.nan)
        if untrained:
            null = torch.from_numpy(self.untrained_scores(untrained, context))
            p = p_values(best, null)
        else:
            null = shuffled_support(labels, masks, counts, TESTED, rounds=ROUNDS, seed=context.seed)
            p = pooled_p_values(best, null)
        interpretable = benjamini_hochberg(p, context.fdr)
        indices, values = top_rows(scores, self.top_concepts)
        met = values.numpy() > 0
        names = np.asarray(labels.names, dtype=object)
        kinds = np.asarray(labels.categories, dtype=object)
        detectors = (values[:, 0] > IOU_DETECTOR) & live
        return Findings(
            concepts=np.where(met, names[indices], ""),
            categories=np.where(met, kinds[indices], ""),
            scores=np.where(met, values.numpy(), np.nan).astype(np.float32),
            p_values=p.numpy(),
            interpretable=interpretable.numpy(),
            live=live.numpy(),
            calibration={
                "null": context.null,
                "draws": null.numel(),
                "fdr": context.fdr,
                "interpretable": int(interpretable.sum()),
                "paper_constant": IOU_DETECTOR,
                "above_constant": int(detectors.sum()),
                "unique_detectors": len(torch.unique(indices[detectors, 0])),
            },
            matrix=scores.float().numpy() if matrix else None,
            matrix_concepts=labels.names,
            more={BY_CATEGORY: _by_category(scores.numpy(), names, kinds, live.numpy())},
        )


def _by_category(
    scores: NDArray[np.float64],
    names: NDArray[np.object_],
    kinds: NDArray[np.object_],
    live: NDArray[np.bool_],
) -> dict[str, NDArray[Any]]:
    """The best label of every live unit in each category that it meets; ties to the first label."""
    units, best, values = [], [], []
    for kind in dict.fromkeys(kinds):
        columns = np.flatnonzero(kinds == kind)
        column = columns[scores[:, columns].argmax(axis=1)]
        value = scores[np.arange(len(scores)), column]
        unit = np.flatnonzero(live & (value > 0))
        units.append(unit)
        best.append(column[unit])
        values.append(value[unit])
    label = np.concatenate([*best, np.empty(0, dtype=np.int64)])
    return {
        "unit": np.concatenate([*units, np.empty(0, dtype=np.int64)]),
        "category": kinds[label],
        "concept": names[label],
        "score": np.concatenate([*values, np.empty(0)]),
    }
