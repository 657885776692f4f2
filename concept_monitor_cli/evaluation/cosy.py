"""Do units fire on generated images of their label? (CoSy, Kopf et al. 2024)"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.evaluation.base import Measure, Value, Verdict, register_measure
from concept_monitor_cli.evaluation.subject import Subject
from concept_monitor_cli.functional.evaluation.cosy import cosy_scores, of_labels
from concept_monitor_cli.wording import counted

if TYPE_CHECKING:
    from concept_monitor_cli.options import EvaluateOptions

TABLE = "evaluation-cosy"


def plain(text: str) -> str:
    """A label or the name of a folder, as they are compared: `Red_Car` is `red car`."""
    return " ".join(text.replace("_", " ").replace("-", " ").lower().split())


@register_measure
class CosyMeasure(Measure):
    """The activations of every unit on generated images of its label, against those on the run's images.

    - `AUC`: how often one of the former excites the unit more; 0.5 where they are alike.
    - `MAD`: the difference of the means, in standard deviations on the run's images.

    By chance: the mean over the labels of the other units of the layer. Images of one style excite some units
    whatever they show, so that is not 0.5 and 0.
    """

    name: ClassVar[str] = "cosy"
    by_default: ClassVar[bool] = False

    @classmethod
    def taken(cls, options: EvaluateOptions) -> bool:
        """See `Measure`: where there are generated images."""
        return options.generated is not None

    def unfit(self, subject: Subject) -> InputError | None:
        """See `Measure`."""
        if subject.read_generated is not None:
            return None
        return InputError(
            "cosy needs images of every concept, made by an image generator",
            where="--measure cosy",
            hint="--generated DIR, with a folder of images for each concept",
        )

    def judge(self, subject: Subject) -> Verdict:
        """See `Measure`.

        Raises:
            InputError: no label has a folder.
        """
        assert subject.read_generated is not None
        generated = subject.read_generated()
        names = sorted({plain(folder) for folder in generated.folders} - {""})
        number = {name: place for place, name in enumerate(names)}
        shown = torch.tensor([number.get(plain(folder), -1) for folder in generated.folders])
        labels = subject.labels
        label = torch.tensor(
            [
                number.get(plain(str(concept)), -1) if named else -1
                for concept, named in zip(labels.concepts, labels.named, strict=True)
            ]
        )
        if not bool((label >= 0).any()):
            raise InputError(
                f"no label of {subject.layer} has a folder of images",
                where="--generated",
                hint="name the folders as the labels: DIR/red car/*.png",
            )
        auc, mad = cosy_scores(subject.pooled.cpu(), generated.pooled.cpu(), shown, len(names))
        (own_auc, chance_auc), (own_mad, chance_mad) = of_labels(auc, label), of_labels(mad, label)
        values = [
            Value(metric, float(own.nanmean()), float(chance.nanmean()), int(own.isfinite().sum()))
            for metric, own, chance in (("AUC", own_auc, chance_auc), ("MAD", own_mad, chance_mad))
        ]
        units = torch.nonzero(label >= 0)[:, 0]
        counts = torch.bincount(shown[shown >= 0], minlength=len(names))
        table = {
            "unit": units.numpy(),
            "concept": labels.concepts[units.numpy()],
            "images": counts[label[units]].numpy(),
            "auc": own_auc[units].numpy(),
            "auc_chance": chance_auc[units].numpy(),
            "mad": own_mad[units].numpy(),
            "mad_chance": chance_mad[units].numpy(),
        }
        return Verdict(tuple(values), {TABLE: table}, self._left_out(subject, label.numpy()))

    @staticmethod
    def _left_out(subject: Subject, label: NDArray[np.int64]) -> tuple[str, ...]:
        lacking = subject.labels.concepts[subject.labels.named & (label < 0)]
        if not len(lacking):
            return ()
        return (
            f"{counted(len(lacking), 'units')} of {subject.layer} ({subject.detector}) are left out of cosy: "
            f"{counted(len(set(lacking)), 'labels')} such as {min(lacking)!r} have no folder of images",
        )
