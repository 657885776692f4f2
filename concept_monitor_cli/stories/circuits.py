"""The story of `circuits`: what each unit is fed by, what it feeds, and which concepts are built of which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.calibration import benjamini_hochberg
from concept_monitor_cli.functional.circuits import (
    Union,
    agreement,
    concept_graph,
    edge_p_values,
    fires,
    unions,
)
from concept_monitor_cli.options import CircuitsOptions
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.record.requests import Activations
from concept_monitor_cli.report.circuit_figures import concept_edges
from concept_monitor_cli.report.style import save
from concept_monitor_cli.run import TABLES, CheckpointRecord
from concept_monitor_cli.stories.circuit_making import Measured, edges, forward_order
from concept_monitor_cli.stories.circuit_pictures import draw
from concept_monitor_cli.stories.embed import check_units
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.stories.recorder import Recorder
from concept_monitor_cli.stories.stats import plain_rows
from concept_monitor_cli.stories.vectors import checkpoints_of, distinct_images, plain_layers

if TYPE_CHECKING:
    import pandas as pd

NAMES = ("circuit", "circuit-layers", "circuit-concepts", "circuit-unions")
SIGNS = {"excites": 1, "inhibits": -1}


@dataclass
class CircuitsResult:
    """What a `circuits` found.

    Attributes:
        out: where the tables and plots are.
        images: how many images count: of copies one.
        layers, concepts, unions: rows of the tables as plain values; of concepts those that are more than
            chance.
        edges: how many edges the table lists.
        plots: the pictures.
    """

    out: Path
    images: int
    layers: list[dict[str, Any]] = field(default_factory=list)
    concepts: list[dict[str, Any]] = field(default_factory=list)
    unions: list[dict[str, Any]] = field(default_factory=list)
    edges: int = 0
    plots: list[Path] = field(default_factory=list)


@dataclass(frozen=True)
class Labels:
    """What the units of a layer are called at an epoch.

    Attributes:
        live: `(C,)` bool.
        concepts: `C`; `""` for a unit without a sure one.
    """

    live: Tensor
    concepts: tuple[str, ...]

    def numbers(self) -> tuple[list[str], Tensor]:
        """The different concepts, and `(C,)` int64 the number of each unit's, -1 without one."""
        names = sorted({concept for concept in self.concepts if concept})
        place = {name: number for number, name in enumerate(names)}
        return names, torch.tensor([place.get(concept, -1) for concept in self.concepts])


def circuits(options: CircuitsOptions, progress: Progress = SILENT) -> CircuitsResult:
    """Measure what the units of each layer of a run do to those of the next.

    Args:
        options: which run, layers, epochs, units.
        progress: told what happens.

    Raises:
        InputError: no run, fewer than two layers, no such units, or checkpoints that are gone.
    """
    import pandas as pd

    opened = OpenRun(options.out, options, progress)
    layers = plain_layers(opened, progress)
    if len(layers) < 2:
        raise InputError(
            "a circuit leads from one layer to another, and only one is looked at",
            where=opened.run.root,
            hint="dissect more: --layer layer3,layer4",
        )
    check_units(options.units, opened.table[opened.table["layer"].isin(layers)])
    records = checkpoints_of(opened)
    if options.epochs is None:
        records = records[-1:]
    rows = distinct_images(opened.context_of(None, (), opened.concepts))
    recorder = Recorder(opened, options, layers=layers)
    parts: dict[str, list[pd.DataFrame]] = {name: [] for name in NAMES}
    for record in records:
        recorder.prepare(record, [Activations()])
        ordered = forward_order(recorder.network(record).architecture, layers)
        for pair in pairwise(ordered):
            measured = edges(recorder, record, pair, rows, options, progress)
            labels = [
                labels_of(opened, record.epoch, layer, len(side))
                for layer, side in zip(pair, (measured.effect, measured.effect.T), strict=True)
            ]
            pooled = [recorder.pooled(record, layer)[rows] for layer in pair]
            for name, frame in _pair(record, measured, labels, pooled, options).items():
                parts[name].append(frame)
    tables = {name: TABLES[name].frame(pd.concat(frames)) for name, frames in parts.items()}
    for name, table in tables.items():
        opened.run.write_csv(name, table)
    result = _result(opened, tables, len(rows))
    if options.plot_formats:
        last = {name: table[table["epoch"] == records[-1].epoch] for name, table in tables.items()}
        figures = draw(opened, records[-1], last["circuit"], options)
        if last["circuit-concepts"]["confident"].any():
            figures["circuit_concepts"] = concept_edges(last["circuit-concepts"])
        for stem, figure in figures.items():
            result.plots += save(
                figure, opened.run.plots / stem, options.plot_formats, caption=opened.caption
            )
    return result


