"""Tables of runs in which everything is known: noise, and what a test plants into it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from concept_monitor_cli.functional.calibration import benjamini_hochberg
from concept_monitor_cli.lenses import Findings
from concept_monitor_cli.monitor.findings import RunTables
from concept_monitor_cli.monitor.history import histories
from concept_monitor_cli.monitor.lives import unit_lives
from concept_monitor_cli.monitor.statistics import ALL, category_statistics
from concept_monitor_cli.run import TABLES

KINDS = ("color", "texture", "material", "part", "object", "scene")
WORDS = [(f"{kind} {number}", kind) for kind in KINDS for number in range(5)]
UNITS = 200
EPOCHS = (0, 5, 10)
SURE_P = 0.0005


@dataclass
class Plant:
    """A layer as one detector sees it, before it is written into tables.

    Attributes:
        labels: `(T, C)`, numbers of `WORDS`.
        p: `(T, C)`.
        sure: `(T, C)`: interpretable.
        state: `(T, C)`: live, dead or sparse.
        random: interpretable units with random weights; `None`: not asked.
        known: columns of `statistics.csv` about the whole layer, a value per epoch each.
        confident: `(T, C)`: changes with confidence; `None`: not tested.
        drift: `(C,)`, and its floors.
        own: `(T - 1, C)`: self-similarity.
    """

    labels: NDArray[np.int64]
    p: NDArray[np.float64]
    sure: NDArray[np.bool_]
    state: NDArray[np.str_]
    random: int | None = None
    known: dict[str, Sequence[Any]] = field(default_factory=dict)
    confident: NDArray[np.bool_] | None = None
    drift: NDArray[np.float64] | None = None
    drift_floors: tuple[float, float] = (np.nan, np.nan)
    own: NDArray[np.float64] | None = None
    layer: str = "layer4"
    detector: str = "clip-dissect"

    def with_(self, **known: Sequence[Any]) -> Plant:
        """The same with other columns of `statistics.csv`."""
        return replace(self, known={**self.known, **known})


def noise(seed: int, units: int = UNITS, epochs: Sequence[int] = EPOCHS, layer: str = "layer4") -> Plant:
    """Labels, p-values, places and activations that have nothing to do with anything."""
    rng = np.random.default_rng(seed)
    shape = (len(epochs), units)
    p = rng.uniform(size=shape)
    sure = np.stack([benjamini_hochberg(torch.from_numpy(row), 0.05).numpy() for row in p])
    confident = rng.random(shape) < 0.025
    confident[0] = False
    error = 0.012
    held_out = 0.5 + error * rng.normal(size=len(epochs))
    drift = rng.beta(4, 6, size=units)
    return Plant(
        labels=rng.integers(len(WORDS), size=shape),
        p=p,
        sure=sure,
        state=np.full(shape, "live", dtype="<U6"),
        random=int(rng.binomial(units, 0.002)),
        known={
            "effective_units": [0.5 * units] * len(epochs),
            "effective_units_chance": [0.5 * units] * len(epochs),
            "redundant": [0.0] * len(epochs),
            "redundant_chance": [0.0] * len(epochs),
            "held_out": held_out.tolist(),
            "held_out_chance": [0.5] * len(epochs),
            "held_out_error": [error] * len(epochs),
            "held_out_measure": ["auc"] * len(epochs),
            "held_out_word": [
                "weakly" if value - 0.5 >= max(0.03, 2 * error) else "no better than chance"
                for value in held_out
            ],
        },
        confident=confident,
        drift=drift,
        drift_floors=(0.6, float(rng.normal(0.4, 0.01))),
        own=rng.normal(0.5, 0.2, size=(len(epochs) - 1, units)).clip(-1, 1),
        layer=layer,
    )


def with_sure(plant: Plant, counts: Sequence[int], *, low_p: bool = True) -> Plant:
    """The first units of every epoch are interpretable, so many as `counts` says, and no others."""
    sure = np.zeros_like(plant.sure)
    p = np.full(plant.p.shape, 0.5)
    for t, count in enumerate(counts):
        sure[t, :count] = True
        if low_p:
            p[t, :count] = SURE_P
    return replace(plant, sure=sure, p=p)


def concept_rows(plant: Plant, epochs: Sequence[int]) -> pd.DataFrame:
    """The concept table."""
    names = np.array([word for word, _ in WORDS], dtype=object)
    kinds = np.array([kind for _, kind in WORDS], dtype=object)
    frames = []
    for t, epoch in enumerate(epochs):
        live = plant.state[t] == "live"
        found = Findings(
            concepts=np.where(live, names[plant.labels[t]], "")[:, None],
            categories=np.where(live, kinds[plant.labels[t]], "")[:, None],
            scores=np.linspace(2, 1, len(live), dtype=np.float32)[:, None],
            p_values=plant.p[t],
            interpretable=plant.sure[t] & live,
            live=live,
        )
        rows = pd.DataFrame(
            found.rows(epoch=epoch, checkpoint=f"e{epoch}.pth", layer=plant.layer, detector=plant.detector)
        )
        frames.append(rows.assign(state=plant.state[t][rows["unit"].to_numpy()]))
    return TABLES["concepts"].frame(pd.concat(frames, ignore_index=True))


INFO: dict[str, Any] = {
    "options": {"fdr": 0.05, "probe": "photos"},
    "probe": {"name": "photos", "images": 2000, "groups": 2000},
    "settings": {"detectors": {"clip-dissect": {"similarity": "soft-wpmi"}}},
}


def run_of(
    *plants: Plant, epochs: Sequence[int] = EPOCHS, info: Mapping[str, Any] = INFO, lives: bool = True
) -> RunTables:
    """The tables of a run of some layers."""
    table = pd.concat([concept_rows(plant, epochs) for plant in plants], ignore_index=True)
    known, untrained, units, changes, own = [], [], [], [], []
    by_place = {(history.layer, history.detector): history for history in histories(table)}
    for plant in plants:
        history = by_place[plant.layer, plant.detector]
        known.append(
            pd.DataFrame(
                {
                    "epoch": epochs,
                    "checkpoint": [f"e{epoch}.pth" for epoch in epochs],
                    "layer": plant.layer,
                    "detector": plant.detector,
                    "category": ALL,
                    **plant.known,
                }
            )
        )
        if plant.random is not None:
            first = replace(
                plant,
                labels=plant.labels[:1],
                p=plant.p[:1],
                state=np.full((1, plant.labels.shape[1]), "live"),
                sure=(np.arange(plant.labels.shape[1]) < plant.random)[None],
            )
            untrained.append(concept_rows(first, [0]).assign(checkpoint="untrained"))
        confident = None if plant.confident is None else plant.confident.T
        life = unit_lives(history, confident=confident)
        if plant.drift is not None:
            random, halves = plant.drift_floors
            life = life.assign(drift=plant.drift, drift_floor_random=random, drift_floor_halves=halves)
        units.append(life)
        if plant.confident is not None:
            changes.append(_changes(plant, epochs))
        if plant.own is not None and len(epochs) > 1:
            own.append(_own(plant, epochs))
    random_rows = pd.concat(untrained, ignore_index=True) if untrained else None
    return RunTables(
        histories=histories(table),
        first=table[table["rank"] == 1],
        statistics=TABLES["statistics"].frame(
            category_statistics(table, known=pd.concat(known, ignore_index=True))
        ),
        untrained=random_rows,
        units=TABLES["units"].frame(pd.concat(units, ignore_index=True)) if lives else None,
        changes=TABLES["changes"].frame(pd.concat(changes, ignore_index=True)) if lives and changes else None,
        self_similarity=(
            TABLES["self_similarity"].frame(pd.concat(own, ignore_index=True)) if lives and own else None
        ),
        info=dict(info),
    )


def _changes(plant: Plant, epochs: Sequence[int]) -> pd.DataFrame:
    assert plant.confident is not None
    at, unit = np.nonzero(plant.confident)
    blank = {"from_concept": "a", "from_category": "", "to_concept": "b", "to_category": ""}
    return pd.DataFrame(
        {
            "epoch": np.asarray(epochs)[at],
            "checkpoint": "",
            "layer": plant.layer,
            "unit": unit,
            "detector": plant.detector,
            "from_epoch": epochs[0],
            "confidence": 1.0,
            "self_similarity": 0.1,
            **blank,
        }
    )


def _own(plant: Plant, epochs: Sequence[int]) -> pd.DataFrame:
    assert plant.own is not None
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "epoch": epoch,
                    "checkpoint": f"e{epoch}.pth",
                    "layer": plant.layer,
                    "unit": np.arange(len(row)),
                    "detector": plant.detector,
                    "self_similarity": row,
                }
            )
            for epoch, row in zip(epochs[1:], plant.own, strict=True)
        ],
        ignore_index=True,
    )


def save(tables: RunTables, root: Path) -> Path:
    """Write the tables where a run has them."""
    (root / "tables").mkdir(parents=True)
    (root / "untrained").mkdir()
    tables.first.to_parquet(root / "tables" / "concepts.parquet")
    named = ("statistics", "units", "changes", "self_similarity", "agreement")
    for name in named:
        rows = getattr(tables, name)
        if rows is not None:
            (root / "tables" / f"{name}.csv").write_text(TABLES[name].to_csv(rows))
    if tables.untrained is not None:
        for (layer, detector), rows in tables.untrained.groupby(["layer", "detector"]):
            (root / "untrained" / f"{layer}.{detector}.csv").write_text(TABLES["concepts"].to_csv(rows))
    (root / "run.json").write_text(json.dumps(tables.info))
    return root
