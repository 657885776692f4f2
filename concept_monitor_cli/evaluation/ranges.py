"""What do units respond to beyond their very top images? (CLIP-Dissect, A.7)"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.evaluation.base import Measure, Value, Verdict, register_measure
from concept_monitor_cli.evaluation.showing import presence_of
from concept_monitor_cli.evaluation.simulation import formulas
from concept_monitor_cli.evaluation.subject import Labels, Subject
from concept_monitor_cli.functional.evaluation.ranges import RANGES, range_mean, range_samples, range_size
from concept_monitor_cli.probe.presence import prevalence

if TYPE_CHECKING:
    from concept_monitor_cli.options import EvaluateOptions

TABLE = "evaluation-ranges"
IMAGES = "evaluation-range-images"
#: Units that are shown where the user names none, and images of each range.
SHOWN = 6
SAMPLES = 5


@register_measure
class RangeMeasure(Measure):
    """How many of the images in the top 0.1 %, 1 % and 5 % of each unit show its concept, and some of them.

    Args:
        units: whose images to show; none: those with the most certain labels.
    """

    name: ClassVar[str] = "ranges"

    def __init__(self, units: Sequence[int] = ()) -> None:
        self.units = tuple(units)

    @classmethod
    def from_options(cls, options: EvaluateOptions) -> RangeMeasure:
        """See `Measure`."""
        return cls(options.units)

    def unfit(self, subject: Subject) -> InputError | None:
        """See `Measure`."""
        return formulas(subject)

    def judge(self, subject: Subject) -> Verdict:
        """See `Measure`."""
        labels, images = subject.labels, subject.images
        concepts = [str(concept) for concept in labels.concepts]
        presence = presence_of(subject.common, images, concepts)
        pooled, named = images.pooled.cpu(), np.flatnonzero(labels.named)
        # An image at a unit's lowest activation does not excite it, however few are above.
        present = presence.present.masked_fill(pooled <= pooled.amin(0), torch.nan)
        chance = prevalence(presence)[named]
        chosen = certain_units(labels, SHOWN) if not self.units else existing(self.units, labels)
        values, table, shown = [], [], []
        for share in RANGES:
            showing = range_mean(pooled, present, share).numpy()[named]
            known = ~np.isnan(showing)
            values.append(
                Value(
                    f"showing, top {100 * share:g} %",
                    float(showing[known].mean()) if known.any() else float("nan"),
                    float(chance[known].mean()) if known.any() else float("nan"),
                    int(known.sum()),
                )
            )
            table.append(
                {
                    "unit": named,
                    "concept": np.asarray(concepts, dtype=object)[named],
                    "share": np.full(len(named), share),
                    "images": np.full(len(named), range_size(len(pooled), share)),
                    "showing": showing,
                    "prevalence": chance,
                }
            )
            drawn = range_samples(pooled, share, SAMPLES, seed=subject.common.seed)
            shown += [
                _samples(unit, concepts[unit], share, drawn[:, unit], subject, present[:, unit])
                for unit in chosen
            ]
        missing = not_shown(self.units, chosen, f"{subject.layer} has no label for")
        return Verdict(tuple(values), {TABLE: joined(table), IMAGES: joined(shown)}, missing)


def certain_units(labels: Labels, count: int) -> list[int]:
    """The units with the most certain labels, each concept once; without p-values by their scores."""
    units = np.flatnonzero(labels.named)
    p = np.nan_to_num(labels.p_values[units], nan=1.0)
    order = units[np.lexsort((units, -labels.scores[units], p))]
    _, first = np.unique(labels.concepts[order].astype(str), return_index=True)
    return [int(unit) for unit in order[np.sort(first)[:count]]]


def existing(units: Sequence[int], labels: Labels) -> list[int]:
    """Those of some units that this layer has and that have a label."""
    return [unit for unit in units if unit < len(labels.concepts) and labels.named[unit]]


def not_shown(wanted: Sequence[int], shown: Sequence[int], why: str) -> tuple[str, ...]:
    """A notice of the units that the user named and whose images are not shown, where there are some."""
    missing = [str(unit) for unit in wanted if unit not in shown]
    if not missing:
        return ()
    more = f" and {len(missing) - 5} others" if len(missing) > 5 else ""
    return (f"{why} unit {', '.join(missing[:5])}{more}: no images are shown",)


def joined(tables: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Tables of the same columns, one below the other."""
    return {
        name: np.concatenate([np.asarray(table[name]) for table in tables])
        for name in (tables[0] if tables else ())
    }


def _samples(
    unit: int, concept: str, share: float, rows: torch.Tensor, subject: Subject, present: torch.Tensor
) -> dict[str, NDArray[Any]]:
    count = len(rows)
    return {
        "unit": np.full(count, unit),
        "concept": np.array([concept] * count, dtype=object),
        "share": np.full(count, share),
        "place": np.arange(1, count + 1),
        "image": np.array([subject.images.ids[row] for row in rows.tolist()], dtype=object),
        "activation": subject.pooled.cpu()[rows, unit].double().numpy(),
        "showing": present[rows].double().numpy(),
    }
