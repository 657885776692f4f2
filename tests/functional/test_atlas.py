"""The mathematics of the activation atlas beside slow and literal twins."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from concept_monitor_cli.functional import atlas


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -- samples and layout --------------------------------------------------------------------------------------


def test_places_are_inner_repeat_and_are_spread_evenly() -> None:
    found = [atlas.inner_place(f"{number:x}", 0, 5, 7) for number in range(3000)]
    assert found == [atlas.inner_place(f"{number:x}", 0, 5, 7) for number in range(3000)]
    assert found != [atlas.inner_place(f"{number:x}", 1, 5, 7) for number in range(3000)]
    rows, columns = zip(*found, strict=True)
    assert sorted(set(rows)) == [1, 2, 3]
    assert sorted(set(columns)) == [1, 2, 3, 4, 5]
    counts = np.bincount(columns)[1:]
    assert counts.min() > 500  # 600 each
    # Maps of two rows have no inner one.
    assert {atlas.inner_place(f"{number:x}", 0, 2, 1) for number in range(50)} == {(0, 0), (1, 0)}


def test_standardised_units_and_dead_ones() -> None:
    values = drawn(9, 4)
    values[:, 2] = 0.1  # rounding leaves a spread in the sum of nine of them
    found = atlas.standardised(values)
    for unit in range(4):
        own = values[:, unit].tolist()
        mean = math.fsum(own) / 9
        spread = math.sqrt(math.fsum((value - mean) ** 2 for value in own) / 9)
        for row in range(9):
            wanted = 0.0 if unit == 2 else (own[row] - mean) / spread
            assert float(found[row, unit]) == pytest.approx(wanted, abs=1e-12)


def test_the_unit_square_cuts_off_what_is_far_away() -> None:
    points = torch.stack([torch.linspace(0, 1, 201), torch.full((201,), 3.0)], 1).double()
    points[0, 0] = -100
    found = atlas.unit_square(points)
    low, high = np.percentile(points[:, 0].numpy(), [1, 99])
    around = 0.1 * (high - low)
    wanted = (points[:, 0].clamp(low - around, high + around) - low + around) / (high - low + 2 * around)
    assert torch.allclose(found[:, 0], wanted)
    assert float(found[0, 0]) == 0
    assert (found[:, 1] == 0.5).all()


@pytest.mark.parametrize(("samples", "side"), [(1, 1), (20, 1), (598, 5), (8000, 20), (50_000, 20)])
def test_how_many_cells(samples: int, side: int) -> None:
    assert atlas.grid_side(samples) == side


def test_cells_by_hand() -> None:
    places = torch.tensor([[0.0, 0.0], [0.49, 0.0], [0.5, 0.0], [1.0, 1.0], [0.2, 0.99]])
    assert atlas.cells_of(places, 2).tolist() == [0, 0, 1, 3, 2]
    assert atlas.cells_of(places, 1).tolist() == [0] * 5


def test_purity_beside_its_twin_and_of_islands() -> None:
    places, epochs = drawn(40, 2), torch.arange(40) % 2
    found = atlas.epoch_purity(places, epochs, 5)
    for epoch in range(2):
        shares = []
        for i in range(40):
            if i % 2 != epoch:
                continue
            others = sorted(
                (math.dist(places[i].tolist(), places[j].tolist()), j) for j in range(40) if j != i
            )
            shares.append(sum(j % 2 == epoch for _, j in others[:5]) / 5)
        assert float(found[epoch]) == pytest.approx(math.fsum(shares) / len(shares))
    assert float(found.mean()) == pytest.approx(19 / 39, abs=0.15)  # epochs lie among each other
    places[epochs == 1] += 100
    assert atlas.epoch_purity(places, epochs, 5).tolist() == [1, 1]


# -- cells ---------------------------------------------------------------------------------------------------


def test_whitening_beside_its_twin_with_dead_units() -> None:
    values = drawn(12, 3)
    values[:, 1] = 0
    moment = [[math.fsum(float(row[i] * row[j]) for row in values) / 12 for j in range(3)] for i in range(3)]
    trace = sum(moment[i][i] for i in range(3))
    for i in range(3):
        moment[i][i] += 0.01 * trace / 3
    S = atlas.whitening(values)
    assert torch.allclose(S @ torch.tensor(moment, dtype=torch.float64), torch.eye(3, dtype=torch.float64))
    assert bool(S.isfinite().all())
    assert torch.equal(atlas.whitening(torch.zeros(4, 2)), torch.eye(2, dtype=torch.float64))


def test_means_and_counts_of_cells() -> None:
    values, cells = drawn(10, 2), torch.tensor([4, 4, 4, 1, 1, 4, 9, 4, 1, 1])
    numbers, counts = atlas.filled(cells, 4)
    assert numbers.tolist() == [1, 4]
    assert counts.tolist() == [4, 5]
    found = atlas.cell_means(values, cells, numbers)
    for place, cell in enumerate((1, 4)):
        rows = [values[i].tolist() for i in range(10) if cells[i] == cell]
        wanted = [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]
        assert found[place].tolist() == pytest.approx(wanted)
    assert atlas.filled(torch.zeros(7, dtype=torch.int64))[0].tolist() == [0]  # all in one


def test_coherence_beside_its_twin_and_chance() -> None:
    values, cells = drawn(11, 4), torch.tensor([0, 0, 0, 2, 2, 2, 2, 5, 0, 2, 0])
    found = []
    for i in range(11):
        others = [values[j] for j in range(11) if j != i and cells[j] == cells[i]]
        if others:
            other = sum(others[1:], others[0]) / len(others)
            found.append(float(values[i] @ other / values[i].norm() / other.norm()))
    assert atlas.coherence(values, cells) == pytest.approx(math.fsum(found) / len(found))
    assert math.isnan(atlas.coherence(values, torch.arange(11)))
    # Planted: two kinds of samples, each in a cell of its own; and the same dealt out.
    two = torch.cat([drawn(30, 6) + 5, drawn(30, 6, seed=1) - 5])
    kinds = torch.arange(60) // 30
    assert atlas.coherence(two, kinds) > 0.9
    numbers = torch.Generator().manual_seed(0)
    luck = [atlas.coherence(two, atlas.dealt_out(kinds, numbers)) for _ in range(20)]
    assert abs(float(np.mean(luck))) < 0.15


def test_dealing_out_keeps_the_counts() -> None:
    cells = torch.tensor([0, 0, 0, 1, 1, 7])
    found = atlas.dealt_out(cells, torch.Generator().manual_seed(3))
    assert sorted(found.tolist()) == cells.tolist()
    assert found.tolist() != cells.tolist()


def test_loosened_units_keep_their_values_and_lose_each_other() -> None:
    one = drawn(400, 1)
    values = torch.cat([one, one * 2, one - 3], 1)
    found = atlas.loosened(values, torch.Generator().manual_seed(0))
    assert torch.equal(found.sort(0).values, values.sort(0).values)
    cosines = torch.corrcoef(found.T)
    assert float((cosines - torch.eye(3)).abs().max()) < 0.15


def test_the_share_of_a_class_beside_its_twin() -> None:
    said, cells = drawn(14, 3), torch.arange(14) % 2
    found = atlas.class_share(said, cells, torch.tensor([0, 1]))
    for cell in range(2):
        rows = [said[i].tolist() for i in range(14) if i % 2 == cell]
        sums = [math.fsum(column) for column in zip(*rows, strict=True)]
        best = sums.index(max(sums))
        assert float(found[cell]) == sum(row.index(max(row)) == best for row in rows) / len(rows)


def test_a_map_of_islands_is_cut_finer_and_one_of_epochs_that_overlap_is_not() -> None:
    numbers = torch.Generator().manual_seed(0)
    anywhere = [torch.rand(600, 2, generator=numbers, dtype=torch.float64) for _ in range(4)]
    corners = [torch.tensor(corner) for corner in ((0, 0), (0.5, 0), (0, 0.5), (0.5, 0.5))]
    islands = [corner + own / 2 for corner, own in zip(corners, anywhere, strict=True)]
    assert atlas.grid_side(600) == 5
    # A quarter of a map of 11 x 11 has as many cells as an epoch alone would have.
    assert atlas.joint_side(islands) == 10
    assert atlas.joint_side(anywhere) == 5
    assert atlas.joint_side(anywhere[:1]) == 5
    for places, side in ((islands, 10), (islands, 11)):
        means = []
        for own in places:
            held = [int(y * side) * side + int(x * side) for x, y in own.tolist()]
            counts = [held.count(cell) for cell in set(held) if held.count(cell) >= 5]
            means.append(sum(counts) / len(counts))
        assert (min(means) >= 20) == (side == 10)


# -- pictures ------------------------------------------------------------------------------------------------


def test_what_a_tile_climbs() -> None:
    a, to, of = drawn(5, 3), drawn(5, 3, seed=1), drawn(5, 3, seed=2)
    a[0], of[0] = -of[0], of[0].clone()  # the opposite: back to it first
    a[1], to[1] = of[1].clone(), -of[1]  # alike, and `a . S m` below 0
    a[2], to[2] = of[2] + 0.1, of[2].clone()
    found, kinds = atlas.towards(a, to, of), set()
    for row in range(5):
        dot = math.fsum((a[row] * to[row]).tolist())
        cosine = float(a[row] @ of[row] / a[row].norm() / of[row].norm())
        near = cosine > 0.1 and dot > 0
        assert float(found[row]) == pytest.approx(dot * cosine**4 if near else cosine)
        kinds.add(near)
    assert kinds == {True, False}


def test_which_mean_is_nearest() -> None:
    means = torch.eye(3, dtype=torch.float64)
    seen = torch.tensor([[1.0, 0, 0], [1, 0.5, 0], [0, 0, -1]])
    own, other, nearest = atlas.own_and_other(seen, means, torch.tensor([0, 1, 2]))
    assert own.tolist() == pytest.approx([1, 0.5 / math.sqrt(1.25), -1])
    assert other.tolist() == pytest.approx([0, 0.5 / math.sqrt(1.25), 0])
    assert nearest.tolist() == [True, False, False]
    # What excites nothing is near to nothing.
    assert not atlas.own_and_other(seen[:1] * 0, means, torch.tensor([0]))[2]
    alone = atlas.own_and_other(seen[:1], means[:1], torch.tensor([0]))
    assert math.isnan(float(alone[1][0]))


# -- classes -------------------------------------------------------------------------------------------------


def test_samples_of_a_class_are_taken_once() -> None:
    said = torch.tensor([[3.0, 1], [2, 5], [-1, -2], [1, 9], [-3, 0]])
    # The best class of 0 and 2 is class 0; the highest positive ones are 0, 1 and, of three, 3.
    assert atlas.class_samples(said, 0, 2).tolist() == [0, 1, 2]
    assert atlas.class_samples(said, 0, 9).tolist() == [0, 1, 2, 3]
    assert atlas.class_samples(said, 0, 0).tolist() == [0, 2]


def test_between_two_classes() -> None:
    said = torch.zeros(101, 2, dtype=torch.float64)
    said[:, 0] = torch.linspace(-1, 1, 101)
    found = atlas.between(said, 0, 1)
    scale = np.percentile(np.abs(said[:, 0].numpy()), 99)
    assert found == pytest.approx(np.clip(said[:, 0].numpy() / scale, -1, 1) / 2 + 0.5)
    assert atlas.between(said, 1, 0) == pytest.approx(1 - found)
    assert (atlas.between(torch.zeros(4, 2), 0, 1) == 0.5).all()
