"""Units that respond to several things, and what these are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.evaluation.base import Measure, Value, Verdict, register_measure
from concept_monitor_cli.evaluation.clarity import few_exciting, too_few_images
from concept_monitor_cli.evaluation.ranges import joined, not_shown
from concept_monitor_cli.evaluation.subject import Subject
from concept_monitor_cli.evaluation.truth import no_encoder
from concept_monitor_cli.functional.evaluation.groups import (
    DRAWS,
    TOP_IMAGES,
    Groups,
    image_groups,
    most_groups,
    name_groups,
    several_by_chance,
    single_meaning_clarity,
)
from concept_monitor_cli.functional.topk import exciting_images
from concept_monitor_cli.store import Writer

if TYPE_CHECKING:
    from concept_monitor_cli.options import EvaluateOptions

TABLE = "evaluation-groups"
LABELS = "evaluation-group-labels"
IMAGES = "evaluation-group-images"
#: The fewest groups that a polysemantic unit can have; stands beside their mean, in the place of chance.
LEAST_SEVERAL = 2.0
#: Units that are shown where the user names none.
SHOWN = 8


@register_measure
class GroupMeasure(Measure):
    """Into how many groups the top images of each unit fall, and the concept of each group.

    `polysemantic` is the share of the units with more than one group, of those that
    `top` images excite; by chance, that of as many sets of images with at most one meaning.

    Args:
        top: top images of each unit.
        units: whose images to show; none: those with the clearest groups.
    """

    name: ClassVar[str] = "groups"
    draws: ClassVar[int] = DRAWS

    def __init__(self, top: int = TOP_IMAGES, units: Sequence[int] = ()) -> None:
        self.top, self.units = top, tuple(units)

    @classmethod
    def from_options(cls, options: EvaluateOptions) -> GroupMeasure:
        """See `Measure`."""
        return cls(options.top_images, options.units)

    def unfit(self, subject: Subject) -> InputError | None:
        """See `Measure`."""
        if most_groups(self.top) < 2:
            return InputError(f"{self.top} images do not fall into groups", where="--top-images")
        return no_encoder(subject) or too_few_images(subject, self.top)

    def judge(self, subject: Subject) -> Verdict:
        """See `Measure`."""
        top = exciting_images(subject.pooled.cpu(), self.top).masked_fill(~subject.live.cpu(), -1)
        embeddings = subject.common.context.image_embeddings.cpu()
        null = self._null(subject, embeddings)
        found = image_groups(embeddings, top, null)
        asked = found.count > 0
        several = found.count > 1
        alive = int(asked.sum())
        share = int(several.sum()) / max(1, alive)
        values = [Value("polysemantic", share, several_by_chance(null, alive), alive)]
        if bool(several.any()):
            mean = float(found.count[several].double().mean())
            values.append(Value("groups of polysemantic units", mean, LEAST_SEVERAL, int(several.sum())))
        labels = self._labels(subject, top, found)
        images = self._images(subject, top, found, labels)
        tables = {
            TABLE: {
                "unit": asked.nonzero()[:, 0].numpy(),
                "concept": subject.labels.concepts[asked.numpy()],
                "groups": found.count[asked].numpy(),
                "division": found.clarity[asked].numpy(),
                "p_value": found.p_values[asked].numpy(),
            },
            LABELS: labels,
            IMAGES: images,
        }
        missing = not_shown(
            self.units, images.get("unit", ()), f"{subject.layer} has no {self.top} images that excite"
        )
        return Verdict(tuple(values), tables, (*few_exciting(subject, alive, self.top), *missing))

    def _null(self, subject: Subject, embeddings: Tensor) -> Tensor:
        """Divisions of sets with one meaning: the same for all layers, epochs and runs, so they are kept."""
        common = subject.common
        digests = common.context.digests
        key = common.store.key(
            "null",
            images=digests["images"],
            encoder=digests["encoder"],
            groups_of=self.top,
            draws=self.draws,
            seed=common.seed,
        )

        def make(writer: Writer) -> None:
            common.progress.detail("dividing sets of images of one meaning, for comparison")
            null = single_meaning_clarity(embeddings, self.top, draws=self.draws, seed=common.seed)
            writer.put("clarity", null.numpy())

        with common.store.get_or_make(key, make) as entry:
            return torch.from_numpy(entry.read("clarity"))

    def _labels(self, subject: Subject, top: Tensor, found: Groups) -> dict[str, Any]:
        """A row per group: its images and its concept."""
        units, numbers, members = [], [], []
        for unit in (found.count > 0).nonzero()[:, 0].tolist():
            for group in range(int(found.count[unit])):
                units.append(unit)
                numbers.append(group)
                members.append(top[:, unit].masked_fill(found.labels[unit] != group, -1))
        scores = (
            name_groups(subject.common.activations, torch.stack(members)) if members else torch.empty(0, 1)
        )
        best, concept = scores.max(1)
        names = np.asarray(subject.common.concepts.concepts, dtype=object)
        return {
            "unit": np.array(units, dtype=np.int64),
            "group": np.array(numbers, dtype=np.int64) + 1,
            "images": np.array([int((rows >= 0).sum()) for rows in members], dtype=np.int64),
            "concept": names[concept.cpu().numpy()],
            "score": best.cpu().double().numpy(),
        }

    def _images(self, subject: Subject, top: Tensor, found: Groups, labels: dict[str, Any]) -> dict[str, Any]:
        """A row per top image of the units that are shown."""
        count = found.count.numpy()
        if self.units:
            shown = [unit for unit in self.units if unit < len(count) and count[unit] > 0]
        else:
            several = np.flatnonzero(count > 1)
            clear = found.clarity.numpy()[several]
            shown = [int(unit) for unit in several[np.lexsort((several, -clear))][:SHOWN]]
        concepts = {
            (unit, group): concept
            for unit, group, concept in zip(labels["unit"], labels["group"], labels["concept"], strict=True)
        }
        tables = []
        for unit in shown:
            groups = found.labels[unit].numpy() + 1
            tables.append(
                {
                    "unit": np.full(len(groups), unit),
                    "place": np.arange(1, len(groups) + 1),
                    "group": groups,
                    "concept": np.array([concepts[unit, int(group)] for group in groups], dtype=object),
                    "image": np.array(
                        [subject.images.ids[row] for row in top[:, unit].tolist()], dtype=object
                    ),
                }
            )
        return joined(tables)
