"""A detector of one's own: the concept whose images excite a unit more than other images do (AUC).

The simplest form of INVERT (Bykov et al. 2023), which the detector `invert` does for formulas. Use it where
images are known to show a concept or not:

    cmon dissect ckpts/ --layer layer4 --probe broden1_224/ --detector docs/examples/auc.py:Area
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from scipy.stats import rankdata

from concept_monitor_cli.functional.calibration import (
    benjamini_hochberg,
    permuted_best_scores,
    pooled_p_values,
    standardised,
)
from concept_monitor_cli.functional.topk import top_rows
from concept_monitor_cli.lenses import Detector, Findings
from concept_monitor_cli.lenses.names.invert import known_presence, presence_digests
from concept_monitor_cli.record.requests import Activations, Recording


def auc(pooled: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """How often an image with a concept excites a unit more than one without: `(C, M)` float64.

    Args:
        pooled: `(N, C)` activations.
        present: `(N, M)`, 1 where a concept is, 0 where it is not.
    """
    ranks = torch.from_numpy(rankdata(pooled.numpy(), axis=0))
    count, shown = len(present), present.double().sum(0)
    return (ranks.T @ present.double() - shown * (shown + 1) / 2) / (shown * (count - shown))


class Area(Detector):
    """Names a unit by the concept with the highest AUC.

    Args:
        top_concepts: how many concepts to keep per unit.
    """

    name: ClassVar[str] = "auc"
    summary: ClassVar[str] = "whose images excite it more than others do"
    paper: ClassVar[str] = "Bykov et al., NeurIPS 2023"
    # Of concepts that are no labels the run's encoder is asked, where there is one.
    uses_encoder: ClassVar[bool] = True

    def __init__(self, top_concepts: int = 5) -> None:
        self.top_concepts = top_concepts

    @classmethod
    def from_options(cls, options: Any) -> Area:
        """See `Detector`."""
        return cls(options.top_concepts)

    def settings(self) -> dict[str, Any]:
        """See `Detector`."""
        return {"top_concepts": self.top_concepts}

    def depends_on(self, context: Any) -> dict[str, str]:
        """See `Detector`."""
        return presence_digests(context)

    def recording(self, context: Any) -> Recording:
        """See `Detector`."""
        return Activations()

    def find(self, entry: Any, context: Any, *, untrained: Any = (), matrix: bool = False) -> Findings:
        """See `Detector`."""
        pooled = torch.from_numpy(entry.read("pooled"))
        live = torch.from_numpy(entry.read("live").astype(bool))
        present = known_presence(context).nan_to_num(0.0)
        # Of a concept on fewer than ten images, or on most, the AUC says little.
        usable = (present.sum(0) >= min(10, len(present) // 4)) & (present.mean(0) <= 0.5)

        def score(values: torch.Tensor) -> torch.Tensor:
            return auc(values, present).masked_fill(~usable, 0.0)

        scores = score(pooled)
        best = scores.amax(1).float().masked_fill(~live, torch.nan)
        null = permuted_best_scores(score, pooled, groups=context.groups, seed=context.seed)
        p = pooled_p_values(best, null)
        found, values = top_rows(scores, self.top_concepts)
        interpretable = benjamini_hochberg(p, context.fdr)
        return Findings(
            concepts=np.asarray(context.concepts.concepts, dtype=object)[found],
            categories=np.asarray(context.concepts.categories, dtype=object)[found],
            scores=values.float().numpy(),
            p_values=p.numpy(),
            interpretable=interpretable.numpy(),
            live=live.numpy(),
            effect=standardised(best, null).numpy(),
            calibration={"null": "shuffled", "fdr": context.fdr, "interpretable": int(interpretable.sum())},
            matrix=scores.float().numpy() if matrix else None,
        )
