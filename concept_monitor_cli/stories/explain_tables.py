"""What `explain` found as rows: parts of outputs, units at places, and what stands beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from concept_monitor_cli.functional import building_blocks as method
from concept_monitor_cli.functional.pictures import generator
from concept_monitor_cli.options import ExplainOptions
from concept_monitor_cli.stories.attribute_making import Photo
from concept_monitor_cli.stories.explain_making import Parts, Split, Taken
from concept_monitor_cli.stories.picture_wishes import Scale
from concept_monitor_cli.study import Context

#: Units of a class that get a row of their own, the largest attributions first; the others are one row.
TOP_UNITS = 10


@dataclass(frozen=True)
class UnitsOfRun:
    """What the run says of a layer's units at one epoch.

    Attributes:
        scale: over the probing images.
        concepts: of every unit; empty for none.
    """

    scale: Scale
    concepts: Sequence[str]


@dataclass(frozen=True)
class GroupConcepts:
    """What groups of units are nearest to, by the images that excite them.

    Attributes:
        names: of each group.
        correlations: of the group's activations with what the encoder sees of the concept, over the images.
        floor: the mean of the same of groups whose units are dealt out anew.
    """

    names: list[str]
    correlations: list[float]
    floor: list[float]


@dataclass(frozen=True)
class Moment:
    """An image at one epoch.

    Attributes:
        epoch, checkpoint: which.
        predicted: the class with the largest logit.
        logits, probabilities: of the explained classes.
        split: activations, gradients and groups.
        classes: each class taken apart.
        explained: what each group explains, what all leave, and both by luck (`Split.explained`).
    """

    epoch: int
    checkpoint: str
    predicted: str
    logits: list[float]
    probabilities: list[float]
    split: Split
    classes: list[Taken]
    explained: tuple[Tensor, float, Tensor, float]


@dataclass(frozen=True)
class Explained:
    """An image over the epochs.

    Attributes:
        photo: it.
        layer: where outputs are taken apart.
        targets: the explained classes, the first one the target.
        moments: one for each epoch.
        H: the groups, `(R, C)`.
        photos: `(R, n)`, the probing images that excite each group most at the last epoch.
        concepts: of the groups; `None` without an encoder.
    """

    photo: Photo
    layer: str
    targets: list[str]
    moments: list[Moment]
    H: Tensor
    photos: Tensor
    concepts: GroupConcepts | None


def group_concepts(context: Context, pooled: Tensor, H: Tensor, seed: int) -> GroupConcepts | None:
    """The concept whose presence, as the run's encoder sees it, goes with each group's activations best.

    Args:
        context: images and concepts.
        pooled: `Q`, `(N, C)`.
        H: groups, `(R, C)`.
        seed: of the permutations.
    """
    if context.encoder is None:
        return None
    seen = context.image_embeddings.double().cpu() @ context.text_embeddings.double().cpu().T
    seen = _standard(seen)

    def best(groups: Tensor) -> tuple[Tensor, Tensor]:
        found = (_standard(pooled @ groups.T).T @ seen).max(1)
        return found.values, found.indices

    value, place = best(H)
    numbers = generator(seed, "explain concepts")
    luck = [best(H[:, torch.randperm(H.shape[1], generator=numbers)])[0] for _ in range(method.DRAWS)]
    return GroupConcepts(
        [context.concepts.concepts[number] for number in place.tolist()],
        value.tolist(),
        torch.stack(luck).mean(0).tolist(),
    )


def _standard(values: Tensor) -> Tensor:
    """Columns of mean 0 and length 1; zeros for constant ones."""
    centred = values - values.mean(0)
    found: Tensor = centred / centred.norm(dim=0).clamp_min(1e-12)
    return found


# -- rows ----------------------------------------------------------------------------------------------------


def strongest(values: Tensor, count: int) -> list[int]:
    """The rows of the largest absolute values, ties by number."""
    return torch.sort(values.abs(), descending=True, stable=True).indices[:count].tolist()


def class_rows(explained: Explained, moment: Moment, units: UnitsOfRun) -> list[dict[str, Any]]:
    """Rows of `explanations.csv` of an image at one epoch."""
    gains, left, gains_by_luck, left_by_luck = moment.explained
    columns = moment.split.grid[1]
    rows = []
    for number, taken in enumerate(moment.classes):
        shared = {
            "epoch": moment.epoch,
            "checkpoint": moment.checkpoint,
            "layer": explained.layer,
            "image": explained.photo.name,
            "target": explained.targets[number],
            "predicted": moment.predicted,
            "logit": moment.logits[number],
            "probability": moment.probabilities[number],
        }

        def row(part: str, shared: dict[str, Any] = shared, **values: Any) -> dict[str, Any]:
            nothing = dict.fromkeys(_OWN)
            return {**shared, **nothing, "concept": "", "part": part, **values}

        rows.append(
            row(
                "total",
                attribution=taken.total,
                attribution_floor=taken.total_floor,
                completeness_error=taken.completeness_error,
            )
        )
        own = taken.parts["unit"]
        top = strongest(own.values, TOP_UNITS)
        rows += [row("unit", unit=unit, concept=units.concepts[unit], **_numbers(own, unit)) for unit in top]
        if len(top) < len(own.values):
            away = torch.ones(len(own.values), dtype=torch.bool)
            away[top] = False
            rows.append(row("other units", attribution=float(own.values[away].sum())))
        own = taken.parts["place"]
        rows += [
            row("place", row=place // columns, column=place % columns, **_numbers(own, place))
            for place in range(len(own.values))
        ]
        own = taken.parts["group"]
        for group in range(len(explained.H)):
            concepts = explained.concepts
            rows.append(
                row(
                    "group",
                    group=group,
                    concept="" if concepts is None else concepts.names[group],
                    correlation=None if concepts is None else concepts.correlations[group],
                    correlation_floor=None if concepts is None else concepts.floor[group],
                    explained=float(gains[group]),
                    explained_floor=float(gains_by_luck[group]),
                    **_numbers(own, group),
                )
            )
        rows.append(
            row(
                "residual",
                explained=left,
                explained_floor=left_by_luck,
                **_numbers(own, len(explained.H)),
            )
        )
        if taken.elsewhere:
            rows.append(row("elsewhere", attribution=taken.elsewhere))
    return rows


_OWN = (
    *("unit", "row", "column", "group", "correlation", "correlation_floor"),
    *("attribution", "attribution_floor", "share", "share_floor", "share_untrained"),
    *("explained", "explained_floor", "completeness_error"),
)


def _numbers(parts: Parts, number: int) -> dict[str, Any]:
    return {
        "attribution": float(parts.values[number]),
        "attribution_floor": float(parts.floor[number]),
        "share": float(parts.shares[number]),
        "share_floor": float(parts.share_floor[number]),
        "share_untrained": float(parts.share_untrained[number]),
    }


@dataclass(frozen=True)
class AtPlace:
    """A unit at a place.

    Attributes:
        unit: which.
        activation: its mean over the place.
        of_best: that, as a share of what its best probing image gives; NaN where that is not above 0.
        typical: the same of its mean over the probing images.
        attributions: to each class, summed over the place.
    """

    unit: int
    activation: float
    of_best: float
    typical: float
    attributions: list[float]


def units_at_places(moment: Moment, units: UnitsOfRun, options: ExplainOptions) -> list[list[AtPlace]]:
    """The units of each place, the strongest first; places row by row."""
    split = moment.split
    activations = split.cell_activations().flatten(1)
    attributions = torch.stack(
        [split.cell_attributions(number).flatten(1) for number in range(len(moment.classes))]
    )
    ranked = activations if options.by == "activation" else attributions[0]
    order = torch.sort(ranked, dim=0, descending=True, stable=True).indices[: options.units]
    mean, best = units.scale.mean.double(), units.scale.maximum.double()
    best = torch.where(best > 0, best, torch.nan)
    found = []
    for place in range(activations.shape[1]):
        own = order[:, place].tolist()
        found.append(
            [
                AtPlace(
                    unit,
                    float(activations[unit, place]),
                    float(activations[unit, place] / best[unit]),
                    float(mean[unit] / best[unit]),
                    attributions[:, unit, place].tolist(),
                )
                for unit in own
            ]
        )
    return found


def place_rows(
    explained: Explained, moment: Moment, units: UnitsOfRun, options: ExplainOptions
) -> list[dict[str, Any]]:
    """Rows of `explanation-places.csv` of an image at one epoch."""
    columns = moment.split.grid[1]
    anyone = moment.split.cell_attributions(0).flatten(1).abs().mean(0).tolist()
    rows = []
    for place, found in enumerate(units_at_places(moment, units, options)):
        for rank, each in enumerate(found, start=1):
            rows.append(
                {
                    "epoch": moment.epoch,
                    "checkpoint": moment.checkpoint,
                    "layer": explained.layer,
                    "image": explained.photo.name,
                    "row": place // columns,
                    "column": place % columns,
                    "rank": rank,
                    "unit": each.unit,
                    "concept": units.concepts[each.unit],
                    "activation": each.activation,
                    "of_best": each.of_best,
                    "of_best_floor": each.typical,
                    "target": explained.targets[0],
                    "attribution": each.attributions[0],
                    "attribution_floor": anyone[place],
                }
            )
    return rows
