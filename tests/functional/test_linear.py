"""Sparse sums: equal to refitting every candidate, planted sets found, parts that share no group, chance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.groups import ImageGroups
from concept_monitor_cli.functional.linear import (
    correlations,
    forward_selection,
    predicted,
    sparse_sums,
    standardise,
    three_parts,
)

Array = NDArray[np.float64]


def refitted(P: Array, q: Array, steps: int) -> tuple[list[int], list[Array]]:
    """Forward selection by a least-squares fit of all weights for every candidate of every step."""
    chosen: list[int] = []
    weights: list[Array] = []
    for _ in range(steps):
        errors = {}
        for m in range(P.shape[1]):
            if m not in chosen:
                fit, *_ = np.linalg.lstsq(P[:, [*chosen, m]], q, rcond=None)
                errors[m] = (float(((q - P[:, [*chosen, m]] @ fit) ** 2).sum()), fit)
        best = min(errors, key=lambda m: errors[m][0])
        chosen.append(best)
        weights.append(errors[best][1])
    return chosen, weights


@pytest.mark.parametrize("seed", range(8))
def test_selection_is_that_of_refitting_every_candidate(seed: int) -> None:
    rng = np.random.default_rng(seed)
    P = rng.normal(size=(60, 12)) @ rng.normal(size=(12, 12))  # concepts that go together
    q = P[:, :3] @ rng.normal(size=3) + rng.normal(size=60)
    chosen, weights = forward_selection(torch.from_numpy(P), torch.from_numpy(q), 6)
    expected, fits = refitted(P, q, 6)
    assert chosen == expected
    for own, fit in zip(weights, fits, strict=True):
        np.testing.assert_allclose(own.numpy(), fit, rtol=1e-7, atol=1e-9)


def test_a_concept_that_others_make_up_does_not_join() -> None:
    rng = np.random.default_rng(0)
    P = rng.normal(size=(50, 3))
    P = np.column_stack([P, P[:, 0], P[:, 0] + P[:, 1], np.zeros(50)])
    chosen, _ = forward_selection(torch.from_numpy(P), torch.from_numpy(rng.normal(size=50)), 6)
    assert len(chosen) == 3


def world(seed: int, n: int = 400, concepts: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    present = (torch.rand(n, concepts, generator=generator) < 0.25).double()
    parts = three_parts(ImageGroups.single(n), seed=seed)
    return standardise(present, parts == 0), parts


def test_planted_sets_are_found_with_their_signs() -> None:
    P, parts = world(1)
    generator = torch.Generator().manual_seed(2)
    for trial in range(20):
        own = torch.randperm(40, generator=generator)[:4]
        weights = torch.tensor([0.7, 0.5, 0.4, -0.6], dtype=torch.float64)
        q = P[:, own] @ weights + 0.3 * torch.randn(len(P), generator=generator).double()
        Q = standardise(q[:, None], parts == 0)
        sums = sparse_sums(P, Q, parts)
        found = sums.concepts[0][sums.concepts[0] >= 0]
        assert set(found.tolist()) == set(own.tolist()), trial
        signs = dict(zip(found.tolist(), sums.weights[0].sign().tolist(), strict=False))
        assert [signs[concept] for concept in own.tolist()] == [1, 1, 1, -1]
        last = parts == 2
        assert float(correlations(predicted(sums, P[last]), Q[last])[0]) > 0.9


def test_at_most_so_many_join_and_each_adds_enough() -> None:
    P, parts = world(3)
    Q = standardise(P[:, :8].sum(1, keepdim=True), parts == 0)
    sums = sparse_sums(P, Q, parts, most=5)
    assert sums.lengths.tolist() == [5]
    every = sparse_sums(P, Q, parts, most=30, least_gain=0.03)
    gains = every.gains[0][every.concepts[0] >= 0]
    assert float(gains.min()) >= 0.03
    # The gains add up to the share of held-out variance that the sum explains.
    stop = parts == 1
    left = (Q[stop] - predicted(every, P[stop])).var(0) / Q[stop].var(0)
    assert float(gains.sum()) == pytest.approx(1 - float(left[0]), abs=1e-9)


def test_blind_units_predict_nothing() -> None:
    P, parts = world(4)
    Q = standardise(torch.randn(400, 100, generator=torch.Generator().manual_seed(0)), parts == 0)
    sums = sparse_sums(P, Q, parts)
    last = parts == 2
    r = correlations(predicted(sums, P[last]), Q[last])
    assert abs(float(r.mean())) < 0.05
    assert float((sums.lengths > 0).double().mean()) < 0.5


def test_parts_share_no_group_and_have_their_sizes() -> None:
    groups = ImageGroups.read(np.arange(200) // 4)
    parts = three_parts(groups, seed=3)
    for group in range(50):
        assert len(parts[group * 4 : group * 4 + 4].unique()) == 1
    assert np.abs(parts.bincount().numpy() - [100, 50, 50]).max() <= 4
    assert not torch.equal(parts, three_parts(groups, seed=4))


def test_columns_without_numbers_and_flat_ones_are_zero() -> None:
    values = torch.tensor([[1.0, 5.0, torch.nan], [3.0, 5.0, 1.0], [torch.nan, 9.0, 3.0], [9.0, 5.0, 2.0]])
    found = standardise(values, torch.tensor([True, True, False, False]))
    assert found[:, 0].tolist() == [-1.0, 1.0, 0.0, 7.0]
    assert found[:, 1].tolist() == [0.0] * 4
    assert found[:, 2].tolist() == [0.0] * 4  # one number has no spread
    assert correlations(torch.ones(4, 1), torch.rand(4, 1)).tolist() == [0.0]


def test_shapes_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(InputError, match="need"):
        sparse_sums(torch.zeros(4, 2), torch.zeros(3, 1), torch.zeros(4))
    with pytest.raises(InputError, match="no images"):
        sparse_sums(torch.zeros(4, 2), torch.zeros(4, 1), torch.zeros(4))
