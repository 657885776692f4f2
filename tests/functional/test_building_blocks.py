"""Outputs taken apart at a layer, beside the same sums in plain loops; floors that chance must meet."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from concept_monitor_cli.functional import building_blocks as B


def numbers(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def layer() -> tuple[Tensor, Tensor]:
    """Activations with a dead unit and tied places, and gradients; `(5, 3, 4)`."""
    A = torch.rand(5, 3, 4, generator=numbers(1), dtype=torch.float64) - 0.2
    G = torch.randn(5, 3, 4, generator=numbers(2), dtype=torch.float64)
    A[3] = 0
    A[1, :, 1] = A[1, :, 2]
    return A, G


def products(A: list, G: list) -> list:
    """`A G`, place by place and unit by unit, of nested lists."""
    return [
        [[a * g for a, g in zip(*rows, strict=True)] for rows in zip(*maps, strict=True)]
        for maps in zip(A, G, strict=True)
    ]


def test_units_and_places_are_sums_over_the_other(layer: tuple[Tensor, Tensor]) -> None:
    A, G = layer
    loop = products(A.tolist(), G.tolist())
    units = [sum(value for row in unit for value in row) for unit in loop]
    places = [[sum(loop[k][y][x] for k in range(5)) for x in range(4)] for y in range(3)]
    assert B.unit_attribution(A, G).tolist() == pytest.approx(units, abs=1e-12)
    assert torch.allclose(B.place_attribution(A, G), torch.tensor(places, dtype=torch.float64), atol=1e-12)
    assert sum(units) == pytest.approx(sum(map(sum, places)))


@pytest.mark.parametrize(("length", "most"), [(4, 6), (7, 6), (14, 6), (1, 6), (6, 6), (8, 3)])
def test_cells_hold_every_place_once(length: int, most: int) -> None:
    runs = B.spans(length, most)
    assert [place for first, last in runs for place in range(first, last)] == list(range(length))
    assert len(runs) == min(length, most)
    sizes = {last - first for first, last in runs}
    assert max(sizes) - min(sizes) <= 1


def test_cells_are_sums_of_their_places() -> None:
    maps = torch.rand(2, 7, 5, generator=numbers(), dtype=torch.float64)
    found = B.cells(maps, 3)
    for channel in range(2):
        for r, (top, bottom) in enumerate(B.spans(7, 3)):
            for c, (left, right) in enumerate(B.spans(5, 3)):
                expected = sum(
                    float(maps[channel, y, x]) for y in range(top, bottom) for x in range(left, right)
                )
                assert float(found[channel, r, c]) == pytest.approx(expected)


def group_twin(A: list, G: list, W: list, H: list) -> tuple[list, list]:
    """`W_g (h_g . G)` and `(A - W H) . G` with loops; places row by row."""
    units, height, width = len(A), len(A[0]), len(A[0][0])
    own = [[[0.0] * width for _ in range(height)] for _ in H]
    left = [[0.0] * width for _ in range(height)]
    for y in range(height):
        for x in range(width):
            place = y * width + x
            for g, direction in enumerate(H):
                own[g][y][x] = W[place][g] * sum(direction[k] * G[k][y][x] for k in range(units))
            for k in range(units):
                seen = sum(W[place][g] * H[g][k] for g in range(len(H)))
                left[y][x] += (A[k][y][x] - seen) * G[k][y][x]
    return own, left


@pytest.mark.parametrize("groups", [1, 3, 6])
def test_groups_and_residual_add_up(layer: tuple[Tensor, Tensor], groups: int) -> None:
    A, G = layer
    X = B.places_by_units(A).clamp_min(0)
    H = B.fit_groups(X, groups)
    # One of the five units is dead: a fifth group ends with nothing, or with next to nothing.
    assert min(groups, 4) <= len(H) <= min(groups, 5)
    W = B.coefficients(X, H)
    own, left = B.group_attribution(A, G, W.double(), H.double())
    expected = group_twin(A.tolist(), G.tolist(), W.double().tolist(), H.double().tolist())
    assert torch.allclose(own, torch.tensor(expected[0], dtype=torch.float64), atol=1e-12)
    assert torch.allclose(left, torch.tensor(expected[1], dtype=torch.float64), atol=1e-12)
    total = float((A * G).sum())
    assert float(own.sum() + left.sum()) == pytest.approx(total, rel=1e-9)


def test_groups_of_attributions_add_up(layer: tuple[Tensor, Tensor]) -> None:
    A, G = layer
    X = B.stacked(A, G)
    assert float(X.min()) >= 0
    assert torch.allclose(X[:12] - X[12:], B.places_by_units(A * G))
    H = B.fit_groups(X, 3)
    W = B.coefficients(X, H)
    own, left = B.signed_group_attribution(A, G, W.double(), H.double())
    for g in range(3):
        for place in range(12):
            signed = float(W[place, g]) - float(W[12 + place, g])
            expected = signed * sum(float(weight) for weight in H[g])
            assert float(own[g].flatten()[place]) == pytest.approx(expected, abs=1e-6)
    assert float(own.sum() + left.sum()) == pytest.approx(float((A * G).sum()), rel=1e-9)


def test_planted_groups_are_found_and_explain_all() -> None:
    # Two groups of units at places of their own.
    A = torch.zeros(6, 4, 4)
    A[:3, :2] = torch.tensor([1.0, 2.0, 0.5])[:, None, None]
    A[3:, 2:] = torch.tensor([0.5, 0.5, 3.0])[:, None, None]
    X = B.places_by_units(A)
    H = B.fit_groups(X, 2)
    W = B.coefficients(X, H)
    gains, left = B.explained(X, W, H)
    assert left < 1e-8
    assert float(gains.sum()) == pytest.approx(1, abs=1e-5)
    # By energy: 8 places of 9.5, and 8 of 5.25.
    assert sorted(gains.tolist()) == pytest.approx([5.25 / 14.75, 9.5 / 14.75], abs=1e-5)
    # Units whose places are dealt out are not together any more.
    loose = B.places_by_units(B.apart(A, numbers()))
    again = B.fit_groups(loose, 2)
    assert B.explained(loose, B.coefficients(loose, again), again)[1] > 0.05


def test_groups_of_nothing_are_left_out() -> None:
    # One direction, of which three groups are asked: what is left for the others is nothing.
    X = torch.outer(torch.arange(1.0, 6.0), torch.tensor([1.0, 0.0, 2.0, 0.0]))
    H = B.fit_groups(X, 3)
    assert bool((H.norm(dim=1) > 0).all())
    left = B.explained(X, B.coefficients(X, H), H)[1]
    assert left < 1e-6
    assert len(B.fit_groups(torch.zeros(5, 4), 3)) == 1
    # Floors of fewer rows are filled up with nothing.
    floor = B.Floor.of([torch.tensor([2.0, -4.0]), torch.tensor([1.0, 1.0, 6.0])])
    assert floor.size.tolist() == [5, 1.5, 0.5]
    assert B.by_rank(torch.tensor([1.0, 9.0, 3.0, 0.5]), floor.size).tolist() == [0.5, 5, 1.5, 0]
    assert B.by_rank(torch.tensor([1.0, 9.0]), floor.size).tolist() == [1.5, 5]


def test_nothing_is_explained_of_nothing() -> None:
    gains, left = B.explained(torch.zeros(3, 2), torch.zeros(3, 1), torch.ones(1, 2))
    assert bool(gains.isnan().all())
    assert left != left


def test_apart_keeps_the_values_of_every_unit(layer: tuple[Tensor, Tensor]) -> None:
    A, _ = layer
    moved = B.apart(A, numbers())
    assert torch.equal(moved.flatten(1).sort(1).values, A.flatten(1).sort(1).values)
    assert not torch.equal(moved, A)


def test_energy_below_zero_is_lost() -> None:
    A = torch.tensor([[[3.0]], [[-4.0]]])
    assert B.lost_energy(A) == pytest.approx(16 / 25)
    assert B.lost_energy(A.clamp_min(0)) == 0
    assert B.lost_energy(torch.zeros(1, 1, 1)) != B.lost_energy(torch.zeros(1, 1, 1))


def test_shares_and_ranks() -> None:
    assert B.shares(torch.tensor([1.0, -3.0, 0.0])).tolist() == [0.25, 0.75, 0]
    assert B.shares(torch.zeros(2)).tolist() == [0, 0]
    floor = torch.tensor([9.0, 5.0, 1.0])
    assert B.by_rank(torch.tensor([1.0, -3.0, 1.0]), floor).tolist() == [5, 9, 1]


def test_the_floor_is_what_dealing_out_the_units_gives(layer: tuple[Tensor, Tensor]) -> None:
    A, G = layer
    found = B.shuffled_floor(G, lambda g: B.unit_attribution(A, g), numbers(3), draws=400)
    lucky = random.Random(7)
    a, g = A.tolist(), G.tolist()
    sizes, parts = [0.0] * 5, [0.0] * 5
    for _ in range(4000):
        order = list(range(5))
        lucky.shuffle(order)
        values = sorted(
            (abs(sum(a[k][y][x] * g[order[k]][y][x] for y in range(3) for x in range(4))) for k in range(5)),
            reverse=True,
        )
        for rank, value in enumerate(values):
            sizes[rank] += value / 4000
            parts[rank] += value / sum(values) / 4000
    assert found.size.tolist() == pytest.approx(sizes, abs=0.1)
    assert found.share.tolist() == pytest.approx(parts, abs=0.03)


def test_a_class_that_reads_strong_units_stands_out_and_a_random_one_does_not() -> None:
    gains = []
    for seed in range(30):
        A = torch.rand(40, 2, 2, generator=numbers(seed)) ** 8
        weights = torch.randn(40, generator=numbers(100 + seed))
        if seed == 0:  # it reads the very unit that is loud
            weights[int(A.sum((1, 2)).argmax())] = 20.0
        G = weights[:, None, None].expand(40, 2, 2)
        values = B.unit_attribution(A, G)
        floor = B.shuffled_floor(G, lambda g, A=A: B.unit_attribution(A, g), numbers(seed))
        gains.append(float(B.shares(values).max() - floor.share[0]))
    assert gains[0] > 0.2
    # Of networks that know nothing the strongest unit is as strong as luck makes it, in the mean.
    spread = torch.tensor(gains[1:])
    assert abs(float(spread.mean())) < 3 * float(spread.std()) / 29**0.5


@pytest.mark.parametrize("power", [1, 4])
def test_weights_of_the_way_make_an_integral(power: int) -> None:
    points = B.way(64, power)
    for number, (t, weight) in enumerate(points):
        s = (number + 0.5) / 64
        assert t == pytest.approx(s**power)
        # The length of the part of the way that a point stands for, to the first order.
        assert weight == pytest.approx(((number + 1) / 64) ** power - (number / 64) ** power, abs=1e-5)
    assert sum(weight * 3 * t**2 for t, weight in points) == pytest.approx(1, abs=2e-3)
    # What changes within a thousandth of the way: the slope of t / (t + e), from 0 to 1 / (1 + e).
    e = 1e-3
    found = sum(weight * e / (t + e) ** 2 for t, weight in points)
    assert (abs(found - 1 / (1 + e)) < 0.01) == (power == 4)


def test_completeness() -> None:
    assert B.midpoints(2) == [0.25, 0.75]
    assert B.completeness_error(1.1, 1.0) == pytest.approx(0.1)
    assert B.completeness_error(1.0, 0.0) != B.completeness_error(1.0, 0.0)
