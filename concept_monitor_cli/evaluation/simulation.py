"""How well do labels predict their units, on images that had no part in making them?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.evaluation.base import Measure, Value, Verdict, register_measure
from concept_monitor_cli.evaluation.showing import presence_of_labels
from concept_monitor_cli.evaluation.subject import Images, Subject
from concept_monitor_cli.functional.evaluation.simulation import (
    ACTIVE_SHARE,
    METRICS,
    chance_levels,
    simulation_scores,
    top_images_showing,
)
from concept_monitor_cli.probe.presence import Presence, prevalence
from concept_monitor_cli.wording import counted

if TYPE_CHECKING:
    from concept_monitor_cli.options import EvaluateOptions

TABLE = "evaluation-simulation"
#: Labels that show a concept on fewer held-out images than this are not what it is judged by.
LEAST_PRESENT = 3
#: So many of the images that excite a unit most are looked at (CLIP-Dissect, A.10).
LOOKED_AT = 10
#: Share of these that show the concept; beside `METRICS`, what labels may be judged by.
SHOWING = "showing"
QUALITIES = (SHOWING, *METRICS)


def formulas(subject: Subject) -> InputError | None:
    """Why labels are no concepts, each with a score and a share of images; `None` where they are."""
    if subject.labels_are == "concepts":
        return None
    return InputError(
        f"the labels of {subject.detector} are {subject.labels_are}, and this measure looks for concepts",
        where=subject.layer,
        hint="judge them by --measure simulation, or another detector: --detector",
    )


def judge_pairs(
    images: Images, presence: Presence, *, active_share: float = ACTIVE_SHARE
) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    """All of `QUALITIES` for each unit with its concept; NaN where the concept is on too few images."""
    pooled, there = images.pooled.cpu(), presence.present
    scores = simulation_scores(
        pooled, there, presence.similarity, active_share=active_share, least=LEAST_PRESENT
    )
    shown = top_images_showing(pooled, there, LOOKED_AT)
    scores[SHOWING] = torch.where(scores["correlation"].isnan(), torch.nan, shown)
    return {name: scores[name].numpy() for name in QUALITIES}


def chance_of_pairs(
    presence: Presence, *, active_share: float = ACTIVE_SHARE
) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    """What each of `QUALITIES` is for each concept and a unit that knows nothing of it."""
    levels = chance_levels(presence.present, active_share=active_share)
    return {SHOWING: prevalence(presence), **{name: level.numpy() for name, level in levels.items()}}


@register_measure
class SimulationMeasure(Measure):
    """The activations of every unit against the presence of its concept, image by image.

    Presence is what the labels of the images, or the folders that they lie in, say where they know the
    concept and show it on enough of the images, else what the encoder sees (metrics of these units end in
    `by encoder`: the eye that labelled them judges them, too). Images not labelled in the concept's category
    do not count. Of a formula it is asked whether it holds, of a sum how active it says that the unit is.

    Args:
        active_share: a unit counts as active on so large a share of the images (F1, IoU, AUPRC, AUC).
    """

    name: ClassVar[str] = "simulation"
    in_grid: ClassVar[bool] = True

    def __init__(self, active_share: float = ACTIVE_SHARE) -> None:
        self.active_share = active_share

    @classmethod
    def from_options(cls, options: EvaluateOptions) -> SimulationMeasure:
        """See `Measure`."""
        return cls(options.active_share)

    def unfit(self, subject: Subject) -> InputError | None:
        """See `Measure`."""
        return untried(subject)

    def judge(self, subject: Subject) -> Verdict:
        """See `Measure`."""
        labels, unseen = subject.trial.labels, subject.trial.unseen
        concepts = [str(concept) for concept in labels.concepts]
        presence = presence_of_labels(subject, unseen, share=self.active_share, least=LEAST_PRESENT)
        scores = judge_pairs(unseen, presence, active_share=self.active_share)
        chance, there = chance_of_pairs(presence, active_share=self.active_share), presence.present.numpy()
        judged = labels.named & ~np.isnan(scores["correlation"])
        unjudged, unknown = labels.named & ~judged, presence.source == ""
        values: list[Value] = []
        for known, ending in ((True, ""), (False, " by encoder")):
            rows = judged & (presence.labelled == known)
            if rows.any():
                values += [
                    Value(
                        f"{name}{ending}",
                        _mean(scores[name][rows]),
                        _mean(chance[name][rows]),
                        int((~np.isnan(scores[name][rows])).sum()),
                    )
                    for name in QUALITIES
                ]
        table = {
            "unit": np.arange(len(concepts)),
            "concept": concepts,
            "presence": presence.source,
            "images": (~np.isnan(there)).sum(0),
            "present": (there == 1).sum(0),
            **scores,
        }
        kept = {name: np.asarray(column, dtype=object)[labels.named] for name, column in table.items()}
        return Verdict(
            tuple(values),
            {TABLE: kept},
            _notices(subject, int((unjudged & ~unknown).sum()), int((unjudged & unknown).sum())),
        )


def untried(subject: Subject) -> InputError | None:
    """Why there are no held-out images to judge by; `None` where there are."""
    try:
        _ = subject.trial
    except InputError as error:
        return error
    return None


def _notices(subject: Subject, level: int, unknown: int) -> tuple[str, ...]:
    notices = []
    if level:
        notices.append(
            f"{level} labels of {subject.layer} are not judged: their unit is the same on all held-out "
            "images that are labelled in the concept's category"
        )
    if unknown:
        notices.append(
            f"{counted(unknown, 'labels')} of {subject.layer} are not judged: too few held-out images "
            "are labelled with "
            "them, and the run has no encoder"
        )
    return tuple(notices)


def _mean(values: np.ndarray[Any, Any]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
