"""On which images a unit fires, and through how many it is looked at, against loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from concept_monitor_cli.functional.firing import MIN_GROUPS, SIZES, Firing, firing, set_sizes
from concept_monitor_cli.functional.groups import ImageGroups


def firing_twin(q: list[float], groups: list[int]) -> tuple[int, int]:
    known = [value for value in q if value == value]
    if not known:
        return 0, 0
    lowest = min(known)
    silent = {g for value, g in zip(q, groups, strict=True) if value == lowest}
    fires = [i for i, value in enumerate(q) if value == value and (value > lowest or len(silent) == 1)]
    return len(fires), len({groups[i] for i in fires})


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
        twin = firing_twin(Q[:, unit].tolist(), of.tolist())
        assert (int(found.images[unit]), int(found.groups[unit])) == twin


def test_copies_of_the_lowest_image_do_not_make_it_silent() -> None:
    Q = torch.tensor([[0.0], [0.0], [1.0], [2.0]])
    assert firing(Q, ImageGroups.read([0, 0, 1, 2])).images.tolist() == [4]
    assert firing(Q).images.tolist() == [2]


def test_sparse_units() -> None:
    found = Firing(torch.tensor([9, 9]), torch.tensor([MIN_GROUPS - 1, MIN_GROUPS]))
    assert found.sparse(100).tolist() == [True, False]
    # In a set of three photos a unit that fires on all of them is not sparse.
    assert Firing(torch.tensor([3, 2]), torch.tensor([3, 2])).sparse(3).tolist() == [False, True]


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
