"""Runs made by hand, written by the same code as real ones: small ones with known content, and big ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from concept_monitor_cli.lenses.base import Findings
from concept_monitor_cli.probe import load_probe
from concept_monitor_cli.run import TABLES, CheckpointRecord, RunFolder, TableRecord
from concept_monitor_cli.store import Store

CONCEPTS = (
    *(
        ("red", "color"),
        ("blue", "color"),
        ("orange", "color"),
        ("striped", "texture"),
        ("dotted", "texture"),
    ),
    *(("chequered", "texture"), ("bubbly", "texture"), ("wood", "material"), ("brick", "material")),
    *(("glass", "material"), ("wheel", "part"), ("roof", "part"), ("window", "part"), ("leg", "part")),
    *(("dog", "object"), ("car", "object"), ("orange", "object"), ("windmill", "object"), ("tree", "object")),
    *(
        ("house", "object"),
        ("beach", "scene"),
        ("forest", "scene"),
        ("street", "scene"),
        ("kitchen", "scene"),
    ),
)
DETECTOR = "clip-dissect"


def info(**more: Any) -> dict[str, Any]:
    """What `run.json` says, but for checkpoints and layers."""
    return {
        "cmon": "0.1.0",
        "created": "2026-01-01T00:00:00+00:00",
        "versions": {"python": "3.11", "torch": "2.13.0"},
        "options": {"seed": 0, "probe": "photos", "probe_limit": None, "concepts": None},
        "settings": {
            "probe": "a" * 64,
            "pooling": "mean",
            "precision": "fp32",
            "input": {"size": 224, "mode": "crop"},
            "detectors": {DETECTOR: {"similarity": "soft-wpmi", "a": 10, "top_k": 100}},
        },
        "probe": {"name": "photos", "spec": "photos", "images": 598, "digest": "a" * 64, "skipped": []},
        "concepts": {"name": "broden", "spec": None, "count": 1197, "digest": "b" * 64},
        "encoder": {"name": "ViT-B-16/openai", "digest": "c" * 64, "templates": []},
        "model": {"name": "resnet18", "library": "torchvision", "alternatives": []},
        "notices": ["input: 224 x 224, ImageNet's mean and std"],
        **more,
    }


def write_layer(
    run: RunFolder,
    epoch: int,
    layer: str,
    labels: Sequence[Sequence[tuple[str, str]]],
    *,
    scores: Sequence[float] | None = None,
    sure: Sequence[bool] | None = None,
    live: Sequence[bool] | None = None,
    detector: str = DETECTOR,
    checkpoint: str | None = None,
    recording: str = "",
) -> None:
    """One table: for every unit its (concept, category) pairs, best first."""
    units, ranks = len(labels), max(map(len, labels))
    best = np.asarray(scores if scores is not None else np.linspace(2, 1, units))
    alive = np.asarray(live if live is not None else [True] * units)
    certain = np.asarray(sure if sure is not None else [True] * units)
    padded = [[*unit, *[("", "")] * (ranks - len(unit))] for unit in labels]
    findings = Findings(
        concepts=np.array([[c for c, _ in unit] for unit in padded], dtype=object),
        categories=np.array([[k for _, k in unit] for unit in padded], dtype=object),
        scores=(best[:, None] - 0.1 * np.arange(ranks)).astype(np.float32),
        p_values=np.where(certain, 0.0002, 0.4),
        interpretable=certain,
        live=alive,
    )
    write_findings(run, epoch, layer, findings, detector, checkpoint, recording)


def write_findings(
    run: RunFolder,
    epoch: int,
    layer: str,
    findings: Findings,
    detector: str = DETECTOR,
    checkpoint: str | None = None,
    recording: str = "",
) -> None:
    folder, name = f"epoch_{epoch:04d}", checkpoint or f"epoch_{epoch}.pth"
    run.write_checkpoint(CheckpointRecord(name, f"/ckpts/{name}", epoch, folder, "done", weights="d" * 64))
    run.write_table(
        folder,
        TableRecord(name, epoch, layer, detector, "e" * 64, len(findings.live), recording=recording),
        findings.rows(epoch=epoch, checkpoint=name, layer=layer, detector=detector),
    )


def make_run(
    root: Path,
    *,
    layers: dict[str, int],
    epochs: Sequence[int],
    ranks: int = 5,
    seed: int = 0,
    embed: bool = True,
    images: tuple[Path, Store] | None = None,
    concepts: Sequence[tuple[str, str]] = CONCEPTS,
) -> RunFolder:
    """A training as one might see it: units settle on concepts and become interpretable, some die.

    Args:
        root: the run folder.
        layers: names and numbers of units.
        epochs: ascending.
        ranks: concepts per unit.
        seed: of everything.
        embed: also write `embedding.csv` and `anchors.csv`.
        images: a folder of probing images and the store that gets recordings.
        concepts: pairs of concept and category.
    """
    run = RunFolder(root)
    rng = np.random.default_rng(seed)
    names = np.array([c for c, _ in concepts], dtype=object)
    kinds = np.array([k for _, k in concepts], dtype=object)
    spots = rng.normal(0, 4, (len(concepts), 2))
    places = []
    probe = None if images is None else load_probe(str(images[0]))
    for depth, (layer, units) in enumerate(layers.items()):
        goal = rng.integers(len(concepts), size=units)
        settles = rng.choice(len(epochs), size=units)
        deadly = rng.random(units) < 0.02
        noise = rng.normal(0, 0.5, (units, 2))
        for t, epoch in enumerate(epochs):
            share = t / max(1, len(epochs) - 1)
            now = np.where(settles <= t, goal, rng.integers(len(concepts), size=units))
            chosen = (now[:, None] + np.arange(ranks) * 3) % len(concepts)
            score = rng.gamma(2, 0.3, units) + share * (1 + 0.3 * depth)
            sure = (settles <= t) & (rng.random(units) < 0.25 + 0.6 * share)
            live = ~(deadly & (t >= len(epochs) // 2))
            findings = Findings(
                concepts=names[chosen],
                categories=kinds[chosen],
                scores=(score[:, None] - 0.15 * np.arange(ranks)).astype(np.float32),
                p_values=np.where(sure, rng.uniform(1e-4, 5e-3, units), rng.uniform(0.05, 1, units)),
                interpretable=sure,
                live=live,
            )
            recording = ""
            if images is not None and probe is not None:
                store = images[1]
                key = store.key("activations", layer=layer, epoch=epoch, seed=seed)
                top = rng.permuted(np.tile(np.arange(len(probe)), (units, 1)), axis=1)[:, :10]
                store.put(key, {"top_images": top}).close()
                recording = f"{key.kind}/{key.digest}"
            write_findings(run, epoch, layer, findings, recording=recording)
            spot = spots[now] * (0.3 + 0.7 * share) + noise * (1.2 - share)
            near = ((spot[:, None] - spots[None, :8]) ** 2).sum(-1)
            places.append(
                pd.DataFrame(
                    {
                        "epoch": epoch,
                        "layer": layer,
                        "unit": np.arange(units),
                        "x": spot[:, 0],
                        "y": spot[:, 1],
                        "nearest_anchor": names[near.argmin(1)],
                        "anchor_distance": np.sqrt(near.min(1)) / 10,
                        "concept": names[now],
                        "checkpoint": f"epoch_{epoch}.pth",
                        "detector": DETECTOR,
                    }
                )[live]
            )
    more: dict[str, Any] = {}
    if probe is not None and images is not None:
        more["options"] = {**info()["options"], "probe": str(images[0])}
        more["probe"] = {
            "name": probe.name,
            "spec": str(images[0]),
            "images": len(probe),
            "digest": probe.digest,
            "skipped": [],
        }
    run.combine(info(**more))
    if embed:
        run.write_csv("embedding", pd.concat(places, ignore_index=True))
        anchors = pd.DataFrame({"anchor": names[:8], "x": spots[:8, 0], "y": spots[:8, 1]})
        run.write_csv("anchors", anchors.drop_duplicates("anchor"))
    return run


def make_images(folder: Path, count: int, *, seed: int = 0) -> Path:
    """Small pictures, each in one colour of its own."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        colour = tuple(int(v) for v in rng.integers(0, 255, 3))
        Image.new("RGB", (64, 48), colour).save(folder / f"image_{number:04d}.png")
    return folder