def _result(opened: OpenRun, tables: dict[str, pd.DataFrame], images: int) -> CircuitsResult:
    concepts = tables["circuit-concepts"]
    return CircuitsResult(
        opened.run.root,
        images,
        plain_rows(tables["circuit-layers"]),
        plain_rows(concepts[concepts["confident"]]),
        plain_rows(tables["circuit-unions"]),
        len(tables["circuit"]),
    )


def labels_of(opened: OpenRun, epoch: int, layer: str, n_units: int) -> Labels:
    """What the units of a layer are called."""
    own = opened.first_labels(epoch, layer)
    live = torch.zeros(n_units, dtype=torch.bool)
    concepts = [""] * n_units
    for unit, state, concept, sure in zip(
        own["unit"].tolist(), own["state"], own["concept"], own["interpretable"], strict=True
    ):
        live[unit] = state != "dead"
        concepts[unit] = str(concept) if sure else ""
    return Labels(live, tuple(concepts))


# -- one pair of layers --------------------------------------------------------------------------------------


def _pair(
    record: CheckpointRecord,
    measured: Measured,
    labels: Sequence[Labels],
    pooled: Sequence[Tensor],
    options: CircuitsOptions,
) -> dict[str, pd.DataFrame]:
    """The rows of every table for one pair of layers at one epoch."""
    import pandas as pd

    place: dict[str, Any] = {
        "epoch": record.epoch,
        "checkpoint": record.name,
        "from_layer": measured.first,
        "to_layer": measured.second,
    }
    p = edge_p_values(measured.effect, measured.untrained)
    sure = benjamini_hochberg(p.flatten()).reshape(p.shape)
    listed = _edges(measured, p, sure, labels, options.edges)
    concepts, by_chance = _concepts(measured, labels, options.edges, options.seed)
    united = _unions(measured, labels, pooled)
    order = torch.from_numpy(np.random.default_rng(options.seed).permutation(len(pooled[1])))
    lucky = _unions(measured, labels, (pooled[0], pooled[1][order]))
    weight = measured.weight
    nothing = (float("nan"), float("nan"))
    correlations = nothing if weight is None else agreement(weight, measured.effect)
    summary = {
        "from_units": len(p),
        "to_units": p.shape[1],
        "images": len(pooled[0]),
        "draws": options.draws,
        "weight_correlation": correlations[0],
        "weight_rank_correlation": correlations[1],
        "no_weight": measured.no_weight,
        "confident": int(sure.sum()),
        "confident_by_chance": _sure_by_chance(measured.untrained) * int(p.isfinite().sum()),
        "concepts": 0 if concepts.empty else int(concepts["confident"].sum()),
        "concepts_by_chance": by_chance,
        "unions": 0 if united.empty else int(united["confident"].sum()),
        "unions_by_chance": 0 if lucky.empty else int(lucky["confident"].sum()),
    }
    frames = {
        "circuit": listed,
        "circuit-layers": pd.DataFrame([summary]),
        "circuit-concepts": concepts,
        "circuit-unions": united,
    }
    return {name: frame.assign(**place) for name, frame in frames.items()}


def _sure_by_chance(untrained: Tensor) -> float:
    """The share of a random network's edges that stand out among other edges of the same network."""
    half = len(untrained) // 2
    if half < 1:
        return float("nan")
    p = edge_p_values(untrained[:half], untrained[half:]).flatten()
    return float(benjamini_hochberg(p)[p.isfinite()].double().mean()) if p.isfinite().any() else float("nan")


