"""Rank correlations over a few runs, by plain loops over all orders; what chance gives."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
import torch

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.diversity import LEAST_RUNS, rank_test
from tests.late import Late

stats = Late("scipy.stats")


def test_a_rank_test_is_that_of_all_orders() -> None:
    rng = np.random.default_rng(0)
    for _ in range(4):
        first, second = rng.normal(size=6).round(1), rng.normal(size=6).round(1)
        found = rank_test(torch.from_numpy(first), torch.from_numpy(second))
        own = float(stats.spearmanr(first, second).statistic)
        assert found.correlation == pytest.approx(own)
        as_far = [
            abs(float(stats.spearmanr(first[list(order)], second).statistic)) >= abs(own) - 1e-9
            for order in permutations(range(6))
        ]
        assert found.p == pytest.approx(sum(as_far) / 720)
        assert math.isnan(found.partial)


def test_a_third_number_is_taken_out_of_both() -> None:
    rng = np.random.default_rng(1)
    third = rng.normal(size=40)
    first, second = third + 0.3 * rng.normal(size=40), -third + 0.3 * rng.normal(size=40)
    found = rank_test(*(torch.from_numpy(each) for each in (first, second, third)))
    ranks = [stats.rankdata(each) for each in (first, second, third)]
    rests = [each - np.polyval(np.polyfit(ranks[2], each, 1), ranks[2]) for each in ranks[:2]]
    assert found.partial == pytest.approx(float(np.corrcoef(*rests)[0, 1]))
    assert found.correlation < -0.8
    assert abs(found.partial) < 0.4
    assert found.p < 0.001
    assert math.isnan(rank_test(*(torch.from_numpy(each) for each in (third, second, third))).partial)


def test_runs_without_a_relation_are_called_at_the_level_of_the_test() -> None:
    generator = torch.Generator().manual_seed(2)
    p = [rank_test(*torch.rand(2, 7, generator=generator)).p for _ in range(200)]
    # 10 of 200 expected, deviation 3.1.
    assert 2 <= sum(each <= 0.05 for each in p) <= 19


def test_few_runs_are_not_tested_and_equal_ones_have_no_order() -> None:
    few = torch.arange(float(LEAST_RUNS - 1))
    assert rank_test(few, few).correlation == pytest.approx(1)
    assert math.isnan(rank_test(few, few).p)
    assert math.isnan(rank_test(few, torch.ones(LEAST_RUNS - 1)).correlation)
    with pytest.raises(InputError, match="two runs or more"):
        rank_test(few, few[:3])
