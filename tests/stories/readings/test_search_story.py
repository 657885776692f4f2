"""Any text, and the units nearest to it, beside loops and beside random weights."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from planted_training import CONCEPTS, EPOCHS, SWITCHES

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.options import ReadingOptions, SearchOptions
from concept_monitor_cli.progress import SILENT
from concept_monitor_cli.stories.opened import OpenRun
from concept_monitor_cli.stories.search import search


def test_a_planted_concept_is_found_where_it_was_planted(training: Path, cache: Path) -> None:
    found = search(SearchOptions(text="car", run=training, cache_dir=cache, top=3))
    last = [row for row in found.rows if row["epoch"] == EPOCHS - 1]
    first = [row for row in found.rows if row["epoch"] == 0]
    car = CONCEPTS.index("car")
    detecting = {unit for unit in range(4, 18) if unit % 6 == car}
    assert {row["unit"] for row in last} <= detecting | {SWITCHES}
    assert {row["unit"] for row in first} >= detecting
    assert all(row["cosine"] > 0.9 for row in last)
    assert all(row["cosine"] > row["average"] + 0.3 for row in last)
    assert all(row["chance"] is not None and row["cosine"] > row["chance"] for row in last)
    assert len(found.plots) == 1
    assert found.plots[0].is_file()


def test_numbers_are_those_of_a_loop(training: Path, cache: Path, world: Path) -> None:
    found = search(SearchOptions(text="wheel", run=training, cache_dir=cache, top=2))
    opened = OpenRun(training, ReadingOptions(cache_dir=cache), SILENT)
    (history,) = opened.histories
    placed = opened.placed(history)
    assert placed is not None
    with h5py.File(world / "embeddings.h5") as file:
        text = np.asarray(file["texts"])[CONCEPTS.index("wheel")].astype(float)
    for epoch in range(EPOCHS):
        cosines = {}
        for row, vector in zip(placed.units.to_dict("records"), placed.vectors.astype(float), strict=True):
            if row["epoch"] == epoch:
                dot = sum(a * b for a, b in zip(vector, text, strict=True))
                lengths = sum(a * a for a in vector) ** 0.5 * sum(a * a for a in text) ** 0.5
                cosines[row["unit"]] = dot / lengths
        best = sorted(cosines, key=lambda unit: (-cosines[unit], unit))[:2]
        own = [row for row in found.rows if row["epoch"] == epoch]
        assert [row["unit"] for row in own] == best
        assert [row["cosine"] for row in own] == pytest.approx([cosines[u] for u in best], abs=1e-6)
        assert own[0]["average"] == pytest.approx(sum(cosines.values()) / len(cosines), abs=1e-6)


def test_a_text_that_the_encoder_does_not_know(training: Path, cache: Path) -> None:
    with pytest.raises(InputError):
        search(SearchOptions(text="watermark", run=training, cache_dir=cache))
    with pytest.raises(InputError, match="empty"):
        search(SearchOptions(text="  ", run=training, cache_dir=cache))