def _edges(measured: Measured, p: Tensor, sure: Tensor, labels: Sequence[Labels], most: int) -> pd.DataFrame:
    """The strongest edges into each unit, and out of each."""
    import pandas as pd

    effect = measured.effect
    size = effect.abs()
    place = size.argsort(dim=0, descending=True, stable=True).argsort(dim=0)
    out = size.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    sources, targets = (((place < most) | (out < most)) & (effect != 0)).nonzero().unbind(1)
    weight = torch.full_like(effect, torch.nan) if measured.weight is None else measured.weight
    return pd.DataFrame(
        {
            "from_unit": sources.numpy(),
            "from_concept": [labels[0].concepts[unit] for unit in sources.tolist()],
            "to_unit": targets.numpy(),
            "to_concept": [labels[1].concepts[unit] for unit in targets.tolist()],
            "place": place[sources, targets].numpy() + 1,
            "weight": weight[sources, targets].numpy(),
            "effect": effect[sources, targets].numpy(),
            "error": measured.error[sources, targets].numpy(),
            "p_value": p[sources, targets].numpy(),
            "confident": sure[sources, targets].numpy(),
        }
    )


def _concepts(measured: Measured, labels: Sequence[Labels], most: int, seed: int) -> tuple[pd.DataFrame, int]:
    """Which concepts excite and inhibit which, and how many would seem to with labels of other units."""
    import pandas as pd

    (names, sources), (later, targets) = (each.numbers() for each in labels)
    if not names or not later:
        return pd.DataFrame(columns=list(TABLES["circuit-concepts"].columns)), 0
    sources, targets = sources[labels[0].live], targets[labels[1].live]
    effect = measured.effect[labels[0].live][:, labels[1].live]
    generator = torch.Generator().manual_seed(seed + 1)
    others = sources[torch.randperm(len(sources), generator=generator)]
    counts = [
        torch.bincount(each[each >= 0], minlength=len(known))
        for each, known in ((sources, names), (targets, later))
    ]
    frames, chance = [], []
    for kind, sign in SIGNS.items():
        graph = concept_graph(effect, sources, targets, sign, seed=seed)
        chance.append(concept_graph(effect, others, targets, sign, seed=seed).p.flatten())
        frames.append(
            pd.DataFrame(
                {
                    "from_concept": np.repeat(names, len(later)),
                    "to_concept": np.tile(later, len(names)),
                    "kind": kind,
                    "from_units": counts[0].repeat_interleave(len(later)).numpy(),
                    "to_units": counts[1].repeat(len(names)).numpy(),
                    **{
                        column: getattr(graph, name).flatten().numpy()
                        for column, name in (
                            ("strength", "strength"),
                            ("share", "share"),
                            ("chance", "chance"),
                            ("p_value", "p"),
                        )
                    },
                }
            )
        )
    frame = pd.concat(frames, ignore_index=True)
    frame["confident"] = benjamini_hochberg(torch.from_numpy(frame["p_value"].to_numpy(copy=True))).numpy()
    frame = frame.sort_values(["p_value", "share"], ascending=[True, False], kind="stable")
    place = frame.groupby(["to_concept", "kind"]).cumcount()
    frame = frame[(frame["strength"] > 0) & (frame["confident"] | (place < most))]
    return frame, int(benjamini_hochberg(torch.cat(chance)).sum())


def _unions(measured: Measured, labels: Sequence[Labels], pooled: Sequence[Tensor]) -> pd.DataFrame:
    """Units that unite two concepts of the layer before."""
    import pandas as pd

    names, sources = labels[0].numbers()
    empty = pd.DataFrame(columns=list(TABLES["circuit-unions"].columns))
    if len(names) < 2:
        return empty
    firing = fires(pooled[0])
    shown = torch.stack([firing[:, sources == number].any(1) for number in range(len(names))], 1)
    found: list[Union] = unions(pooled[1], measured.effect, shown, sources)
    if not found:
        return empty
    tried = torch.tensor([each.p for each in found], dtype=torch.float64)
    sure = tried <= 0.05 / max(1, _tried(measured.effect.shape[1], len(names)))
    return pd.DataFrame(
        [
            {
                "to_unit": each.target,
                "to_concept": labels[1].concepts[each.target],
                "first_concept": names[each.first],
                "second_concept": names[each.second],
                "images": each.images,
                "exactly_one": each.one,
                "chance": each.chance,
                "first_share": each.shares[0],
                "second_share": each.shares[1],
                "p_value": each.p,
                "confident": bool(certain),
            }
            for each, certain in zip(found, sure, strict=True)
        ]
    )


def _tried(targets: int, concepts: int) -> int:
    """Pairs that were looked at: of the five concepts that excite a unit most."""
    few = min(5, concepts)
    return targets * few * (few - 1) // 2
