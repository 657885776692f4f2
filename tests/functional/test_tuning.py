"""Rendered shapes and tuning curves beside slow twins, and units whose angle is planted."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from concept_monitor_cli.functional import tuning


@pytest.mark.parametrize("angle", [0, 3, 8])
def test_a_grating_beside_its_formula(angle: int) -> None:
    block = tuning.Block("grating", 1 / 8, 1)
    found = tuning.rendered(block, 20)[angle]
    theta = math.pi * angle / 16
    for row, column in ((0, 0), (3, 17), (11, 4)):
        x, y = (column + 0.5) / 20 - 0.5, 0.5 - (row + 0.5) / 20
        across = -x * math.sin(theta) + y * math.cos(theta)
        wanted = 0.5 + 0.45 * math.cos(2 * math.pi * across * 8 + math.pi / 2)
        assert float(found[row, column]) == pytest.approx(wanted, abs=1e-6)


def test_what_points_where() -> None:
    # Bars at 0 degrees lie flat: rows are of one value.
    flat = tuning.rendered(tuning.Block("grating", 1 / 8, 0), 32)[0]
    assert float(flat.std(1).max()) < 1e-6
    for shape in ("curve", "corner"):
        for number, (dx, dy) in enumerate(((1, 0), (0, 1), (-1, 0), (0, -1))):
            image = tuning.rendered(tuning.Block(shape, tuning.SIZES[shape][1], 2), 64)[4 * number]
            rows, columns = np.nonzero((image - 0.5).abs().numpy() > 0.2)
            # All ink lies behind the tip of the bulge, which is in the middle and points along the angle.
            along = (columns + 0.5 - 32) * dx - (rows + 0.5 - 32) * dy
            assert along.max() <= 4
            assert along.min() < -8
            # It is the same on both sides.
            across = (columns + 0.5 - 32) * dy + (rows + 0.5 - 32) * dx
            assert abs(across.mean()) < 0.5


def test_looks_are_dark_and_bright_thin_and_thick() -> None:
    ink = [float((tuning.rendered(block, 64)[0] - 0.5).sum()) for block in tuning.blocks("curve")[:4]]
    assert ink[0] == pytest.approx(-ink[1], rel=1e-5)
    assert ink[2] == pytest.approx(-ink[3], rel=1e-5)
    assert ink[2] > 1.5 * ink[0] > 0
    every = list(tuning.batches(16, 3))
    assert len(every) == 36
    assert all(images.shape == (16, 3, 16, 16) for _, images in every)
    assert all(float(images.min()) >= 0 and float(images.max()) <= 1 for _, images in every)


def drawn(blocks: int, units: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(blocks, 16, units, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_share_of_the_angle_beside_its_twin() -> None:
    responses = drawn(5, 4)
    responses[:, :, 3] = 0.3  # a dead unit
    found = tuning.explained(responses)
    for unit in range(3):
        table = [[float(responses[b, a, unit]) for a in range(16)] for b in range(5)]
        table = [[value - math.fsum(row) / 16 for value in row] for row in table]
        whole = math.fsum(value**2 for row in table for value in row)
        part = math.fsum((math.fsum(row[a] for row in table) / 5) ** 2 for a in range(16))
        assert float(found[unit]) == pytest.approx(5 * part / whole)
    assert math.isnan(float(found[3]))
    assert tuning.explained(drawn(1, 2)).tolist() == pytest.approx([1, 1])


def test_chance_is_one_over_the_blocks_and_p_values_are_uniform() -> None:
    found = tuning.tuning(drawn(12, 400), torch.Generator().manual_seed(0), 99)
    assert found.chance == 1 / 12
    assert float(found.share.mean()) == pytest.approx(1 / 12, abs=0.005)
    for level in (0.1, 0.5):
        assert float((found.p_value <= level).double().mean()) == pytest.approx(level, abs=0.07)


def test_a_planted_angle_is_found() -> None:
    responses = 0.3 * drawn(12, 3)
    degrees = torch.arange(16, dtype=torch.float64) * 2 * math.pi / 16
    responses[:, :, 0] += torch.cos(degrees - degrees[5])
    responses[7, 5, 0] += 9
    responses[:, :, 2] = 1.0
    found = tuning.tuning(responses, torch.Generator().manual_seed(0), 199)
    assert int(found.preferred[0]) == 5
    assert float(found.p_value[0]) == pytest.approx(1 / 200)
    assert int(found.block[0]) == 7
    assert float(found.peak[0]) == float(responses[7, 5, 0])
    assert float(found.width[0]) < 0.5
    assert math.isnan(float(found.p_value[2]))
    assert torch.allclose(found.curve, responses.mean(0))


def test_the_shorter_way_round() -> None:
    first, second = torch.tensor([0, 15, 4]), torch.tensor([15, 15, 12])
    assert tuning.turned(first, second, "grating").tolist() == [11.25, 0, 90]
    assert tuning.turned(first, second, "corner").tolist() == [22.5, 0, 180]
