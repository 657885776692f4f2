"""The pointing game against plain loops and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from concept_monitor_cli.functional.pointing import TOLERANCE, hits, shares_inside, surroundings


@pytest.mark.parametrize("tolerance", [0.0, TOLERANCE, 0.21])
def test_surroundings_are_those_of_plain_loops(tolerance: float) -> None:
    mask = np.random.default_rng(0).random((14, 14)) < 0.05
    expected = [
        [
            any(
                math.hypot(y - v, x - u) <= tolerance * 14 for v in range(14) for u in range(14) if mask[v, u]
            )
            for x in range(14)
        ]
        for y in range(14)
    ]
    assert surroundings(torch.from_numpy(mask), tolerance).tolist() == expected
    assert not surroundings(torch.zeros(4, 4, dtype=torch.bool)).any()


def test_hits_by_hand() -> None:
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[6:, 6:] = True
    near = surroundings(mask, 0.0)
    corner, other = torch.zeros(2, 2), torch.zeros(2, 2)
    corner[1, 1] = other[0, 1] = 1.0
    assert hits(corner, near)  # its peak is the middle of the lower right quarter
    assert not hits(other, near)
    assert hits(other, surroundings(mask, 0.75))
    # Places that tie: the middle of the lower edge.
    assert not hits(torch.tensor([[0.0, 0.0], [1.0, 1.0]]), near)
    assert not hits(torch.ones(2, 2), torch.ones(8, 8, dtype=torch.bool)), "one value everywhere is no peak"


def test_random_places_hit_as_often_as_the_share_says() -> None:
    numbers = torch.Generator().manual_seed(0)
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[3:12, 5:20] = True
    near = surroundings(mask)
    found = np.mean([hits(torch.rand(32, 32, generator=numbers), near) for _ in range(2000)])
    assert found == pytest.approx(float(near.double().mean()), abs=0.04)


def test_shares_inside_are_those_of_plain_loops() -> None:
    rng = np.random.default_rng(1)
    values, mask = rng.normal(size=(6, 6)), rng.random((6, 6)) < 0.4
    positive = [max(values[y, x], 0.0) for y in range(6) for x in range(6)]
    inside = [max(values[y, x], 0.0) for y in range(6) for x in range(6) if mask[y, x]]
    both = [torch.from_numpy(mask), torch.from_numpy(~mask)]
    found, rest = shares_inside(torch.from_numpy(values), both)
    assert found + rest == pytest.approx(1)
    assert found == pytest.approx(math.fsum(inside) / math.fsum(positive), abs=1e-12)
    assert math.isnan(shares_inside(torch.from_numpy(-abs(values)), both)[0])
    # Enlarged: a map of one place that is not 0 spreads over its quarter and half of the next.
    half = torch.zeros(8, 8, dtype=torch.bool)
    half[:, 4:] = True
    assert shares_inside(torch.tensor([[0.0, 1.0], [0.0, 1.0]]), [half])[0] == pytest.approx(0.875)
