"""What either half of the images says of the units of a layer: how much of a label is luck?

The groups of images are divided at random, the units are named on each half by the same rule, and the concept
found on one half is asked to predict the activations on the other. Nothing but the recording is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from concept_monitor_cli.functional.embedding import TOP_CONCEPTS, neuron_embedding_from_top
from concept_monitor_cli.functional.firing import firing
from concept_monitor_cli.functional.held_out import Measure, held_out_auc, held_out_summary
from concept_monitor_cli.functional.topk import dead_units, top_rows
from concept_monitor_cli.lenses.responses import Responses, number_or_none
from concept_monitor_cli.models.allocator import give_back_freed_memory

if TYPE_CHECKING:
    from concept_monitor_cli.store import Entry, Writer
    from concept_monitor_cli.study.context import Context

#: Units of a layer that are asked, an even choice of more: what is shown are means over them.
MOST_UNITS = 512
#: Halves of fewer groups of images than this say nothing.
LEAST_GROUPS = 10

_BLOCK = 4096
_COLUMNS = ("unit", "concept_a", "concept_b", "distance", "held_out", "chance")


@dataclass(frozen=True)
class Halves:
    """Some units of a layer, each named on two halves of the images.

    Attributes:
        unit: `(n,)`, which.
        concept_a: `n`, the best concept on the first half; `""` for a unit that is the same on all its
            images.
        concept_b: `n`, on the second.
        distance: `(n,)`, cosine distance between the unit's two places in the space of words.
        held_out: `(n,)`, how well either concept predicts the activations on the other half (`held_out_auc`),
            on average of both.
        chance: `(n,)`, the same of other units' concepts.
        measure: in which both are.
    """

    unit: NDArray[np.int64]
    concept_a: NDArray[np.object_]
    concept_b: NDArray[np.object_]
    distance: NDArray[np.float64]
    held_out: NDArray[np.float64]
    chance: NDArray[np.float64]
    measure: Measure = "auc"

    def save(self, writer: Writer) -> None:
        """Put everything into a store entry."""
        writer.meta["measure"] = self.measure
        for name in _COLUMNS:
            writer.put(name, getattr(self, name))

    @classmethod
    def load(cls, entry: Entry) -> Halves:
        """Read what `save` wrote."""
        return cls(**{name: entry.read(name) for name in _COLUMNS}, measure=entry.meta["measure"])


@dataclass(frozen=True)
class Side:
    """One half of the images.

    Attributes:
        rows: `(n,)`, which images, ascending.
        activations: `(n, C)`, of the units that can be named on this half.
        context: of these images.
    """

    rows: Tensor
    activations: Tensor
    context: Context


# One half -> for every unit the scores of all concepts, and what sorts them: `(C, M)` each.
Score = Callable[[Side], tuple[Tensor, Tensor]]


def name_on_halves(entry: Entry, context: Context, score: Score) -> Halves | None:
    """Name the live units of a layer on either half of the images, by their likeness to words.

    Args:
        entry: the recording.
        context: images and concepts in the encoder's space, and the groups of images.
        score: the detector's rule.

    Returns:
        `None` where there are too few groups of images, or no live unit.
    """
    responses = Responses(entry)
    units = asked_units(responses.live)
    if context.groups.n_groups < 2 * LEAST_GROUPS or not len(units):
        return None
    Q = torch.from_numpy(_columns(responses, units)).to(context.device)
    rows = [half for half, _ in context.halves]
    named = [_named(some, Q[half], half, score) for half, some in context.halves]
    give_back_freed_memory(Q.nbytes)
    names = np.asarray([*context.concepts.concepts, ""], dtype=object)
    found = [_predicts(context, named[here][0], Q[rows[1 - here]], rows[1 - here]) for here in (0, 1)]
    own, chance = (torch.stack(pair).nanmean(0).cpu().numpy() for pair in zip(*found, strict=True))
    return Halves(
        units,
        names[named[0][0].cpu().numpy()],
        names[named[1][0].cpu().numpy()],
        cosine_distance(named[0][1], named[1][1]).cpu().numpy(),
        own,
        chance,
    )


def _named(context: Context, Q: Tensor, rows: Tensor, score: Score) -> tuple[Tensor, Tensor]:
    """The best concept of every unit on one half, -1 for none, and its place in the space of words."""
    silent = dead_units(Q) | firing(Q, context.groups).sparse(context.groups.n_groups).to(Q.device)
    best = torch.full((Q.shape[1],), -1, dtype=torch.int64, device=Q.device)
    places = torch.full((Q.shape[1], context.text_embeddings.shape[1]), torch.nan, device=Q.device)
    if not bool(silent.all()):
        scores, order = score(Side(rows, Q[:, ~silent], context))
        chosen, _ = top_rows(order, TOP_CONCEPTS)
        best[~silent] = chosen[:, 0]
        values = scores.gather(1, chosen)
        places[~silent] = neuron_embedding_from_top(values, chosen, context.text_embeddings)
    return best, places


def asked_units(live: NDArray[np.bool_]) -> NDArray[np.int64]:
    """At most `MOST_UNITS` of the live units, an even choice of more; ascending."""
    units = np.flatnonzero(live)
    count = min(MOST_UNITS, len(units))
    return units[np.arange(count) * len(units) // max(count, 1)].astype(np.int64)


def _columns(responses: Responses, units: NDArray[np.int64]) -> NDArray[np.float32]:
    """Some units on all images, `(N, n)`, without all units in memory at once."""
    columns = np.empty((responses.n_images, len(units)), dtype=np.float32)
    for start in range(0, responses.n_images, _BLOCK):
        stop = min(responses.n_images, start + _BLOCK)
        columns[start:stop] = responses.rows(start, stop)[:, units]
    return columns


def _predicts(context: Context, labels: Tensor, Q: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """How well concepts predict the activations of images that they were not found on, and chance."""
    distinct, column = torch.unique(labels, return_inverse=True)
    known = distinct >= 0
    presence = context.image_embeddings[rows] @ context.text_embeddings[distinct.clamp_min(0)].T
    return held_out_auc(Q, presence, torch.where(known[column], column, -1))


def cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    """`1 - cos` of every row, float64; 0 for equal ones."""
    a, b = (torch.nn.functional.normalize(vectors.double(), dim=1) for vectors in (a, b))
    # Half the squared distance of unit vectors: exactly 0 for equal ones.
    return 0.5 * ((a - b) ** 2).sum(1)


def held_out_record(found: Halves, categories: NDArray[np.object_], effective: float) -> dict[str, Any]:
    """For the record of a table: how well labels predict held-out activations, and what luck gives.

    Args:
        found: the layer.
        categories: `C`, the category of every unit's concept; `""` where unknown.
        effective: the layer's effective number of units.

    Returns:
        `units`, `value`, `chance`, `word` and `error` of `held_out_summary`, and under `categories`, for each
        one and for `all`: `distance`, mean distance of the two places of one unit; `changed`, share of units
        whose two concepts differ; `value` and `chance`.
    """
    summary = held_out_summary(
        torch.from_numpy(found.held_out),
        torch.from_numpy(found.chance),
        effective=effective,
        measure=found.measure,
    )
    own = categories[found.unit]
    everything = np.ones(len(own), dtype=bool)
    groups = {"all": everything, **{str(name): own == name for name in sorted(set(own))}}
    return {
        "units": summary.units,
        "value": number_or_none(summary.value),
        "chance": number_or_none(summary.chance),
        "word": summary.word,
        "error": number_or_none(summary.error),
        "measure": found.measure,
        "categories": {name: _means(found, rows) for name, rows in groups.items()},
    }


def _means(found: Halves, rows: NDArray[np.bool_]) -> dict[str, float | None]:
    named = rows & (found.concept_a != "") & (found.concept_b != "")
    known = rows & np.isfinite(found.held_out) & np.isfinite(found.chance)
    placed = rows & np.isfinite(found.distance)

    def mean(values: NDArray[Any], chosen: NDArray[np.bool_]) -> float | None:
        return number_or_none(float(np.mean(values[chosen]))) if chosen.any() else None

    distance = mean(found.distance, placed)

    return {
        # To four places: places are in float32, whose last digits differ from process to process.
        "distance": None if distance is None else round(distance, 4),
        "changed": mean(found.concept_a != found.concept_b, named),
        "value": mean(found.held_out, known),
        "chance": mean(found.chance, known),
    }
