"""Deletion and insertion: exact on a linear logit, and beside plain loops."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from concept_monitor_cli.functional import faithfulness as M


def numbers(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_orders_go_down_and_ties_are_drawn() -> None:
    values = torch.tensor([[0.0, 2.0, 1.0], [1.0, 1.0, -3.0]])
    orders = {tuple(M.pixel_order(values, numbers(seed)).tolist()) for seed in range(40)}
    assert {order[0] for order in orders} == {1}
    assert {order[4:] for order in orders} == {(0, 5)}
    assert {frozenset(order[1:4]) for order in orders} == {frozenset({2, 3, 4})}
    assert len(orders) == 6


def test_replaced_pixels_by_hand() -> None:
    image, by = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.zeros(1, 2, 2)
    found = M.replaced(image, by, torch.tensor([3, 0, 1, 2]), steps=5)
    assert found.flatten(1).tolist() == [[1, 2, 3, 4], [1, 2, 3, 0], [0, 2, 3, 0], [0, 0, 3, 0], [0, 0, 0, 0]]


def test_deletion_of_a_linear_logit_is_exact_and_least_of_all_orders() -> None:
    weights = torch.tensor([[[0.5, -1.0, 2.0], [0.1, 3.0, -0.2]]])
    image = torch.tensor([[[1.0, 2.0, 0.5], [1.0, 1.0, 4.0]]])
    nothing = torch.zeros(1, 1, 1)
    part = (weights * image).flatten()

    def deletion(order: tuple[int, ...]) -> float:
        images = M.replaced(image, nothing.expand_as(image), torch.tensor(order), steps=7)
        return M.area((images * weights).sum((1, 2, 3)))

    best = tuple(M.pixel_order(part.view(2, 3), numbers(0)).tolist())
    left = [float(part.sum())]
    for place in best:
        left.append(left[-1] - float(part[place]))
    exact = sum((a + b) / 2 for a, b in itertools.pairwise(left)) / 6
    assert deletion(best) == pytest.approx(exact, rel=1e-5)
    assert min(map(deletion, itertools.permutations(range(6)))) == pytest.approx(exact, rel=1e-5)


def test_the_blur_is_a_gaussian_that_keeps_the_mean() -> None:
    side = 56  # a spread of 1.25 pixels
    spike = torch.zeros(1, side, side, dtype=torch.float64)
    spike[0, 28, 28] = 1
    found = M.blurred(spike)[0]
    assert found.sum().item() == pytest.approx(1)
    places = range(-5, 6)
    total = sum(math.exp(-(x * x) / (2 * 1.25**2)) for x in places)
    for dy, dx in [(0, 0), (1, 0), (2, -3)]:
        expected = math.exp(-(dx * dx + dy * dy) / (2 * 1.25**2)) / total**2
        assert found[28 + dy, 28 + dx].item() == pytest.approx(expected, rel=1e-9)
    assert torch.allclose(M.blurred(torch.full((3, 9, 9), 0.3)), torch.full((3, 9, 9), 0.3))


def test_maps_of_nothing() -> None:
    middle = M.centre_map(9)
    assert middle.argmax() == 40
    assert torch.equal(middle, middle.T)
    step = torch.zeros(3, 8, 8)
    step[:, :, 4:] = 1
    edges = M.edge_map(step)
    assert edges[:, 3:5].min() == edges.max() == 4
    assert edges[:, :3].max() == edges[:, 5:].max() == 0


def test_a_map_of_what_counts_beats_chance_on_both_curves() -> None:
    image = torch.rand(3, 16, 16, generator=numbers(1))
    patch = torch.zeros(16, 16)
    patch[3:7, 9:13] = 1
    image[:, 3:7, 9:13] = 1

    def score(images: Tensor) -> Tensor:
        return (images * patch).sum((1, 2, 3))[:, None] / 48

    grey = torch.full((3, 1, 1), 0.2)
    deletion, insertion = M.areas(score, image, grey, M.pixel_order(patch, numbers(0)))
    chance = [
        M.areas(score, image, grey, M.pixel_order(torch.zeros(16, 16), numbers(seed))) for seed in (1, 2, 3)
    ]
    assert deletion < min(each[0] for each in chance) - 0.2
    assert insertion > max(each[1] for each in chance)


def test_gains_have_an_interval() -> None:
    better = torch.tensor([0.1, 0.2, 0.3, 0.4])
    mean, low, high = M.gain(better, numbers(0))
    assert mean == pytest.approx(0.25)
    assert 0.1 <= low < mean < high <= 0.4
    assert M.gain(torch.tensor([0.2, 0.2]), numbers(0)) == pytest.approx((0.2, 0.2, 0.2))
