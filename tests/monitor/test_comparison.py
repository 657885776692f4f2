from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import numpy as np
import pandas as pd
import pytest

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.monitor.comparison import (
    Final,
    check_classes,
    class_counts,
    concept_counts,
    correlations,
    match_units,
    matches,
    paired_correlations,
)
from concept_monitor_cli.monitor.history import histories


def _correlations(A: np.ndarray, B: np.ndarray, block: int = 7) -> np.ndarray:
    return correlations(lambda i, j: A[i:j], lambda i, j: B[i:j], len(A), block=block)


def test_correlations_equal_numpy_s_and_do_not_depend_on_blocks() -> None:
    rng = np.random.default_rng(0)
    A = (rng.normal(size=(50, 4)) + 1e3).astype(np.float32)
    B = rng.normal(size=(50, 3)).astype(np.float32)
    expected = np.corrcoef(A.astype(float).T, B.astype(float).T)[:4, 4:]
    for block in (1, 7, 64):
        np.testing.assert_allclose(_correlations(A, B, block), expected, atol=1e-12)


def test_constant_and_broken_units_correlate_with_nobody() -> None:
    rng = np.random.default_rng(1)
    A = rng.normal(size=(30, 4)).astype(np.float32)
    A[:, 1] = 0.1  # not exactly representable: its mean carries a rounding error
    A[3, 2] = np.nan
    found = _correlations(A, A)
    assert np.isnan(found[[1, 2]]).all()
    assert np.isnan(found[:, [1, 2]]).all()
    np.testing.assert_allclose(np.diag(found)[[0, 3]], 1)
    twin, value = match_units(found)
    assert twin.tolist() == [0, -1, -1, 3]
    assert np.isnan(value[1])


def test_a_permuted_copy_is_matched_unit_by_unit() -> None:
    rng = np.random.default_rng(2)
    Q = rng.normal(size=(200, 64)).astype(np.float32).clip(0)
    order = rng.permutation(64)
    twin, value = match_units(_correlations(Q, Q[:, order], 64))
    np.testing.assert_array_equal(order[twin], np.arange(64))
    np.testing.assert_allclose(value, 1)


def test_units_that_do_the_same_keep_their_numbers() -> None:
    rng = np.random.default_rng(3)
    Q = rng.normal(size=(40, 6)).astype(np.float32)
    Q[:, 4] = Q[:, 1]
    Q[:, 5] = Q[:, 1]
    twin, _ = match_units(_correlations(Q, Q))
    assert twin.tolist() == [0, 1, 2, 3, 4, 5]


def test_more_units_on_one_side() -> None:
    rng = np.random.default_rng(4)
    Q = rng.normal(size=(60, 5)).astype(np.float32)
    twin, _ = match_units(_correlations(Q, Q[:, [3, 0]]))
    assert twin.tolist() == [1, -1, -1, 0, -1]
    twin, _ = match_units(_correlations(Q[:, [3, 0]], Q))
    assert twin.tolist() == [3, 0]
    assert match_units(np.full((2, 2), np.nan))[0].tolist() == [-1, -1]


@pytest.mark.parametrize("shape", [(5, 5), (3, 6), (6, 3), (1, 4), (4, 1)])
def test_the_pairs_are_the_best_of_all_ways_to_pair(shape: tuple[int, int]) -> None:
    table = np.random.default_rng(sum(shape)).uniform(-1, 1, (40, *shape))
    for gain in table:
        few, many = sorted(shape)
        wide = gain if shape[0] <= shape[1] else gain.T
        best = max(
            sum(wide[row, column] for row, column in enumerate(chosen))
            for chosen in permutations(range(many), few)
        )
        twin, value = match_units(gain)
        assert np.nansum(value) == pytest.approx(best, abs=1e-12)
        assert (twin >= 0).sum() == few
        assert np.array_equal(value[twin >= 0], gain[np.flatnonzero(twin >= 0), twin[twin >= 0]])


def _final(names: str, sure: str) -> Final:
    concepts = tuple("" if name == "." else name for name in names)
    flags = np.array([flag == "+" for flag in sure])
    return Final(np.arange(len(names)), concepts, ("c",) * len(names), flags)


def test_matches_and_counts_by_hand() -> None:
    first, second = _final("aab.", "+-+-"), _final("ba.", "+--")
    table = matches("l", "d", first, second, np.array([1, -1, 0, -1]), np.array([0.9, np.nan, 0.8, np.nan]))
    rows = table[["unit_a", "unit_b", "concept_a", "concept_b", "same"]].astype(object)
    assert rows.where(rows.notna(), None).to_numpy().tolist() == [
        [0, 1, "a", "a", True],
        [1, None, "a", "", False],
        [2, 0, "b", "b", True],
        [3, None, "", "", False],
        [None, 2, "", "", False],
    ]
    counts = concept_counts("l", "d", first, second)
    assert counts[["concept", "units_a", "units_b"]].to_numpy().tolist() == [["a", 1, 0], ["b", 1, 1]]


def test_units_of_classes(concept_table: Callable[..., pd.DataFrame]) -> None:
    def unit(name: str, sure: bool = True) -> tuple[str, str, float, bool]:
        return name, "object", 1.0, sure

    told = {
        0: [unit("hot dog"), unit("car", False), None],
        7: [unit("hot dog", False), unit("Hot_Dog"), unit("horse")],
    }
    (history,) = histories(concept_table(told))
    counts = class_counts(history, ("hot_dog", "car"))
    assert counts[["epoch", "class", "units", "interpretable"]].to_numpy().tolist() == [
        [0, "hot_dog", 1, 1],
        [7, "hot_dog", 2, 1],
        [0, "car", 1, 0],
        [7, "car", 0, 0],
    ]
    assert check_classes(["HORSE", "cat"], ["horse"]) == ["cat"]
    with pytest.raises(InputError, match="cat"):
        check_classes(["cat"], ["horse"])


def test_correlations_of_pairs_are_those_of_the_table() -> None:
    generator = np.random.default_rng(3)
    first = generator.normal(size=(50, 6)).astype(np.float32)
    second = generator.normal(size=(50, 4)).astype(np.float32)
    second[:, 1] = 7.3  # constant: no correlation
    first[:, 2] = second[:, 3]
    table = correlations(lambda i, j: first[i:j], lambda i, j: second[i:j], 50, block=16)
    partner = np.array([3, 1, 3, 0, 0, 2])
    found = paired_correlations(first, second, partner)
    np.testing.assert_allclose(found, table[np.arange(6), partner], atol=1e-12)
    assert np.isnan(found[1])
    assert found[2] == pytest.approx(1)
