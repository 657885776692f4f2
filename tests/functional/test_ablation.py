"""Scores without units against a pass without them; outcomes by plain loops; matched random sets."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.ablation import (
    Outcome,
    beside_controls,
    linear_scores,
    matched_directions,
    matched_sets,
    scores_along,
)


def test_scores_without_units_are_those_of_a_pass_without_them() -> None:
    generator = torch.Generator().manual_seed(0)
    Q, W = torch.rand(30, 8, generator=generator), torch.randn(5, 8, generator=generator)
    b = torch.randn(5, generator=generator)
    Z, means = Q @ W.T + b, Q.mean(0)
    for units in ([0], [2, 5, 7], list(range(8))):
        for values in (0.0, means[units]):
            changed = Q.clone()
            changed[:, units] = values if isinstance(values, float) else values.expand(30, len(units))
            assert torch.allclose(linear_scores(Z, Q, W, units, values), changed @ W.T + b, atol=1e-5)
    assert torch.equal(linear_scores(Z, Q, W, []), Z)
    with pytest.raises(InputError, match="need \\(N, K\\)"):
        linear_scores(Z, Q[:, :4], W, [0])


def test_outcomes_are_those_of_plain_loops() -> None:
    scores = torch.randn(3, 20, 4, generator=torch.Generator().manual_seed(1)).round(decimals=1)
    classes = torch.arange(20) % 3
    found = Outcome.of(scores, classes)
    correct, margin, own = found.by_class(classes, 4)
    assert bool(correct[:, 4].isnan().all()), "no image is of class 3"
    for u in range(3):
        rows = []
        for i in range(20):
            others = [float(scores[u, i, k]) for k in range(4) if k != classes[i]]
            mine = float(scores[u, i, classes[i]])
            best = max(range(4), key=lambda k, u=u, i=i: (float(scores[u, i, k]), -k))
            rows.append((best == int(classes[i]), mine - max(others), mine))
        for place in range(4):
            own_rows = [row for i, row in enumerate(rows) if place == 0 or classes[i] == place - 1]
            means = [sum(row[axis] for row in own_rows) / len(own_rows) for axis in range(3)]
            got = [float(each[u, place]) for each in (correct, margin, own)]
            assert got == pytest.approx(means, abs=1e-6)


def test_matched_sets_are_others_with_like_means() -> None:
    means = torch.rand(100, generator=torch.Generator().manual_seed(2))
    units = [3, 50, 71]
    sets = matched_sets(means, units, 40)
    assert sets.shape == (40, 3)
    assert all(len(set(row)) == 3 and not set(row) & set(units) for row in sets.tolist())
    assert float((means[sets] - means[units]).abs().max()) < 0.2
    assert len({tuple(row) for row in sets.tolist()}) > 20
    assert matched_sets(means[:5], [0, 1, 2], 4).shape == (0, 3)
    assert matched_sets(means[:6], [0, 1, 2], 4).sort(1).values.tolist() == [[3, 4, 5]] * 4


def test_a_number_beside_controls() -> None:
    controls = torch.tensor([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    mean, deviation, p = beside_controls(torch.tensor([5.0, 1.0]), controls)
    assert mean.tolist() == [1.0, 1.0]
    assert deviation.tolist() == [1.0, 0.0]
    assert p.tolist() == [0.25, 1.0]
    assert math.isnan(float(beside_controls(torch.tensor(1.0), torch.zeros(0))[2]))


def test_random_sets_are_called_different_as_often_as_they_should() -> None:
    """With 19 controls the smallest p is .05: one of 20 random sets has it."""
    values = torch.randn(20, 4000, generator=torch.Generator().manual_seed(3))
    _, _, p = beside_controls(values[0], values[1:])
    assert 0.04 <= float((p <= 0.05 + 1e-9).double().mean()) <= 0.06


def orthonormal(channels: int, count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(channels, count, generator=generator))[0]


def test_scores_without_directions_are_those_of_a_pass_without_them() -> None:
    generator = torch.Generator().manual_seed(6)
    Q, W, b = (torch.randn(*shape, generator=generator) for shape in ((7, 5), (3, 5), (3,)))
    U = orthonormal(5, 2, 7)
    for values in (torch.zeros(2), torch.tensor([0.5, -2.0])):
        found = scores_along(Q @ W.T + b, Q, W, U, values)
        for n in range(7):
            changed = [float(value) for value in Q[n]]
            for k in range(2):
                along = sum(float(Q[n, c]) * float(U[c, k]) for c in range(5))
                for c in range(5):
                    changed[c] += (float(values[k]) - along) * float(U[c, k])
            for j in range(3):
                expected = sum(float(W[j, c]) * changed[c] for c in range(5)) + float(b[j])
                assert float(found[n, j]) == pytest.approx(expected, abs=1e-5)
    # A direction along an axis is a unit.
    one = torch.eye(5)[:, [2]]
    torch.testing.assert_close(scores_along(Q @ W.T, Q, W, one), linear_scores(Q @ W.T, Q, W, [2]))


@pytest.mark.parametrize("count", [1, 2])
def test_random_directions_hold_as_much_and_nothing_of_the_direction(count: int) -> None:
    generator = torch.Generator().manual_seed(8)
    scale = torch.linspace(3.0, 0.1, 24)
    Q = torch.randn(300, 24, generator=generator) * scale + torch.rand(24, generator=generator)
    # Where a lot lies, and where little does.
    for place in (2, 16):
        U = torch.linalg.qr(torch.eye(24)[:, place : place + count] + 0.05 * orthonormal(24, count, 9))[0]
        drawn, size, sizes = matched_directions(Q, U, 20, seed=1)
        assert drawn.shape == (20, 24, count)
        overlap = torch.einsum("cr,dcs->drs", U, drawn)
        assert float(overlap.abs().amax()) < 1e-5
        for own in drawn:
            torch.testing.assert_close(own.T @ own, torch.eye(count), rtol=0, atol=1e-5)
        for k in range(count):
            assert float(size[k]) == pytest.approx(
                math.sqrt(sum(float(q @ U[:, k]) ** 2 for q in Q) / len(Q)), rel=1e-4
            )
        whole = sizes.square().sum(1).sqrt() / size.square().sum().sqrt()
        assert float(whole.mean()) == pytest.approx(1, abs=0.12)
        assert ((whole > 0.8) & (whole < 1.25)).all()
        # They are different ones.
        cosines = (drawn[:, :, 0] @ drawn[:, :, 0].T).fill_diagonal_(0)
        assert float(cosines.abs().mean()) < 0.7
    # Directions that nobody matches would hold far less: what the matching is for.
    anywhere = torch.linalg.qr(torch.randn(20, 24, 1, generator=generator))[0]
    loud = torch.eye(24)[:, [0]]
    plain = (Q @ anywhere).square().mean(1).sqrt().mean()
    assert float(plain) < 0.7 * float((Q @ loud).square().mean().sqrt())


def test_a_random_direction_is_called_at_the_level_of_the_test() -> None:
    """A random direction cut out, among random directions like it: p is uniform in its steps of 1/20."""
    generator = torch.Generator().manual_seed(10)
    Q = torch.randn(200, 12, generator=generator) * torch.linspace(2.0, 0.5, 12)
    W = torch.randn(4, 12, generator=generator)
    classes = (Q @ W.T).argmax(1)
    low = 0
    for seed in range(80):
        U = orthonormal(12, 1, 100 + seed)
        drawn = matched_directions(Q, U, 19, seed=seed)[0]
        margins = [
            Outcome.of(scores_along(Q @ W.T, Q, W, each), classes).margin.double().mean()
            for each in (U, *drawn)
        ]
        low += float(beside_controls(margins[0], torch.stack(margins[1:]))[2]) <= 0.1
    # Two-sided at .1: eight of 80 expected, deviation 2.7.
    assert 1 <= low <= 17


def test_two_channels_have_no_other_directions() -> None:
    drawn, _, sizes = matched_directions(torch.randn(9, 3), torch.eye(3)[:, [0]], 5)
    assert drawn.shape == (0, 3, 1)
    assert sizes.shape == (0, 1)
