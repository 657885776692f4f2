"""The story of an `embed`: the units of a finished run and the anchors, in one picture."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from concept_monitor_cli.encoders import embed_listed
from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.embedding import nearest_anchor, spread
from concept_monitor_cli.lenses import traits_of
from concept_monitor_cli.monitor.findings import caption
from concept_monitor_cli.options import EmbedOptions
from concept_monitor_cli.progress import SILENT, Progress
from concept_monitor_cli.report.embedding_figures import embedding_panels, trajectories
from concept_monitor_cli.report.style import save
from concept_monitor_cli.run import TABLES, RunFolder
from concept_monitor_cli.space import (
    concept_words,
    default_anchors,
    misspelt,
    parse_anchors,
    project,
    unit_vectors,
)
from concept_monitor_cli.store import Store
from concept_monitor_cli.stories.inputs import concepts_of, listed_concepts, run_encoder, run_study
from concept_monitor_cli.wording import counted

if TYPE_CHECKING:
    import pandas as pd

# So many anchors, where the user names none.
_DEFAULT_ANCHORS = 8
# Of the concept table what places depend on, and what is drawn beside them.
_COLUMNS = ("concept", "category", "score", "interpretable", "state", "effect")
_MOMENT = ["layer", "epoch", "checkpoint"]


@dataclass
class EmbedResult:
    """What an `embed` did.

    Attributes:
        out: the run folder.
        units: number of points, over all epochs and layers.
        anchors: the anchor words.
        plots: the pictures.
        spread: per layer and epoch, the mean pairwise cosine distance of the units, and their mean distance
            to the nearest anchor; both of units with random weights, too (`..._floor_random`; `None` where
            the run has none).
        tracked: per tracked unit, layer and epoch: concept, nearest anchor and distance.
    """

    out: Path
    units: int = 0
    anchors: tuple[str, ...] = ()
    plots: list[Path] = field(default_factory=list)
    spread: list[dict[str, Any]] = field(default_factory=list)
    tracked: list[dict[str, Any]] = field(default_factory=list)


def embed(options: EmbedOptions, progress: Progress = SILENT) -> EmbedResult:
    """Place every unit of a run, at every epoch, in the space of the encoder's words.

    Args:
        options: which layers, epochs, anchors and units.
        progress: told what happens.

    Returns:
        What was done; `tables/embedding.csv`, `anchors.csv`, `embedding-floors.csv` and the plots are in the
        run folder.

    Raises:
        InputError: there is no run, or no such layer, unit or epoch in it.
    """
    import pandas as pd

    run = RunFolder.open(options.out)
    asked = _table(run, options)
    detector = str(asked["detector"].iloc[0])
    others = _others(run, asked, detector)
    table = asked
    if len(others):
        # In the order of the run's table, whatever was asked for: the same units get the same places.
        table = pd.concat([asked, others]).sort_values(
            list(TABLES["concepts"].order), kind="stable", ignore_index=True
        )
        progress.notice(
            f"placed anew with the rest, in one coordinate system: {', '.join(sorted(set(others['layer'])))}"
        )
    anchors = _anchors(options, asked, progress)
    check_units(options.units, asked)
    encoder, templates = run_encoder(run, options, progress)
    store = Store(options.cache, progress=progress)
    concepts = listed_concepts(run.info(), lambda: concepts_of(run, run_study(run, options, progress)))

    # Beside each layer stands the network with random weights, where the run has it.
    random = {layer: run.untrained(layer, detector) for layer in sorted(set(table["layer"].astype(str)))}
    random_tables = [each for each in random.values() if each is not None]
    words = sorted(set().union(*(concept_words(each) for each in (table, *random_tables))))
    # One list after the other: other anchors leave the words where they are.
    vectors, marks = (
        embed_listed(store, encoder, texts, concepts, template=templates or None, progress=progress)
        for texts in (words, anchors)
    )
    placed = unit_vectors(table, words, vectors)
    floors = {layer: _floor(rows, words, vectors, marks) for layer, rows in random.items()}

    count = len(placed.units) + len(marks)
    with progress.task(f"placing {counted(len(placed.units), 'units')}", count, "points") as advance:
        points = project(
            np.concatenate([placed.vectors, marks]),
            method=options.method,
            seed=options.seed,
            neighbors=options.neighbors,
            min_dist=options.min_dist,
            keep=len(marks),
            progress=progress,
            advance=advance,
        )
    index, distance = nearest_anchor(torch.from_numpy(placed.vectors), torch.from_numpy(marks))
    units = placed.units.assign(
        x=points[: len(placed.units), 0],
        y=points[: len(placed.units), 1],
        nearest_anchor=[anchors[i] for i in index.tolist()],
        anchor_distance=distance.numpy(),
    )
    run.write_csv("embedding", units)
    stars = _frame(anchors, points[len(placed.units) :])
    run.write_csv("anchors", stars)
    beside = [{"layer": layer, "detector": detector, **floor} for layer, floor in floors.items()]
    run.write_csv("embedding-floors", pd.DataFrame(beside))

    units = units[_is_of(units, _moments(asked))]
    result = EmbedResult(options.out, units=len(units), anchors=anchors)
    layers = units["layer"].astype(str)
    for (layer, epoch), group in units.groupby(["layer", "epoch"], sort=True, observed=True):
        result.spread.append(
            {
                "layer": str(layer),
                "epoch": int(str(epoch)),
                "spread": spread(torch.from_numpy(placed.vectors[group.index.to_numpy()])),
                "anchor_distance": float(group["anchor_distance"].mean()),
                **floors[str(layer)],
            }
        )
    columns = ["layer", "unit", "epoch", "concept", "nearest_anchor", "anchor_distance"]
    tracked = units[units["unit"].isin(options.units)].sort_values(columns[:3])[columns]
    result.tracked = json.loads(tracked.to_json(orient="records", double_precision=6))
    for layer in sorted(set(layers)):
        group = units[layers == layer]
        name = f"{layer}.{detector}"
        panels = embedding_panels(group, stars, layer=layer, tracked=options.units)
        result.plots += save(
            panels, run.plots / f"embedding.{name}", options.plot_formats, caption=caption(run.info())
        )
        if options.units and group["epoch"].nunique() > 1:
            ways = trajectories(group, stars, layer=layer, tracked=options.units)
            result.plots += save(
                ways, run.plots / f"trajectories.{name}", options.plot_formats, caption=caption(run.info())
            )
    return result


def _floor(
    rows: pd.DataFrame | None, words: list[str], vectors: NDArray[np.float32], marks: NDArray[np.float32]
) -> dict[str, float | None]:
    """Spread and distance to the nearest anchor of a layer with random weights."""
    placed = None if rows is None else unit_vectors(rows, words, vectors)
    if placed is None or not len(placed.units):
        return {"spread_floor_random": None, "anchor_distance_floor_random": None}
    units = torch.from_numpy(placed.vectors)
    _, distance = nearest_anchor(units, torch.from_numpy(marks))
    return {"spread_floor_random": spread(units), "anchor_distance_floor_random": float(distance.mean())}


def _table(run: RunFolder, options: EmbedOptions) -> pd.DataFrame:
    """The rows of the concept table that were asked for, of one detector."""
    table = run.concepts(layers=options.layers, detector=options.detector, columns=_COLUMNS)
    traits = traits_of(run.info(), map(str, table["detector"].unique()))
    detectors = sorted(traits, key=lambda name: (not traits[name].in_word_space, name))
    if options.detector is None:
        # Formulas have no place of their own among the words; the first detector with words is taken.
        table = table[table["detector"] == detectors[0]]
    if options.epochs is not None:
        table = table[table["epoch"].isin(options.epochs.select(table["epoch"].unique().tolist()))]
    if not (table["state"] == "live").any():
        raise InputError("all units are dead, so there is nothing to place", where=run.root)
    if not (table["concept"] != "").any():
        raise InputError(
            "no unit has a concept, so there is nothing to place",
            where=run.root,
            hint="dissect with more images, or take another detector",
        )
    return table.reset_index(drop=True)


def _others(run: RunFolder, asked: pd.DataFrame, detector: str) -> pd.DataFrame:
    """The rows of the concept table that are on the map already and were not asked for this time."""
    path = run.tables / "embedding.csv"
    if not path.is_file():
        return asked.iloc[:0]
    before = TABLES["embedding"].read_csv(path, columns=[*_MOMENT, "detector"])
    known = _moments(before[before["detector"] == detector]) - _moments(asked)
    if not known:
        return asked.iloc[:0]
    table = run.concepts(columns=_COLUMNS)
    return table[(table["detector"] == detector) & _is_of(table, known)]


def _moments(rows: pd.DataFrame) -> set[tuple[Any, ...]]:
    """The layers, epochs and checkpoints that rows are of."""
    return set(rows[_MOMENT].drop_duplicates().itertuples(index=False, name=None))


def _is_of(rows: pd.DataFrame, moments: set[tuple[Any, ...]]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """For every row whether it is of one of these moments."""
    each = rows[_MOMENT].drop_duplicates().itertuples(index=False, name=None)
    inside = np.array([moment in moments for moment in each], dtype=bool)
    return inside[rows.groupby(_MOMENT, sort=False, observed=True).ngroup().to_numpy()]


def _anchors(options: EmbedOptions, table: pd.DataFrame, progress: Progress) -> tuple[str, ...]:
    if options.sources.get("anchors", "default") != "default" or options.anchors:
        anchors = parse_anchors(options.anchors)
        for word, meant in misspelt(anchors, concept_words(table)).items():
            progress.warning(
                f"the anchor {word!r} is no concept of this run: did you mean {meant!r}? It stands "
                f"where the encoder "
                "puts these letters"
            )
        return anchors
    anchors = default_anchors(table, _DEFAULT_ANCHORS)
    progress.notice(
        f"no --anchors given: concepts that many units of the last epoch have, {', '.join(anchors)}"
    )
    return anchors


def check_units(units: Iterable[int], table: pd.DataFrame) -> None:
    """Refuse units that a table does not have.

    Raises:
        InputError: names the first, and which there are.
    """
    known = set(table["unit"].unique().tolist())
    missing = [unit for unit in units if unit not in known]
    if missing:
        raise InputError(
            f"there is no unit {missing[0]}", where="--units", hint=f"units count from 0 to {max(known)}"
        )


def _frame(anchors: tuple[str, ...], points: np.ndarray[Any, np.dtype[np.float32]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame({"anchor": anchors, "x": points[:, 0], "y": points[:, 1]})
