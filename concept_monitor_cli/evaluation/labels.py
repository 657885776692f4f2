"""Labels of the classifier against its classes' names: tables 1 to 3 of CLIP-Dissect (4.2, 4.3)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from concept_monitor_cli.concepts.class_names import spelling
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.evaluation.base import Measure, Value, Verdict, register_measure
from concept_monitor_cli.evaluation.subject import Subject
from concept_monitor_cli.evaluation.truth import class_names_of, no_classifier
from concept_monitor_cli.functional.evaluation import cosines, expected_cosines, label_accuracy, label_ranks

TABLE = "evaluation-labels"


@register_measure
class LabelMeasure(Measure):
    """How often the label of a class's unit is the class's name, and how near it is where it is not.

    - `accuracy`: over the units whose name is in the concept set; by chance `1 / M`.
    - `CLIP cos` and `mpnet cos`: over all live units; by chance the mean cosine with all concepts.
    - `true rank`: the median place of the true name among the concepts; by chance in the middle.
    """

    name: ClassVar[str] = "labels"
    in_grid: ClassVar[bool] = True
    every_similarity: ClassVar[bool] = True

    def unfit(self, subject: Subject) -> InputError | None:
        """See `Measure`."""
        missing = no_classifier(subject)
        if missing is not None:
            return missing
        assert not isinstance(subject.classifier, InputError)
        if not subject.classifier.is_layer(subject.layer, len(subject.labels.concepts)):
            return InputError(
                f"the true names of the units of {subject.layer} are not known: it is not the classifier "
                f"({subject.classifier.layer})",
                where="--measure labels",
                hint=f"dissect the classifier, too: --layer {subject.classifier.layer}",
            )
        return None

    def judge(self, subject: Subject) -> Verdict:
        """See `Measure`."""
        names, notices = class_names_of(subject)
        labels, named = subject.labels, subject.labels.named
        predicted = [str(concept) for concept in labels.concepts]
        number = {spelling(concept): i for i, concept in reversed(list(enumerate(subject.candidates)))}
        places = np.array([number.get(spelling(name), -1) for name in names])
        known = named & (places >= 0)
        units = np.flatnonzero(known)
        correct = np.array([spelling(a) == spelling(b) for a, b in zip(predicted, names, strict=True)])
        accuracy = label_accuracy(
            [spelling(predicted[unit]) for unit in units], [spelling(names[unit]) for unit in units]
        )
        values = [Value("accuracy", accuracy, 1.0 / len(subject.candidates), len(units))]
        if not len(units):
            notices.append(f"no accuracy for {subject.layer}: no class name is in the concept set")
        elif len(units) < int(named.sum()):
            lacking = next(name for name, place in zip(names, places, strict=True) if place < 0)
            notices.append(
                f"accuracy is over the {len(units)} of {len(names)} classes whose name is in the concept set "
                f"({lacking!r} is not)"
            )
        table: dict[str, Any] = {
            "unit": np.arange(len(names)),
            "true_name": list(names),
            "concept": predicted,
            "in_concepts": places >= 0,
            "correct": correct & named,
        }
        for space, embed in (("CLIP", subject.common.text), ("mpnet", subject.common.sentence)):
            column = np.full(len(names), np.nan)
            if embed is not None:
                live = np.flatnonzero(named)
                concepts = embed(subject.candidates)
                true = embed([names[unit] for unit in live])
                column[live] = cosines(embed([predicted[unit] for unit in live]), true).numpy()
                chance = expected_cosines(true, concepts)
                values.append(Value(f"{space} cos", _mean(column[live]), _mean(chance), len(live)))
            table[f"{space.lower()}_cos"] = column
        table["true_rank"] = _ranks(subject, places, known)
        ranks = table["true_rank"][known]
        if subject.similarity and len(ranks):
            middle = (len(subject.candidates) + 1) / 2
            values.append(Value("true rank", float(np.median(ranks)), middle, len(ranks)))
        return Verdict(tuple(values), {TABLE: table}, tuple(notices))


def _ranks(subject: Subject, places: np.ndarray[Any, Any], known: np.ndarray[Any, Any]) -> Any:
    """`(K,)` float64; NaN where the true name is no concept or the detector scores none."""
    ranks = np.full(len(places), np.nan)
    if subject.similarity and known.any():
        rows = torch.from_numpy(np.flatnonzero(known))
        scores = subject.scored.order.cpu()[rows]
        ranks[known] = label_ranks(scores, torch.from_numpy(places[known])).double().numpy()
    return ranks


def _mean(values: np.ndarray[Any, Any] | Tensor) -> float:
    return float(values.mean()) if len(values) else float("nan")
