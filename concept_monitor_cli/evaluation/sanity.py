"""Can the measures be trusted? Each is tried on spoilt labels (Oikarinen, Yan and Weng 2025)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.evaluation.base import Measure, Value, Verdict, register_measure
from concept_monitor_cli.evaluation.showing import label_table
from concept_monitor_cli.evaluation.simulation import LEAST_PRESENT
from concept_monitor_cli.evaluation.subject import Subject
from concept_monitor_cli.functional.evaluation.sanity import (
    PASSING,
    extra_labels,
    missing_labels,
    share_fallen,
)
from concept_monitor_cli.functional.evaluation.simulation import (
    ACTIVE_SHARE,
    METRICS,
    RankedUnits,
    active_images,
)

if TYPE_CHECKING:
    from concept_monitor_cli.options import EvaluateOptions

TABLE = "evaluation-sanity"
#: So often the labels of each unit are spoilt.
DRAWS = 10
#: No more units than this are tried: shares do not get more certain by more units of one layer.
MOST_UNITS = 512
_TESTS = {"missing": missing_labels, "extra": extra_labels}


@register_measure
class SanityMeasure(Measure):
    """How often a measure falls when half of a concept's labels go missing, or as many false ones are added.

    What is tried are the measures, not the labels of the run. So every unit is given, as in the paper, the
    concept of the images' own labels with the highest IoU, among those on less than half of the images; units
    that share no image with one are left out.

    Args:
        active_share: a unit counts as active on so large a share of the images.
    """

    name: ClassVar[str] = "sanity"
    by_default: ClassVar[bool] = False

    def __init__(self, active_share: float = ACTIVE_SHARE) -> None:
        self.active_share = active_share

    @classmethod
    def from_options(cls, options: EvaluateOptions) -> SanityMeasure:
        """See `Measure`."""
        return cls(options.active_share)

    def unfit(self, subject: Subject) -> InputError | None:
        """See `Measure`."""
        if label_table(subject.common, subject.images) is None:
            return InputError(
                f"{subject.common.context.probe.name} has no labels that could be spoilt",
                where="--measure sanity",
                hint="dissect with a probing set that has labels: a Broden directory, or folders of classes",
            )
        return None

    def judge(self, subject: Subject) -> Verdict:
        """See `Measure`."""
        activations, presence = self._pairs(subject)
        pairs = activations.shape[1]
        if not pairs:
            return Verdict(notices=(f"no unit of {subject.layer} shares an image with a label",))
        units = RankedUnits(activations, ~presence.isnan(), active_share=self.active_share)
        before = units.scores(presence)
        table: dict[str, list[Any]] = {"metric": list(METRICS), "score": [_mean(before[m]) for m in METRICS]}
        values = []
        for test, spoil in _TESTS.items():
            seeds = range(DRAWS * subject.common.seed, DRAWS * (subject.common.seed + 1))
            after = [units.scores(spoil(presence, seed=seed)) for seed in seeds]
            spoilt = {m: torch.stack([scores[m] for scores in after]) for m in METRICS}
            fallen = {m: share_fallen(before[m], spoilt[m]) for m in METRICS}
            table[f"{test}_score"] = [_mean(spoilt[m].mean(0)) for m in METRICS]
            table[f"{test}_fallen"] = [_mean(fallen[m]) for m in METRICS]
            values += [
                Value(f"{m}, {test} labels", _mean(fallen[m]), float("nan"), int((~fallen[m].isnan()).sum()))
                for m in METRICS
            ]
        table["units"] = [pairs] * len(METRICS)
        table["passes"] = [
            min(a, b) >= PASSING for a, b in zip(table["missing_fallen"], table["extra_fallen"], strict=True)
        ]
        return Verdict(tuple(values), {TABLE: table})

    def _pairs(self, subject: Subject) -> tuple[torch.Tensor, torch.Tensor]:
        """Activations and presence of every unit's best labelled concept, `(N, B)`."""
        labels = label_table(subject.common, subject.images)
        assert labels is not None
        present = torch.from_numpy(np.where(labels.known, labels.present, np.nan).astype(np.float32))
        on, off = labels.present.sum(0), (labels.known & ~labels.present).sum(0)
        # Half of them must be some, and as many false ones must find room.
        enough = (on >= 2 * LEAST_PRESENT) & (off >= on + LEAST_PRESENT)
        present = present[:, torch.from_numpy(enough)]
        pooled = subject.pooled.cpu()
        active = active_images(pooled, self.active_share).float()
        there, known = present.nan_to_num(0), (~present.isnan()).float()
        both = active.T @ there
        overlap = both / (active.T @ known + there.sum(0) - both).clamp_min(1)
        if not overlap.shape[1]:
            return pooled[:, :0], pooled[:, :0]
        best, concept = overlap.max(1)
        units = (best > 0).nonzero()[:, 0]
        generator = torch.Generator().manual_seed(subject.common.seed)
        units = units[torch.randperm(len(units), generator=generator)[:MOST_UNITS].sort().values]
        return pooled[:, units], present[:, concept[units]]


def _mean(values: torch.Tensor) -> float:
    return float(values.nanmean())
