"""Ranges of a unit's activation: the best division of its values, and where each range is."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from concept_monitor_cli.functional.unit_ranges import (
    Cut,
    best_clusters,
    cut_ranges,
    range_masks,
)


def squares(values: NDArray[np.float64]) -> float:
    return float(((values - values.mean()) ** 2).sum())


def twin(values: list[float], k: int) -> float:
    """The least sum of squares of `k` runs of sorted values, by dynamic programming in plain loops."""
    numbers = sorted(float(value) for value in values)
    n = len(numbers)
    best = [[float("inf")] * (n + 1) for _ in range(k + 1)]
    best[0][0] = 0.0
    for runs in range(1, k + 1):
        for stop in range(1, n + 1):
            for start in range(stop):
                own = numbers[start:stop]
                mean = sum(own) / len(own)
                cost = best[runs - 1][start] + sum((value - mean) ** 2 for value in own)
                best[runs][stop] = min(best[runs][stop], cost)
    return min(best[runs][n] for runs in range(1, k + 1))


def within(values: NDArray[np.float32], cut: Cut) -> float:
    """The sum of squares of values about the means of their ranges."""
    place = np.searchsorted(cut.edges[1:-1], values, side="right")
    return sum(squares(values[place == each].astype(np.float64)) for each in np.unique(place))


@pytest.mark.parametrize("seed", range(6))
def test_the_division_is_that_of_dynamic_programming(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = (rng.normal(size=28) * rng.choice([0.1, 1, 8], 28)).astype(np.float32)
    values = np.concatenate([values, values[:6]])  # ties
    cut = cut_ranges(values)
    assert cut is not None
    assert within(values, cut) == pytest.approx(twin(values.tolist(), 5), rel=1e-9)
    assert cut.counts.sum() == len(values)
    place = np.searchsorted(cut.edges[1:-1], values, side="right")
    for each in range(5):
        own = values[place == each]
        assert len(own) == cut.counts[each]
        assert own.mean(dtype=np.float64) == pytest.approx(cut.means[each])
        assert cut.weights[each] == pytest.approx(
            (cut.means[each] - values.mean(dtype=np.float64)) / values.std(dtype=np.float64)
        )
    middle = ((cut.means[1:] + cut.means[:-1]) / 2).astype(np.float32)
    np.testing.assert_allclose(cut.edges[1:-1], middle, rtol=1e-6)


def test_no_division_at_all_is_better() -> None:
    rng = np.random.default_rng(3)
    points, counts = np.sort(rng.normal(size=9)), rng.integers(1, 5, 9)
    spreads = rng.random(9)

    def cost(starts: tuple[int, ...]) -> float:
        total = float(spreads.sum())
        for start, stop in zip(starts, (*starts[1:], 9), strict=True):
            total += squares(np.repeat(points[start:stop], counts[start:stop]))
        return total

    found = best_clusters(points, counts, spreads, 4)
    assert found[0] == 0
    every = min(cost((0, *rest)) for rest in combinations(range(1, 9), 3))
    assert cost(tuple(found)) == pytest.approx(every)


def test_bins_lose_next_to_nothing() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.gamma(0.7, 1.0, 900), rng.normal(6, 0.5, 100)]).astype(np.float32)
    exact, binned = cut_ranges(values), cut_ranges(values, bins=200)
    assert exact is not None
    assert binned is not None
    assert within(values, exact) <= within(values, binned) <= 1.001 * within(values, exact)


def test_zeros_of_a_rectified_unit_are_in_no_range() -> None:
    values = np.array([0, 0, 0, 1, 1, 2, 9], dtype=np.float32)
    cut = cut_ranges(values)
    assert cut is not None
    assert cut.rectified
    assert cut.means.tolist() == [1, 2, 9]
    assert cut.counts.tolist() == [2, 1, 1]
    assert cut.edges.tolist() == [0, 1.5, 5.5, np.inf]
    assert cut.mean == pytest.approx(13 / 7)
    other = cut_ranges(values - 1)
    assert other is not None
    assert not other.rectified
    assert other.counts.sum() == 7
    assert other.edges[0] == -np.inf


def test_a_unit_of_one_value_has_no_ranges() -> None:
    assert cut_ranges(np.full(9, 2.5, dtype=np.float32)) is None
    assert cut_ranges(np.zeros(9, dtype=np.float32)) is None
    assert cut_ranges(np.zeros(0, dtype=np.float32)) is None
    two = cut_ranges(np.array([0, 3, 3], dtype=np.float32))
    assert two is not None
    assert two.means.tolist() == [3]


def test_neighbouring_numbers_stay_apart() -> None:
    one = np.float32(1)
    values = np.array([one, np.nextafter(one, np.float32(2))], dtype=np.float32)
    cut = cut_ranges(values)
    assert cut is not None
    assert cut.counts.tolist() == [1, 1]


@pytest.mark.parametrize(("shape", "size"), [((3, 4), (9, 14)), ((5, 5), (5, 5)), ((8, 6), (4, 3))])
def test_every_pixel_is_in_the_range_of_its_value(shape: tuple[int, int], size: tuple[int, int]) -> None:
    torch.manual_seed(sum(size))
    maps = torch.randn(4, 3, *shape)
    maps[:, 1] = maps[:, 1].relu()
    maps[2, 0, 1, 1] = torch.nan
    cuts = [
        cut_ranges(each[~each.isnan().flatten(1).any(1)].flatten().numpy()) for each in maps.transpose(0, 1)
    ]
    cuts[2] = None
    found = range_masks(maps, cuts, size, block=2).dense().reshape(4, 3, 5, *size)
    values = F.interpolate(maps.double(), size, mode="bilinear", align_corners=False).float()
    for image, unit, row, column in np.ndindex(4, 3, *size):
        inside = found[image, unit, :, row, column]
        value, cut = values[image, unit, row, column].item(), cuts[unit]
        if cut is None or bool(maps[image, unit].isnan().any()) or (cut.rectified and value == 0):
            assert not inside.any()
            continue
        assert inside.sum() == 1
        place = int(np.flatnonzero(inside)[0])
        slack = 1e-5  # of the two ways to interpolate
        assert cut.edges[place] - slack <= value < cut.edges[place + 1] + slack


def test_masks_of_batches_are_those_of_the_whole() -> None:
    torch.manual_seed(1)
    maps = torch.randn(5, 2, 3, 3)
    cuts = [cut_ranges(each.flatten().numpy()) for each in maps.transpose(0, 1)]
    whole, alone = range_masks(maps, cuts, (6, 6)), range_masks(maps[3:4], cuts, (6, 6))
    np.testing.assert_array_equal(whole.dense()[3:4], alone.dense())
    with pytest.raises(ValueError, match="expected maps"):
        range_masks(maps, cuts[:1], (6, 6))
