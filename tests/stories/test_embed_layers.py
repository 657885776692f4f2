"""Embedding one layer keeps what the others had, all in one coordinate system."""

from __future__ import annotations

import pandas as pd

from .conftest import Bench


def test_a_layer_alone_keeps_the_places_of_the_others(bench: Bench, cmon) -> None:
    assert cmon(*bench.dissect("-q", "--no-floors", layer="layer2,layer3")).code == 0
    out, cache = bench.root / "out", bench.root / "cache"
    common = ["--cache-dir", cache, "--method", "pca", "--anchors", "red,dog", "-q"]
    assert cmon("embed", out, *common).code == 0
    table = out / "tables" / "embedding.csv"
    whole = table.read_bytes()
    answer = cmon("embed", out, "--layer", "layer3", *common, "--json").json()
    assert table.read_bytes() == whole
    layers = pd.read_csv(table)["layer"].value_counts()
    assert set(layers.index) == {"layer2", "layer3"}
    # What is drawn and printed is what was asked for.
    assert answer["units"] == layers["layer3"]
    assert {row["layer"] for row in answer["spread"]} == {"layer3"}
    assert all("layer3" in path for path in answer["plots"])
    # Of one epoch: the other epochs stay, too.
    assert cmon("embed", out, "--layer", "layer2", "--epochs", "last", *common).code == 0
    assert table.read_bytes() == whole