def write_picture(run: RunFolder, name: str, colour: tuple[int, int, int]) -> str:
    """A picture of one colour, below the run."""
    path = run.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 32), colour).save(path)
    return name


def write_pictures(run: RunFolder, layer: str, made: dict[tuple[int, int], tuple[int, int, int]]) -> None:
    """What `cmon picture` leaves: for (epoch, unit) a picture of one colour."""
    rows = [
        {
            "epoch": epoch,
            "checkpoint": f"epoch_{epoch}.pth",
            "layer": layer,
            "unit": unit,
            "objective": "unit",
            "ratio": 3.25,
            "ratio_chance": 0.125,
            "file": write_picture(run, f"pictures/epoch_{epoch:04d}/{layer}/unit_{unit:04d}.png", colour),
        }
        for (epoch, unit), colour in made.items()
    ]
    run.write_csv("pictures", filled("pictures", rows))


def filled(name: str, rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Rows of a table of which only some columns are given; the others are empty."""
    columns = TABLES[name].columns
    empty = {"str": "", "bool": False, "int": None, "float": None}
    return pd.DataFrame(
        [{**{column: empty[kind] for column, kind in columns.items()}, **row} for row in rows]
    )


#: Cells of `write_atlas`: column, row from below, samples, concept.
CELLS = ((0, 0, 40, "sea"), (2, 0, 9, "sky"), (1, 2, 6, "grass"))


def write_atlas(run: RunFolder, layer: str, epochs: Sequence[int], photos: Sequence[str]) -> None:
    """What `cmon atlas` leaves: three cells of a map of three rows; the last one only at the last epoch."""
    cells = [
        {
            "epoch": epoch,
            "layer": layer,
            "layout": "joint",
            "cell_x": x,
            "cell_y": y,
            "count": count,
            "concept": concept,
            "correlation": 0.5,
            "correlation_floor": 0.25,
            "class": "dog",
            "class_share": 0.75,
            "class_share_floor": 0.1,
            "drift": None if epoch == epochs[0] else 0.06,
            "photo": photos[number],
            "file": write_picture(
                run, f"pictures/epoch_{epoch:04d}/{layer}/cell_{x:02d}_{y:02d}.png", (200, 30 * x, 30 * y)
            ),
        }
        for epoch in epochs
        for number, (x, y, count, concept) in enumerate(CELLS)
        if number < 2 or epoch == epochs[-1]
    ]
    said = [
        {
            "epoch": epoch,
            "layer": layer,
            "cells": 2,
            "coherence": 0.5,
            "nearest": 1.0,
            "nearest_floor": 0.75 if epoch == epochs[-1] else None,
            "drift_floor": 0.45,
        }
        for epoch in epochs
    ]
    run.write_csv("atlas", filled("atlas", cells))
    run.write_csv("atlas-epochs", filled("atlas-epochs", said))
