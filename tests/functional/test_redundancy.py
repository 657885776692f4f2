"""How many different units a layer has, against loops and planted layers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.redundancy import (
    NEAR,
    effective_units,
    nearest_correlation,
    redundancy,
)


def normal(images: int, units: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(images, units))).float()


def collapsed(share: float, *, images: int = 600, units: int = 100, noise: float = 0.0) -> Tensor:
    """Independent units, a share of which does the same."""
    Q = normal(images, units)
    count = round(share * units)
    Q[:, :count] = normal(images, 1, seed=1) + noise * normal(images, count, seed=2)
    return Q


def twin(Q: Tensor) -> tuple[float, float]:
    """Effective number and share of redundant units from the definition, in float64 with loops."""
    columns = [
        (unit - unit.mean()) / unit.std()
        for unit in Q.double().numpy().T
        if np.isfinite(unit).all() and unit.max() > unit.min()
    ]
    n = len(columns)
    if not n:
        return math.nan, math.nan
    r = np.array([[float(np.mean(a * b)) for b in columns] for a in columns])
    entropy = 0.0
    for value in np.linalg.eigvalsh(r):
        p = value / n
        if p > 1e-15:
            entropy -= p * math.log(p)
    near = [max((r[i, j] for j in range(n) if j != i), default=-1.0) > NEAR for i in range(n)]
    return math.exp(entropy), sum(near) / n


LAYERS = {
    "more images than units": normal(50, 12),
    "fewer images than units": normal(8, 30),
    "a dead unit": torch.cat([normal(40, 5), torch.full((40, 1), 3.0)], 1),
    "a unit with NaN": torch.cat([normal(40, 5), torch.full((40, 1), torch.nan)], 1),
    "one unit": normal(20, 1),
    "two images": normal(2, 6),
    "ties": normal(40, 10).round(),
    "copies": normal(40, 6).repeat(1, 3),
    "opposites": torch.cat([normal(40, 6), -normal(40, 6)], 1),
    "collapsed": collapsed(0.3, units=40),
    "nearly the same": collapsed(0.3, units=40, noise=0.2),
    "very large": 1e30 * normal(40, 6),
    "very small": 1e-30 * normal(40, 6),
}


@pytest.mark.parametrize("name", LAYERS)
def test_equal_to_the_twin(name: str) -> None:
    found = redundancy(LAYERS[name])
    effective, redundant = twin(LAYERS[name])
    assert found.effective == pytest.approx(effective, rel=1e-5)
    assert effective_units(LAYERS[name]) == found.effective
    assert found.redundant == pytest.approx(redundant, abs=1e-9)
    assert 1 <= found.effective <= found.units


def test_nothing_to_compare() -> None:
    for Q in (torch.ones(5, 3), torch.full((5, 2), torch.nan), torch.zeros(5, 0)):
        found = redundancy(Q)
        assert found.units == 0
        assert math.isnan(found.effective)
        assert math.isnan(found.redundant)
    with pytest.raises(InputError):
        redundancy(torch.zeros(0, 3))


def test_one_unit_is_alone() -> None:
    found = redundancy(normal(20, 1))
    assert (found.units, found.effective, found.redundant) == (1, 1.0, 0.0)
    assert math.isnan(nearest_correlation(normal(20, 1)).item())


def test_uncorrelated_units_count_in_full_and_copies_once() -> None:
    Q = torch.linalg.qr(normal(64, 17) - normal(64, 17).mean(0))[0][:, 1:]
    Q = Q - Q.mean(0)
    assert effective_units(Q.repeat(1, 4)) == pytest.approx(effective_units(Q), rel=1e-5)
    assert redundancy(Q.repeat(1, 4)).redundant == 1.0
    assert redundancy(normal(50, 1).repeat(1, 9)).effective == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(("images", "units"), [(600, 20), (100, 100), (30, 200)])
def test_independent_units_score_at_chance(images: int, units: int) -> None:
    # Null: whatever N and C, also where fewer images than units leave far less than C.
    found = redundancy(normal(images, units))
    assert found.effective == pytest.approx(found.effective_chance, rel=0.03)
    assert found.redundant == found.redundant_chance == 0
    assert found.effective < min(units, images)


def test_chance_holds_for_units_that_fire_rarely() -> None:
    sparse = normal(500, 60).sub(2).relu()
    found = redundancy(sparse)
    assert found.effective == pytest.approx(found.effective_chance, rel=0.05)


def test_effective_number_falls_with_every_step_of_a_collapse() -> None:
    layers = [redundancy(collapsed(share)) for share in (0, 0.1, 0.25, 0.5, 0.75, 1)]
    numbers = [layer.effective for layer in layers]
    assert numbers == sorted(numbers, reverse=True)
    assert numbers[-1] == pytest.approx(1.0, abs=1e-5)
    assert [layer.redundant for layer in layers] == [0, 0.1, 0.25, 0.5, 0.75, 1]
    # Independent units of the same N and C do not know of it.
    chance = [layer.effective_chance for layer in layers]
    assert max(chance) < 1.02 * min(chance)


def test_scale_offset_and_order_do_not_matter() -> None:
    Q = collapsed(0.3, units=30, noise=0.5)
    moved = 7.0 + torch.logspace(-3, 3, 30) * Q
    assert effective_units(moved) == pytest.approx(effective_units(Q), rel=1e-3)
    assert effective_units(Q.flip(0)) == pytest.approx(effective_units(Q), rel=1e-9)
    assert effective_units(Q.flip(1)) == pytest.approx(effective_units(Q), rel=1e-9)


def test_the_seed_decides_about_chance_alone() -> None:
    Q = normal(30, 40)
    one, again, other = redundancy(Q, seed=1), redundancy(Q, seed=1), redundancy(Q, seed=2)
    assert one == again
    assert (one.effective, one.redundant) == (other.effective, other.redundant)
    assert one.effective_chance != other.effective_chance
