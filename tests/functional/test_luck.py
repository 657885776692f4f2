"""Tests of counts and means, beside sums written out and simulated luck."""

from __future__ import annotations

import math

import numpy as np
import pytest

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.luck import (
    change_by_luck,
    count_by_luck,
    holm,
    mean_by_luck,
    standard_errors,
)


def tail(count: int, total: int, share: float) -> float:
    return sum(math.comb(total, j) * share**j * (1 - share) ** (total - j) for j in range(count, total + 1))


@pytest.mark.parametrize("total", [1, 7, 40])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_counts_as_the_sum_says(total: int, share: float) -> None:
    for count in range(total + 1):
        assert count_by_luck(count, total, share) == pytest.approx(tail(count, total, share), rel=1e-9)


def test_counts_at_the_edges() -> None:
    assert count_by_luck(0, 0, 0.3) == 1.0
    assert count_by_luck(3, 5, 0.0) == 0.0
    assert count_by_luck(3, 5, 1.0) == 1.0
    for bad in ((6, 5, 0.5), (1, 5, 1.5)):
        with pytest.raises(InputError, match="no such trials"):
            count_by_luck(*bad)
    with pytest.raises(InputError):
        count_by_luck(1, 5, 0.5, design=0)


def test_a_weight_is_fewer_trials() -> None:
    assert count_by_luck(20, 40, 0.3, design=0.25) == pytest.approx(tail(5, 10, 0.3))
    weights = [count_by_luck(20, 40, 0.3, design=d) for d in (0.1, 0.3, 0.6, 1.0)]
    assert weights == sorted(weights, reverse=True)


def test_changes_are_the_sign_test() -> None:
    for gained, lost in ((9, 2), (2, 9), (5, 5), (0, 6)):
        total, most = gained + lost, max(gained, lost)
        assert change_by_luck(gained, lost) == pytest.approx(min(1.0, 2 * tail(most, total, 0.5)))
    assert change_by_luck(0, 0) == 1.0


def test_copies_of_units_are_no_more_evidence() -> None:
    assert change_by_luck(90, 20, design=0.1) == pytest.approx(change_by_luck(9, 2))


def student(t: float, freedom: int) -> float:
    """Both tails, by integrating the density in small steps."""
    x = np.linspace(-abs(t), abs(t), 200_001)
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
    return 1 - float(np.trapezoid(scale * (1 + x * x / freedom) ** (-(freedom + 1) / 2), x))


@pytest.mark.parametrize(("mean", "error", "count"), [(0.3, 0.1, 5), (-0.3, 0.1, 5), (0.05, 0.1, 30)])
def test_means_as_the_density_says(mean: float, error: float, count: int) -> None:
    assert mean_by_luck(mean, error, count) == pytest.approx(student(mean / error, count - 1), abs=1e-7)


def test_means_without_evidence() -> None:
    assert mean_by_luck(0.4, 0.1, 1) == 1.0
    assert mean_by_luck(math.nan, 0.1, 9) == 1.0
    assert mean_by_luck(0.4, math.nan, 9) == 1.0
    assert (mean_by_luck(0.0, 0.0, 9), mean_by_luck(0.1, 0.0, 9)) == (1.0, 0.0)


def test_standard_errors_undo_the_normal_tail() -> None:
    for z in (-1.0, 0.0, 1.0, 3.0, 8.0):
        assert standard_errors(math.erfc(z / math.sqrt(2)) / 2) == pytest.approx(z, abs=1e-6)
    assert standard_errors(0.0) == standard_errors(1e-310) == 37.0
    with pytest.raises(InputError):
        standard_errors(1.1)


def test_holm_by_hand() -> None:
    assert holm([0.04, 0.001, 0.02], 0.05) == [True, True, True]
    # 0.03 > 0.05 / 2, so neither it nor the larger one holds.
    assert holm([0.04, 0.001, 0.03], 0.05) == [False, True, False]
    assert holm([], 0.05) == []


def test_luck_alone_seldom_makes_a_statement() -> None:
    rng = np.random.default_rng(0)
    runs, said = 400, 0
    for _ in range(runs):
        counts = rng.binomial(60, 0.05, size=6)
        moved = [rng.binomial(30, 0.5) for _ in range(6)]
        p = [count_by_luck(int(c), 60, 0.05) for c in counts] + [change_by_luck(m, 30 - m) for m in moved]
        said += any(holm(p, 0.05))
    assert said <= 0.05 * runs + 3 * math.sqrt(0.05 * 0.95 * runs)
