from __future__ import annotations

import numpy as np
import pytest
import torch

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.groups import ImageGroups
from concept_monitor_cli.functional.topk import (
    dead_units,
    exciting_images,
    top_images,
    top_images_of_groups,
    top_rows,
)
from tests.functional import twins


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("k", [1, 7, 50, 80])
def test_agrees_with_a_full_sort(dtype: torch.dtype, k: int) -> None:
    g = torch.Generator().manual_seed(0)
    Q = torch.randn(50, 20, generator=g)
    Q[:, 5:10] = Q[:, 5:10].relu()  # half zeros
    Q[:, 10] = 0.0
    Q[:, 11] = torch.randint(0, 2, (50,), generator=g).float()
    Q[3:9, 12] = torch.nan
    Q[:, 13] = torch.nan
    Q[4, 14], Q[5, 14] = torch.inf, -torch.inf
    Q[::2, 15] = -0.0
    Q[1::2, 15] = 0.0
    Q[:, 16] = -Q[:, 16].abs()
    Q = Q.to(dtype)
    indices, values = top_images(Q, k)
    expected = twins.top_images(Q.double().numpy(), k)
    assert indices.shape == values.shape == (min(k, 50), 20)
    assert indices.T.tolist() == expected
    assert values.dtype == dtype
    np.testing.assert_array_equal(values.double().numpy(), Q.double().gather(0, indices).numpy())


def test_heavy_ties_on_many_images() -> None:
    Q = torch.zeros(20_000, 3)
    Q[15_000, 0] = 1.0
    Q[:, 1] = torch.arange(20_000) % 2
    indices, _ = top_images(Q, 100)
    assert indices[:, 0].tolist() == [15_000, *range(99)]
    assert indices[:, 1].tolist() == list(range(1, 200, 2))
    assert indices[:, 2].tolist() == list(range(100))


def twin_of_groups(q: list[float], of: list[int], k: int) -> list[int]:
    """The best image of every group; groups by that, then by their first image."""
    value = [-np.inf if x != x else x for x in q]
    best: dict[int, int] = {}
    for image, group in enumerate(of):
        if group not in best or value[image] > value[best[group]]:
            best[group] = image
    return sorted(best.values(), key=lambda image: (-value[image], of.index(of[image])))[:k]


@pytest.mark.parametrize("k", [1, 6, 40])
@pytest.mark.parametrize("seed", range(4))
def test_each_group_has_one_place_among_the_top_images(k: int, seed: int) -> None:
    g = np.random.default_rng(seed)
    Q = torch.from_numpy(g.normal(size=(60, 9)).astype(np.float32))
    Q[:, 3:6] = torch.from_numpy(g.integers(0, 3, (60, 3)).astype(np.float32))  # with many ties
    Q[:, 6] = 0.0
    Q[::3, 7] = torch.nan
    Q[:, 8] = torch.nan
    of = g.integers(0, 25, 60)
    groups = ImageGroups.read(of)
    indices, values = top_images_of_groups(Q, k, groups)
    assert indices.shape == values.shape == (min(k, groups.n_groups), 9)
    for unit in range(9):
        assert indices[:, unit].tolist() == twin_of_groups(Q[:, unit].tolist(), of.tolist(), k)
    np.testing.assert_array_equal(values.numpy(), Q.gather(0, indices).numpy())


def test_without_copies_groups_change_nothing() -> None:
    Q = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)).relu()
    alone = top_images_of_groups(Q, 20, ImageGroups.single(50))
    assert all(torch.equal(*pair) for pair in zip(alone, top_images(Q, 20), strict=True))
    with pytest.raises(InputError, match="groups of 49 images for activations of 50"):
        top_images_of_groups(Q, 3, ImageGroups.single(49))


def test_rows_and_subnormals_keep_their_order() -> None:
    values = torch.tensor([[1e-40, 2e-40, -1e-40, 0.0, -0.0]])
    assert top_rows(values, 5)[0].tolist() == [[1, 0, 3, 4, 2]]


def test_dead_units() -> None:
    Q = torch.randn(10, 6, generator=torch.Generator().manual_seed(0))
    Q[:, 1] = 0.0
    Q[:, 2] = 3.25
    Q[:, 3] = torch.nan
    Q[0, 4] = torch.nan
    Q[:, 5] = 0.0
    Q[7, 5] = 1e-30
    assert dead_units(Q).tolist() == [False, True, True, True, False, False]
    Q[1:, 4] = 2.0
    assert dead_units(Q)[4]


def test_one_image_makes_every_unit_dead() -> None:
    assert dead_units(torch.rand(1, 3)).all()


def test_bad_arguments() -> None:
    with pytest.raises(InputError):
        top_images(torch.rand(5), 2)
    with pytest.raises(InputError):
        top_images(torch.rand(5, 2), 0)
    with pytest.raises(InputError):
        dead_units(torch.rand(5))


def test_units_that_few_images_excite_have_no_list_of_them() -> None:
    generator = torch.Generator().manual_seed(0)
    Q = (torch.randn(30, 40, generator=generator) - 1).relu()
    found = exciting_images(Q, 5)
    everything, _ = top_images(Q, 5)
    for unit, column in enumerate(Q.T.tolist()):
        enough = sum(value > min(column) for value in column) >= 5
        expected = everything[:, unit].tolist() if enough else [-1] * 5
        assert found[:, unit].tolist() == expected
    assert 0 < int((found[0] < 0).sum()) < 40
    with pytest.raises(InputError, match="there are not that many"):
        exciting_images(Q, 31)
