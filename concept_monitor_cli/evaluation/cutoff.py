"""From which score on are labels good? (CLIP-Dissect, A.8)"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.evaluation.base import Measure, Value, Verdict, register_measure
from concept_monitor_cli.evaluation.showing import presence_of
from concept_monitor_cli.evaluation.simulation import (
    LEAST_PRESENT,
    SHOWING,
    chance_of_pairs,
    formulas,
    judge_pairs,
    untried,
)
from concept_monitor_cli.evaluation.subject import Subject
from concept_monitor_cli.functional.evaluation.cutoff import (
    LEAST_ABOVE,
    PAPER_CONSTANT,
    cut_at,
    quality_cutoff,
)

if TYPE_CHECKING:
    from concept_monitor_cli.options import EvaluateOptions

TABLE = "evaluation-cutoff"
#: Mean quality that the paper asks for (A.8).
QUALITY = 0.75


@register_measure
class CutoffMeasure(Measure):
    """The lowest score from which on labels have a wanted quality, beside what is called interpretable.

    The paper asked people whether a label fits the ten most exciting images. Here the labels of the images
    answer, or the encoder where these do not know the concept, and the images are held out: the share of the
    ten that show the concept. Any metric of simulation can take its place. Beside the mean of all units
    stands what units that know nothing of their concepts would reach, beside those of some units the mean of
    units drawn at random.

    At least `LEAST_ABOVE` units are above the cutoff, or all where fewer can be judged; how many are is the
    count of its row.

    Which units are called interpretable was found with all images of the run. It is set beside their quality
    only where the held-out images are a set of their own: otherwise half of those images are the judges.

    Args:
        quality: the mean quality wanted of the labels above the cutoff.
        metric: which of `QUALITIES` quality is.
    """

    name: ClassVar[str] = "cutoff"

    def __init__(self, quality: float = QUALITY, metric: str = SHOWING) -> None:
        self.quality, self.metric = quality, metric

    @classmethod
    def from_options(cls, options: EvaluateOptions) -> CutoffMeasure:
        """See `Measure`."""
        return cls(options.quality, options.quality_metric)

    def unfit(self, subject: Subject) -> InputError | None:
        """See `Measure`."""
        return formulas(subject) or untried(subject)

    def judge(self, subject: Subject) -> Verdict:
        """See `Measure`."""
        trial = subject.trial
        concepts = [str(concept) for concept in trial.labels.concepts]
        presence = presence_of(subject.common, trial.unseen, concepts, least=LEAST_PRESENT)
        found = judge_pairs(trial.unseen, presence)
        quality, scores = found[self.metric], trial.labels.scores
        blind = chance_of_pairs(presence)[self.metric]
        judged = trial.labels.named & ~np.isnan(quality) & ~np.isnan(scores)
        notices: tuple[str, ...] = ()
        if not judged.any():
            return Verdict(notices=(f"no cutoff for {subject.layer}: none of its labels can be judged",))
        s, q = torch.from_numpy(scores[judged]), torch.from_numpy(quality[judged])
        cutoff, count = quality_cutoff(s, q, self.quality), int(judged.sum())
        nan = float("nan")
        overall = float(q.mean())
        tau = cutoff.tau if np.isfinite(cutoff.tau) else nan
        if cutoff.units == count:
            notices = (
                f"the labels of {subject.layer} need no cutoff for a mean {self.metric} of {self.quality:g}",
            )
        elif cutoff.units == 0:
            notices = (
                f"no cutoff with {min(LEAST_ABOVE, count)} units or more above it gives the labels of "
                f"{subject.layer} a mean {self.metric} of {self.quality:g}: that of all is {overall:.2g}",
            )
        values = [
            Value(f"{self.metric} of all", overall, float(blind[judged].mean()), count),
            Value(f"cutoff for {self.quality:g}", tau, nan, cutoff.units),
            Value(f"{self.metric} above it", cutoff.above, overall, cutoff.units),
            Value(f"{self.metric} below it", cutoff.below, overall, count - cutoff.units),
        ]
        if subject.similarity == "soft-wpmi":
            parted = cut_at(s, q, PAPER_CONSTANT)
            values.append(Value(f"{self.metric} above {PAPER_CONSTANT}", parted.above, overall, parted.units))
        # Labels made again from one half have no p-values.
        called = trial.labels.interpretable[judged]
        if not np.isnan(trial.labels.p_values).all():
            for name, chosen in (("interpretable", called), ("not interpretable", ~called)):
                mean = float(quality[judged][chosen].mean()) if chosen.any() else nan
                values.append(Value(f"{self.metric} of {name} units", mean, overall, int(chosen.sum())))
        elif not np.isnan(subject.labels.p_values).all():
            notices += (
                f"quality of {subject.layer} is not set beside its interpretable units, which were found "
                "with the images that judge them, too; judge by others: --held-out PROBE",
            )
        table = {
            "unit": np.flatnonzero(judged),
            "concept": np.asarray(concepts, dtype=object)[judged],
            "score": scores[judged],
            "metric": [self.metric] * count,
            "quality": quality[judged],
            "wanted": [self.quality] * count,
            "cutoff": [tau] * count,
            "above": scores[judged] > cutoff.tau,
            "p_value": trial.labels.p_values[judged],
            "interpretable": called,
            "chance": blind[judged],
        }
        return Verdict(tuple(values), {TABLE: table}, notices)
