"""Ranges of activation: units that say one thing at medium values and another at high ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from concept_monitor_cli.lenses.names import ranges
from concept_monitor_cli.lenses.names.ranges import TABLE, Ranges
from concept_monitor_cli.record.whole_maps import PackedMaps
from concept_monitor_cli.store import Entry

from .worlds import SIDE, World, make_world

Floats = NDArray[np.float32]
PHOTOS = 60


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"), PHOTOS)


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "MOST_DRAWS", 3)


def recorded(world: World, maps: Floats, live: NDArray[np.bool_] | None = None) -> Entry:
    """A recording of these maps, (photos, C, h, w)."""
    own = maps[world.photo]
    peaks = own.max(axis=(2, 3)).T
    top = np.argsort(-peaks, axis=1)[:, :20]
    arrays = {
        "pooled": own.mean(axis=(2, 3)),
        **PackedMaps.pack(torch.from_numpy(own)).arrays,
        "live": np.ones(maps.shape[1], dtype=bool) if live is None else live,
        "top_images": top,
        "top_values": np.take_along_axis(peaks, top, 1),
    }
    store = world.context.store
    number = int(np.random.default_rng().integers(1 << 60))
    return store.put(store.key("whole_maps", test=number), arrays, {"notes": []})


def blind(count: int, seed: int, photos: int = PHOTOS) -> Floats:
    """Smooth random maps that know nothing of the photos."""
    coarse = np.random.default_rng(seed).normal(size=(photos, count, 7, 7))
    return np.kron(coarse, np.ones((2, 2))).astype(np.float32)


def planted(world: World, pairs: list[tuple[int, int]], seed: int = 0) -> Floats:
    """Units that are at 2 on one object, at 5 on another, and at noise about 0 elsewhere."""
    noise = np.random.default_rng(seed).normal(0, 0.3, (PHOTOS, len(pairs), SIDE, SIDE))
    for unit, (medium, high) in enumerate(pairs):
        noise[:, unit] += 2.0 * (world.objects == medium) + 5.0 * (world.objects == high)
    return noise.astype(np.float32)


def table(found: ranges.Findings) -> pd.DataFrame:
    return TABLE.frame(found.more_rows("ranges", epoch=0, checkpoint="c", layer="l", detector="ranges"))


def test_one_concept_at_medium_values_and_another_at_high_ones(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "MOST_DRAWS", 8)  # of 3 draws four of 12 units are too few to be called
    pairs = [(0, 1), (1, 0), (2, 0), (0, 3)]
    maps = np.concatenate([planted(world, pairs), blind(8, 1)], axis=1)
    with recorded(world, maps) as entry:
        found = Ranges(length=1).find(entry, world.context)
    rows = table(found)
    assert set(rows["unit"]) == set(range(12))
    for unit, (medium, high) in enumerate(pairs):
        own = rows[(rows["unit"] == unit) & rows["interpretable"]]
        said = dict(zip(own["concept"], own["low"], strict=True))
        assert f"object {medium}" in said
        assert f"object {high}" in said
        assert said[f"object {medium}"] < 2 < said[f"object {high}"] < 5
        told = own.set_index("concept").loc[[f"object {medium}", f"object {high}"]]
        assert (told["precision"] > 0.9).all()
        assert (told["coverage"] > 0.9).all()
        assert (told["samples"] > 0.9).all()
        assert told["weight"].is_monotonic_increasing
        # The unit's own label is what it says at one of the two, with the weight of that range.
        weight, _, concept = found.concepts[unit, 0].partition(" ")
        assert concept in told.index
        assert float(weight) == pytest.approx(told.loc[concept, "weight"], abs=0.051)
        assert found.categories[unit, 0] == "object"
        assert found.scores[unit, 0] == pytest.approx(told.loc[concept, "score"])
    assert found.interpretable[:4].all()
    assert not found.interpretable[4:].any()
    assert rows[rows["unit"] >= 4]["interpretable"].sum() <= 1  # one of twenty calls may be wrong
    # Every pixel of a unit is in one of its ranges.
    np.testing.assert_allclose(rows.groupby("unit")["share"].sum(), 1)


def test_what_a_unit_says_below_zero_is_said_with_a_negative_weight(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "MOST_DRAWS", 8)
    pairs = [(0, 0), (1, 1), (2, 2), (3, 3)]
    maps = np.concatenate([-planted(world, pairs), blind(8, 2)], axis=1)
    with recorded(world, maps) as entry:
        found = Ranges(length=1).find(entry, world.context)
    for unit, (concept, _) in enumerate(pairs):
        assert found.concepts[unit, 0].startswith("-")
        assert found.concepts[unit, 0].endswith(f" object {concept}")
    rows = table(found)
    lowest = rows[(rows["range"] == 1) & (rows["unit"] < 4)]
    assert (lowest["high"] < 0).all()
    assert lowest["interpretable"].all()


def test_units_without_values_to_divide(world: World) -> None:
    maps = blind(4, 3)
    maps[:, 0] = 2.5  # one value
    maps[:, 1] = 0
    maps[7, 1, 3, 3] = 1  # rectified, on one photo
    maps[:, 2] = np.maximum(maps[:, 2], 0) > 0  # two values, 0 and 1
    with recorded(world, maps, np.array([False, True, True, True])) as entry:
        found = Ranges(length=1).find(entry, world.context)
    assert found.state.tolist() == ["dead", "sparse", "live", "live"]
    assert found.concepts[:2, 0].tolist() == ["", ""]
    assert np.isnan(found.p_values[:2]).all()
    rows = table(found)
    assert rows["unit"].value_counts().to_dict() == {2: 1, 3: 5}
    assert rows.loc[rows["unit"] == 2, "share"].item() == pytest.approx((maps[:, 2] > 0).mean())


def test_blind_units_are_called_as_often_as_chance_allows(world: World) -> None:
    p, of_range, called = [], [], 0
    for seed in range(3):
        with recorded(world, blind(24, 10 + seed)) as entry:
            found = Ranges(length=1).find(entry, world.context)
        p += found.p_values.tolist()
        rows = table(found)
        of_range += rows["p_value"].tolist()
        called += int(found.interpretable.sum()) + int(rows["interpretable"].sum())
    assert called <= 2
    assert 0.01 < np.mean(np.array(p) <= 0.1) < 0.2
    assert 0.06 < np.mean(np.array(of_range) <= 0.1) < 0.15


def test_a_range_that_untrained_networks_have_is_not_specialised(world: World) -> None:
    maps = np.concatenate([planted(world, [(0, 1), (1, 0), (2, 0), (0, 3)]), blind(2, 4)], axis=1)
    weak = planted(world, [(0, 3)], 5)
    weak[::2] = planted(world, [(-2, -2)], 6)[::2]  # on every other photo only
    lens, context = Ranges(length=1), replace(world.context, fdr=0.5)  # few units, so little can be known
    with (
        recorded(world, maps) as entry,
        recorded(world, np.concatenate([weak, blind(11, 5)], axis=1)) as other,
    ):
        rows = table(lens.find(entry, context, untrained=[other]))
        said = table(lens.find(other, context))
    default = set(zip(said["range"], said["concept"], strict=True))
    assert (5, "object 3") in default
    for row in rows.itertuples():
        own = row.interpretable and (row.range, row.concept) not in default
        assert row.specialised == ("yes" if own else "no")
    top = rows[(rows["range"] == 5) & (rows["unit"] < 4)]
    assert top["interpretable"].all()
    assert top["specialised"].tolist() == ["yes", "yes", "yes", "no"]
    assert (table(found_shuffled(lens, maps, world))["specialised"] == "").all()


def found_shuffled(lens: Ranges, maps: Floats, world: World) -> ranges.Findings:
    with recorded(world, maps) as entry:
        return lens.find(entry, world.context)


def test_halves_name_planted_units_alike(world: World) -> None:
    pairs = [(0, 0), (1, 1), (0, 0), (2, 2)]
    with recorded(world, np.concatenate([planted(world, pairs), blind(4, 6)], axis=1)) as entry:
        found = Ranges(length=1).halves(entry, world.context)
    assert found is not None
    assert found.unit.tolist() == list(range(8))
    said = [[text.partition(" ")[2] for text in half[:4]] for half in (found.concept_a, found.concept_b)]
    assert said[0] == said[1] == [f"object {concept}" for concept, _ in pairs]
    assert (found.held_out[:4] > 0.7).all()
    assert (found.held_out[:4] > found.chance[:4] + 0.3).all()
    assert abs(np.mean(found.held_out[4:] - found.chance[4:])) < 0.1


def test_blocks_of_units_cut_nothing_off(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    maps = np.concatenate([planted(world, [(0, 1), (2, 1)]), blind(1, 7)], axis=1)
    with recorded(world, maps) as entry:
        whole = Ranges(length=1).find(entry, world.context)
        monkeypatch.setattr(ranges, "_MEMORY", 1)
        alone = Ranges(length=1).find(entry, world.context)
    np.testing.assert_array_equal(whole.concepts, alone.concepts)
    np.testing.assert_array_equal(table(whole)["concept"], table(alone)["concept"])
