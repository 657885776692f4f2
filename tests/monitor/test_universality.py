"""Units that another network has, too: found on one half of the images, judged on the other."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from concept_monitor_cli.functional.groups import ImageGroups
from concept_monitor_cli.monitor.universality import QUANTILE, shares, universality

Floats = np.ndarray


def world(
    n: int, c: int, d: int, shared: int, noise: float, seed: int = 0
) -> tuple[Floats, Floats, list[int]]:
    """Two layers of which `shared` units see the same, in another order and scale."""
    rng = np.random.default_rng(seed)
    A, B = rng.normal(size=(n, c)), rng.normal(size=(n, d))
    places = rng.permutation(d)[:shared].tolist()
    for unit, place in enumerate(places):
        B[:, place] = 3 * (A[:, unit] + noise * rng.normal(size=n)) - 2
    return A.astype(np.float32), B.astype(np.float32), places


def all_of(A: Floats, B: Floats) -> tuple[Floats, Floats]:
    return np.ones(A.shape[1], dtype=bool), np.ones(B.shape[1], dtype=bool)


def twin_pearson(a: Floats, b: Floats) -> float:
    n = len(a)
    a, b = [float(v) for v in a], [float(v) for v in b]
    ma, mb = sum(a) / n, sum(b) / n
    sa = sum((v - ma) ** 2 for v in a) ** 0.5
    sb = sum((v - mb) ** 2 for v in b) ** 0.5
    return sum((x - ma) * (y - mb) for x, y in zip(a, b, strict=True)) / sa / sb


def test_twins_and_their_held_out_correlations_against_every_assignment() -> None:
    A, B, _ = world(40, 4, 5, 2, 0.8, seed=3)
    half = np.arange(40) % 2 == 0
    found = universality(A, B, half, all_of(A, B))
    table = [[twin_pearson(A[half, i], B[half, k]) for k in range(5)] for i in range(4)]
    best = max(itertools.permutations(range(5), 4), key=lambda p: sum(table[i][k] for i, k in enumerate(p)))
    assert found.twin.tolist() == list(best)
    for i, k in enumerate(best):
        assert found.matched[i] == pytest.approx(table[i][k])
        assert found.held_out[i] == pytest.approx(twin_pearson(A[~half, i], B[~half, k]))
        nearest = max(range(5), key=lambda k, i=i: table[i][k])
        assert found.best[i] == pytest.approx(twin_pearson(A[~half, i], B[~half, nearest]))


@pytest.mark.parametrize(("c", "d"), [(30, 30), (30, 50), (50, 30)])
def test_shared_units_are_universal_whatever_the_widths_and_the_others_are_not(c: int, d: int) -> None:
    A, B, places = world(400, c, d, 10, 0.5)
    half = np.random.default_rng(1).random(400) < 0.5
    found = universality(A, B, half, all_of(A, B))
    assert found.twin[:10].tolist() == places
    assert found.universal[:10].all()
    assert found.universal[10:].mean() <= 0.1
    # Chosen on the same images even noise looks alike; on other images it does not.
    others = found.twin[10:] >= 0
    assert np.median(found.matched[10:][others]) > 0.08
    assert abs(np.median(found.held_out[10:][others])) < 0.05
    assert abs(np.median(found.shuffled)) < 0.05


def test_with_shuffled_images_hardly_a_unit_is_universal() -> None:
    A, B, _ = world(400, 60, 60, 60, 0.3)
    half = np.random.default_rng(2).random(400) < 0.5
    assert universality(A, B, half, all_of(A, B)).universal.mean() == 1
    counts = [
        universality(
            A, B[np.random.default_rng(seed).permutation(400)], half, all_of(A, B), seed=seed
        ).universal.mean()
        for seed in range(5)
    ]
    assert np.mean(counts) <= 0.1
    assert np.mean(counts) == pytest.approx(1 - QUANTILE, abs=0.03)


def test_dead_units_have_no_twin_and_do_not_count() -> None:
    A, B, _ = world(100, 6, 4, 4, 0.2)
    A[:, 5] = 1.0
    usable = (np.array([True, True, True, False, True, False]), np.ones(4, dtype=bool))
    found = universality(A, B, np.arange(100) % 2 == 0, usable)
    assert found.twin[3] == found.twin[5] == -1
    assert np.isnan(found.held_out[[3, 5]]).all()
    assert not found.universal[[3, 5]].any()
    table = shares(
        found, ["object", "object", "scene", "scene", "scene", ""], np.array([1, 1, 1, 1, 0, 0], bool)
    )
    rows = table.set_index("category")
    assert rows.loc["all", "units"] == 4
    assert rows.loc["object", "units"] == 2
    assert rows.loc["object", "universal"] == 2
    # The third is dead to us, the fourth not sure of its concept.
    assert rows.loc["scene", "units"] == 1
    assert rows.loc["all", "held_out"] == pytest.approx(np.nanmedian(found.held_out[[0, 1, 2, 4]]))


def test_without_a_unit_that_can_be_matched_there_is_no_share() -> None:
    A, B, _ = world(20, 2, 2, 1, 0.1)
    nobody = (np.zeros(2, dtype=bool), np.ones(2, dtype=bool))
    found = universality(A, B, np.arange(20) % 2 == 0, nobody)
    assert np.isnan(found.bar)
    assert not found.universal.any()
    assert shares(found, ["", ""], np.zeros(2, dtype=bool))["share"].isna().all()


def test_copies_of_every_photo_make_no_unit_universal() -> None:
    A, B, _ = world(60, 40, 40, 0, 0.0, seed=5)
    copied = np.repeat(np.arange(60), 5)
    half = copied % 2 == 0
    photos, images = ImageGroups(copied), ImageGroups.single(300)
    found, fooled = (
        universality(A[copied], B[copied], half, all_of(A, B), groups=groups) for groups in (photos, images)
    )
    assert found.universal.mean() <= 0.05
    assert fooled.universal.mean() > 0.1
