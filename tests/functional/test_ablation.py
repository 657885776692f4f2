"""Scores without units against a pass without them; outcomes by plain loops; matched random sets."""

from __future__ import annotations

import math

import pytest
import torch

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.ablation import (
    Outcome,
    beside_controls,
    linear_scores,
    matched_sets,
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
