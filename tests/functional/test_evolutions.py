"""What changes of units brought a class, by plain loops; what chance gives."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from late import Late

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.evolutions import (
    class_gain,
    elsewhere,
    head_effects,
    midpoints,
    parts_by_effect,
    rank_correlation,
)

stats = Late("scipy.stats")


def test_the_points_are_the_middles_of_equal_parts() -> None:
    assert midpoints(4) == [0.125, 0.375, 0.625, 0.875]
    assert len(midpoints()) == 8
    assert np.mean(midpoints()) == pytest.approx(0.5)


def test_in_front_of_a_linear_head_units_are_worth_their_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    W, before, after = (torch.randn(*shape, generator=generator) for shape in ((4, 6), (20, 6), (20, 6)))
    classes = torch.arange(20) % 3
    found = head_effects(W, classes, after - before)
    for i in range(20):
        for k in range(6):
            back = after[i].clone()
            back[k] = before[i, k]
            lost = float(W[classes[i]] @ after[i]) - float(W[classes[i]] @ back)
            assert float(found[i, k]) == pytest.approx(lost, abs=1e-5)
    whole = ((after - before) @ W.T).gather(1, classes[:, None])[:, 0]
    assert torch.allclose(found.sum(1).float(), whole, atol=1e-5)
    with pytest.raises(InputError, match="need \\(K, C\\)"):
        head_effects(W, classes[:5], after - before)


def test_elsewhere_is_the_root_mean_square_over_other_units() -> None:
    swapped = torch.randn(5, 5, generator=torch.Generator().manual_seed(1))
    found = elsewhere(swapped)
    for k in range(5):
        others = [float(swapped[other, k]) ** 2 for other in range(5) if other != k]
        assert float(found[k]) == pytest.approx(math.sqrt(sum(others) / 4))
    assert elsewhere(torch.ones(1, 1)).isnan().all()
    with pytest.raises(InputError, match="need \\(C, C\\)"):
        elsewhere(swapped[:3])


def test_a_gain_is_that_of_plain_loops() -> None:
    each = torch.randn(12, 5, generator=torch.Generator().manual_seed(2)).double() + 0.3
    each[:, 3] = 0.0
    each[:, 4] = 0.7
    found = class_gain(each)
    for k in range(3):
        values = [float(value) for value in each[:, k]]
        mean = sum(values) / 12
        error = math.sqrt(sum((value - mean) ** 2 for value in values) / 11 / 12)
        assert float(found.effect[k]) == pytest.approx(mean)
        assert float(found.spread[k]) == pytest.approx(error)
        assert float(found.share_positive[k]) == sum(value > 0 for value in values) / 12
        assert float(found.p[k]) == pytest.approx(float(stats.ttest_1samp(values, 0).pvalue))
    # A unit that did not change is no finding, one that brings every image the same is a sure one.
    assert (float(found.effect[3]), float(found.p[3])) == (0.0, 1.0)
    assert (float(found.share_positive[3]), float(found.p[4])) == (0.0, 0.0)
    with pytest.raises(InputError, match="n at least 2"):
        class_gain(each[:1])


def test_units_whose_changes_mean_nothing_are_called_so_at_the_level_of_the_test() -> None:
    each = torch.randn(15, 4000, generator=torch.Generator().manual_seed(3))
    share = float((class_gain(each).p < 0.05).double().mean())
    # 4,000 draws: the standard error of the share is .0034.
    assert share == pytest.approx(0.05, abs=0.012)


def test_ranks_correlate_as_scipy_says() -> None:
    first, second = torch.randn(2, 30, generator=torch.Generator().manual_seed(4)).round(decimals=1)
    expected = float(stats.spearmanr(first, second).statistic)
    assert rank_correlation(first, second) == pytest.approx(expected)
    assert math.isnan(rank_correlation(first, torch.ones(30)))


def test_parts_hold_every_unit_once_and_random_sets_none_of_their_part() -> None:
    effect = torch.randn(22, generator=torch.Generator().manual_seed(5))
    parts = parts_by_effect(effect, 6)
    assert sorted(unit for part in parts for unit in part[0]) == list(range(22))
    assert [len(part) for part in parts] == [7] * 4
    ordered = [min(float(effect[unit]) for unit in part[0]) for part in parts]
    assert ordered == sorted(ordered, reverse=True)
    for own, *sets in parts:
        for chosen in sets:
            assert len(set(chosen)) == len(own)
            assert not set(chosen) & set(own)
    assert len({tuple(chosen) for chosen in parts[0][1:]}) > 1
    assert parts_by_effect(effect, 6) == parts
    # Nothing is left to draw from for the only unit.
    assert parts_by_effect(torch.ones(1), 6) == [[[0]]]
