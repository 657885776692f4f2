"""On which images a unit fires, and through how many it is looked at, against loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from concept_monitor_cli.functional.firing import MIN_GROUPS, SIZES, Firing, companies, firing, set_sizes
from concept_monitor_cli.functional.groups import ImageGroups


def firing_twin(q: list[float], groups: list[int]) -> int:
    known = [value for value in q if value == value]
    if not known:
        return 0
    lowest = min(known)
    silent = {g for value, g in zip(q, groups, strict=True) if value == lowest}
    fires = [i for i, value in enumerate(q) if value == value and (value > lowest or len(silent) == 1)]
    return len({groups[i] for i in fires})


@pytest.mark.parametrize("seed", range(6))
def test_only_images_above_a_shared_lowest_activation_count(seed: int) -> None:
    generator = np.random.default_rng(seed)
    Q = generator.integers(-2, 3, (30, 12)).astype(np.float32)
    Q[:, :4] = generator.normal(size=(30, 4))
    Q[:, 4] = 0
    Q[generator.random((30, 12)) < 0.05] = np.nan
    Q[:, 5] = np.nan
    of = generator.integers(0, 9, 30)
    found = firing(torch.from_numpy(Q), ImageGroups.read(of))
    for unit in range(12):
        assert int(found.groups[unit]) == firing_twin(Q[:, unit].tolist(), of.tolist())


def test_copies_of_the_lowest_image_do_not_make_it_silent() -> None:
    Q = torch.tensor([[0.0], [0.0], [1.0], [2.0]])
    assert firing(Q, ImageGroups.read([0, 0, 1, 2])).groups.tolist() == [3]
    assert firing(Q).groups.tolist() == [2]


def test_sparse_units() -> None:
    found = Firing(torch.tensor([MIN_GROUPS - 1, MIN_GROUPS]))
    assert found.sparse(100).tolist() == [True, False]
    # In a set of three photos a unit that fires on all of them is not sparse.
    assert Firing(torch.tensor([3, 2])).sparse(3).tolist() == [False, True]


@pytest.mark.parametrize("top_k", [28, 33, 100])
def test_sizes_are_the_largest_that_a_unit_has(top_k: int) -> None:
    images = torch.arange(1, 150)
    sizes = set_sizes(images, top_k, 1)
    for has, size in zip(images.tolist(), sizes.tolist(), strict=True):
        allowed = [each for each in (*SIZES, top_k) if each <= min(has, top_k)]
        assert size == (max(allowed) if allowed else has)


def test_a_size_has_company() -> None:
    images = torch.tensor([600, 600, 30, 9, 9, 9, 9, 9, 9])
    sizes = set_sizes(images, 100, 3)
    assert sizes.tolist() == [28, 28, 28, 8, 8, 8, 8, 8, 8]
    for size in set(sizes.tolist()):
        assert int((images >= size).sum()) >= 3
    assert set_sizes(torch.tensor([50, 7]), 100, 5).tolist() == [7, 7]
    assert set_sizes(torch.empty(0, dtype=torch.int64), 100, 5).tolist() == []


def test_every_unit_is_in_one_company() -> None:
    fires = torch.tensor([9, 600, 30, 9, 600, 9, 9, 9, 5])
    found = companies(fires, 100, 3)
    assert [each.size for each in found] == [28, 8, 5]
    assert sorted(row for each in found for row in each.rows.tolist()) == list(range(9))
    for each in found:
        assert each.units.tolist() == [unit for unit, has in enumerate(fires.tolist()) if has >= each.size]
    assert found[0].rows.tolist() == [1, 2, 4]
    assert companies(torch.empty(0, dtype=torch.int64), 100, 3) == []
