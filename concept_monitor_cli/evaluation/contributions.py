"""The class of an image, read off the description of its most contributing unit (CLIP-Dissect, A.6)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from concept_monitor_cli.concepts.class_names import image_classes
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.evaluation.base import Measure, Value, Verdict, register_measure
from concept_monitor_cli.evaluation.subject import Subject
from concept_monitor_cli.evaluation.truth import class_names_of, classifier_of, not_before_classifier
from concept_monitor_cli.functional.evaluation import described_class, most_contributing_unit

TABLE = "evaluation-contributions"

# Below this agreement with the recorded outputs, a layer's activations are not what the classifier sees.
_SAME_INPUTS = 0.99


@register_measure
class ContributionMeasure(Measure):
    """Descriptions of the units before the classifier, used as a classifier themselves.

    For every image the unit with the highest positive contribution to the class that the network predicts;
    then the class whose name is most like the unit's description, by the mean cosine in the spaces of texts.

    - `class accuracy`: that class is the image's own, where it is known.
    - `class agreement`: that class is the one that the network predicts.

    By chance: what a description drawn at random from the concept set for every image gives.
    """

    name: ClassVar[str] = "contributions"
    in_grid: ClassVar[bool] = True

    def unfit(self, subject: Subject) -> InputError | None:
        """See `Measure`."""
        return not_before_classifier(subject, self.name)

    def judge(self, subject: Subject) -> Verdict:
        """See `Measure`."""
        names, notices = class_names_of(subject)
        classifier = classifier_of(subject)
        W, b = classifier.weights.to(subject.pooled.device), classifier.bias.to(subject.pooled.device)
        predicted = (subject.pooled @ W.T + b).argmax(1)
        if subject.logits is not None:
            seen = subject.logits.argmax(1)
            same = float((seen == predicted).double().mean())
            if same < _SAME_INPUTS:
                notices.append(
                    f"the pooled activations of {subject.layer} are not quite what {classifier.layer} sees: "
                    f"they give the network's prediction for {same:.0%} of the images"
                )
            predicted = seen
        named = torch.from_numpy(subject.labels.named).to(subject.pooled.device)
        # A dead unit has no description; it adds the same to every image.
        unit = most_contributing_unit(subject.pooled.masked_fill(~named, 0.0), W, predicted).cpu()
        described = self._described(subject, [str(c) for c in subject.labels.concepts], names)
        chances = self._described(subject, subject.candidates, names)
        share = torch.bincount(chances, minlength=len(names)).double() / max(1, len(chances))
        told = torch.where(unit >= 0, described[unit.clamp(min=0)], -1)

        network = predicted.cpu()
        true = torch.from_numpy(image_classes(subject.images.ids, names))
        known = true >= 0
        values = [Value("class agreement", _mean(told == network), _mean(share[network]), len(told))]
        if known.any():
            count = int(known.sum())
            values.insert(
                0,
                Value("class accuracy", _mean(told[known] == true[known]), _mean(share[true[known]]), count),
            )
            right = _mean(network[known] == true[known])
            values.append(Value("network accuracy", right, 1.0 / len(names), count))
        else:
            notices.append(
                "the true classes of the probing images are not known: they lie in no class folders"
            )
        used = torch.unique(unit[unit >= 0])
        columns: dict[str, list[object]] = {
            "unit": used.tolist(),
            "concept": [str(subject.labels.concepts[k]) for k in used.tolist()],
            "class_name": [names[described[k]] for k in used.tolist()],
            "images": [int((unit == k).sum()) for k in used.tolist()],
            "agreeing": [int((network[unit == k] == described[k]).sum()) for k in used.tolist()],
            "right": [
                int((true[unit == k] == described[k]).sum()) if known.any() else None for k in used.tolist()
            ],
        }
        return Verdict(tuple(values), {TABLE: columns}, tuple(notices))

    def _described(
        self, subject: Subject, words: tuple[str, ...] | list[str], names: tuple[str, ...]
    ) -> Tensor:
        """The class of every word; of an empty one, which no image asks for, any."""
        texts = [word or names[0] for word in words]
        spaces = subject.common.spaces().values()
        return described_class([embed(texts) for embed in spaces], [embed(names) for embed in spaces])


def _mean(values: Tensor) -> float:
    return float(values.double().mean()) if len(values) else float(np.nan)
