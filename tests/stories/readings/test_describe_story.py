"""Descriptions in a whole run: tables, agreement, search in labels, and what readings make of them."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from planted_training import CONCEPTS, DEAD, NOISE, SIDE, UNITS, weights

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.lenses.names.describe import DESCRIPTIONS
from concept_monitor_cli.options import DissectOptions, UnitsOptions
from concept_monitor_cli.run import TABLES, RunFolder
from concept_monitor_cli.stories.dissect import dissect
from concept_monitor_cli.stories.units import UnitsResult, units


def options(world: Path, out: Path, **more: object) -> DissectOptions:
    settings: dict[str, object] = {
        "checkpoints": (str(out.parent / "ckpts"),),
        "layers": ("1",),
        "model": f"{world / 'network.py'}:network",
        "input_size": SIDE,
        "crop": 1.0,
        "mean": (0.5,) * 3,
        "std": (0.25,) * 3,
        "probe": str(world / "photos"),
        "concepts": str(world / "words.csv"),
        "encoder": f"embeddings:{world / 'embeddings.h5'}",
        "detectors": ("clip-dissect", "describe"),
        "out": out,
        "cache_dir": world / "cache",
        "device": "cpu",
    }
    return DissectOptions(**{**settings, **more})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def run(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("described")
    (root / "ckpts").mkdir()
    torch.save({"state_dict": weights(0), "epoch": 0}, root / "ckpts" / "epoch_0.pth")
    dissect(options(world, root / "run"))
    return root / "run"


@pytest.fixture(scope="module")
def result(run: Path, world: Path) -> UnitsResult:
    settings = {"out": run, "cache_dir": world / "cache", "device": "cpu"}
    return units(UnitsOptions(**settings, match="CAR", units=(4, NOISE), resamples=0))  # type: ignore[arg-type]


def test_planted_units_are_described(run: Path) -> None:
    table = TABLES["concepts"].with_added(pd.read_parquet(run / "tables" / "concepts.parquet"))
    first = table[(table["rank"] == 1) & (table["detector"] == "describe")].set_index("unit")
    for unit in range(UNITS):
        if unit == DEAD:
            assert first.loc[unit, "state"] == "dead"
        elif unit != NOISE:
            assert first.loc[unit, "concept"] == CONCEPTS[unit % 6]
            assert first.loc[unit, "interpretable"]
    assert not first.loc[NOISE, "interpretable"]
    rows = DESCRIPTIONS.read_csv(run / "tables" / "epoch_0000" / "1.describe.descriptions.csv")
    best = rows[rows["rank"] == 1].set_index("unit")["description"]
    assert (best == first.loc[best.index, "concept"]).all()
    info = json.loads((run / "run.json").read_text())
    assert info["traits"]["describe"]["labels"] == "sentences"
    notes = [note for _, record in RunFolder(run).table_records() for note in record.notes]
    assert any("no vectors of the other 9 pairs" in note for note in notes)


def test_two_detectors_that_see_the_same_agree_beyond_chance(run: Path) -> None:
    (row,) = TABLES["agreement"].read_csv(run / "tables" / "agreement.csv").to_dict("records")
    assert (row["detector_a"], row["detector_b"]) == ("clip-dissect", "describe")
    assert row["same"] > 0.9
    assert 0.1 < row["same_chance"] < 0.3
    assert row["near"] >= row["same"]
    assert row["near_chance"] < 0.4
    assert row["cosine"] > 0.9 > 0.5 > row["cosine_chance"]


def test_labels_are_searched_and_stand_side_by_side(run: Path, result: UnitsResult) -> None:
    found = TABLES["text-matches"].read_csv(run / "tables" / "text-matches.csv")
    describe = found[found["detector"] == "describe"]
    assert set(describe["unit"]) >= {4, 10, 16}
    assert set(describe["concept"]) == {"car"}
    counts = {row["detector"]: row for row in result.matches}
    assert counts["describe"]["found"] == len(describe)
    assert 0 <= counts["describe"]["chance"] < 0.6
    names = {row["detector"]: row["concept"] for row in result.moments if row["unit"] == 4}
    assert names == {"clip-dissect": "car", "describe": "car"}


def test_a_captioner_that_is_not_here_is_refused_before_anything_is_done(run: Path, world: Path) -> None:
    wanted = options(
        world, run.parent / "other", detectors=("describe",), captioner="coca:coca_ViT-B-32/laion2b_s13b_b90k"
    )
    with pytest.raises(InputError, match="not on this machine"):
        dissect(wanted)
    assert not (run.parent / "other" / "tables").exists()
