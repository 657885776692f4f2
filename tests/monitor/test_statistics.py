from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from concept_monitor_cli.monitor.statistics import category_statistics
from concept_monitor_cli.run import TABLES
from concept_monitor_cli.space import concept_words, unit_vectors


def twin(table: pd.DataFrame, vectors: dict[tuple[int, int], np.ndarray]) -> dict[tuple[int, str], tuple]:
    """The statistics again, with loops and sets."""
    first = [row for row in table.itertuples() if row.rank == 1]
    categories = {row.category or "uncategorised" for row in first if row.state == "live"}
    found = {}
    for epoch in sorted({row.epoch for row in first}):
        for category in ["all", *categories]:
            units = [row for row in first if row.epoch == epoch]
            dead = sum(row.state == "dead" for row in units) if category == "all" else 0
            if category != "all":
                units = [
                    row
                    for row in units
                    if row.state == "live" and (row.category or "uncategorised") == category
                ]
            sure = [row for row in units if row.interpretable]
            live = [vectors[epoch, row.unit] for row in units if row.state == "live"]
            distances = [
                1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)
                for i, a in enumerate(live)
                for b in live[:i]
            ]
            spread = float(np.mean(distances)) if distances else float("nan")
            distinct = {(row.concept, row.category) for row in sure}
            found[epoch, category] = (len(units), len(sure), len(distinct), spread, dead)
    return found


def test_statistics_equal_their_literal_twin(random_table: pd.DataFrame) -> None:
    words = concept_words(random_table)
    embeddings = np.random.default_rng(0).normal(size=(len(words), 6)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    placed = unit_vectors(random_table, words, embeddings)
    vectors = {
        (int(row.epoch), int(row.unit)): placed.vectors[i].astype(np.float64)
        for i, row in enumerate(placed.units.itertuples())
    }
    expected = twin(random_table, vectors)
    frame = category_statistics(random_table, placed)
    assert len(frame) == len(expected)
    for row in frame.itertuples():
        units, sure, distinct, spread, dead = expected[row.epoch, row.category]
        where = (row.epoch, row.category)
        assert (row.units, row.interpretable, row.distinct_concepts, row.dead) == (
            units,
            sure,
            distinct,
            dead,
        ), where
        np.testing.assert_allclose(row.spread, spread, atol=1e-6, err_msg=str(where))
    # In the order of the file: `all` first, then from low to high level.
    assert frame["category"].tolist()[:6] == ["all", "color", "object", "scene", "other", "uncategorised"]


def test_every_category_has_a_row_at_every_epoch(concept_table: Callable[..., pd.DataFrame]) -> None:
    table = concept_table({0: [("red", "color", 1.0, False)], 1: [("car", "object", 1.0, True)], 2: [None]})
    frame = category_statistics(table)
    rows = {(r.epoch, r.category): (r.units, r.interpretable, r.dead) for r in frame.itertuples()}
    assert rows == {
        (0, "all"): (1, 0, 0),
        (0, "color"): (1, 0, 0),
        (0, "object"): (0, 0, 0),
        (1, "all"): (1, 1, 0),
        (1, "color"): (0, 0, 0),
        (1, "object"): (1, 1, 0),
        (2, "all"): (1, 0, 1),
        (2, "color"): (0, 0, 0),
        (2, "object"): (0, 0, 0),
    }
    assert frame["spread"].isna().all()
    written = TABLES["statistics"].frame(frame)
    assert written["category"].tolist() == ["all", "color", "object"] * 3


def test_a_layer_that_is_dead_throughout(concept_table: Callable[..., pd.DataFrame]) -> None:
    frame = category_statistics(concept_table({0: [None, None]}))
    assert frame[["category", "units", "interpretable", "dead"]].to_numpy().tolist() == [["all", 2, 0, 2]]


def test_distance_to_anchors_comes_from_the_embedding(concept_table: Callable[..., pd.DataFrame]) -> None:
    units = [("red", "color", 1.0, True), ("car", "object", 1.0, True), None, ("bus", "object", 1.0, False)]
    table = concept_table({4: units})
    embedding = pd.DataFrame(
        {
            "epoch": pd.array([4, 4, 4], dtype="Int64"),
            "checkpoint": "e4.pth",
            "layer": "layer4",
            "detector": "clip-dissect",
            "unit": pd.array([0, 1, 3], dtype="Int64"),
            "anchor_distance": [0.1, 0.2, 0.6],
        }
    )
    frame = category_statistics(table, embedding=embedding).set_index("category")["anchor_distance"]
    assert frame["all"] == pytest.approx(0.3)
    assert frame["color"] == pytest.approx(0.1)
    assert frame["object"] == pytest.approx(0.4)
