from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional import embedding
from concept_monitor_cli.functional.embedding import (
    directions,
    group_spreads,
    interpolated,
    nearest,
    nearest_anchor,
    neuron_embedding,
    neuron_embedding_from_top,
    spread,
)
from concept_monitor_cli.functional.topk import top_rows
from tests.functional import twins


def vectors(n: int, d: int, seed: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(n, d, generator=g) + 0.3, dim=1)


@pytest.mark.parametrize("k", [1, 5, 40])
@pytest.mark.parametrize("concepts", [1, 3, 30])
def test_eq_1_agrees_with_its_twin(concepts: int, k: int) -> None:
    g = torch.Generator().manual_seed(0)
    scores = (torch.randn(20, concepts, generator=g) * 8).round() / 2  # ties
    scores[3] = torch.nan
    scores[4, 0] = torch.nan
    texts = vectors(concepts, 16, 1)
    result = neuron_embedding(scores, texts, k)
    expected = twins.neuron_embedding(scores.double().numpy(), texts.double().numpy(), k)
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-6)
    assert result[3].isnan().all()


def test_the_same_from_a_table_of_the_best() -> None:
    scores = torch.randn(20, 30, generator=torch.Generator().manual_seed(0))
    scores[3] = torch.nan
    texts = vectors(30, 16, 1)
    indices, values = top_rows(scores, 5)
    indices[3] = -1  # what a table has for a dead unit
    torch.testing.assert_close(
        neuron_embedding_from_top(values, indices, texts), neuron_embedding(scores, texts), equal_nan=True
    )


def test_blocks_of_units_give_what_all_at_once_give(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = torch.randn(50, 30, generator=torch.Generator().manual_seed(0))
    scores[3] = torch.nan
    texts, anchors = vectors(30, 16, 1), vectors(6, 16, 4)
    indices, values = top_rows(scores, 5)
    at_once = neuron_embedding_from_top(values, indices, texts)
    nearest = nearest_anchor(at_once, anchors)
    gathered: list[int] = []
    average = torch.einsum

    def recorded(equation: str, *operands: torch.Tensor) -> torch.Tensor:
        gathered.append(len(operands[0]))
        return average(equation, *operands)

    monkeypatch.setattr(embedding, "_AVERAGED", 7)
    monkeypatch.setattr(torch, "einsum", recorded)
    in_blocks = neuron_embedding_from_top(values, indices, texts)
    # A table of all epochs: the concepts of all units side by side would be five times the result.
    assert max(gathered) == 7
    torch.testing.assert_close(in_blocks, at_once, rtol=0, atol=0, equal_nan=True)
    for one, other in zip(nearest, nearest_anchor(at_once, anchors), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def test_wpmi_sized_scores_do_not_overflow() -> None:
    u = neuron_embedding(torch.tensor([[-900.0, -901.0, -2000.0], [900.0, 10.0, 0.0]]), torch.eye(3))
    assert u.isfinite().all()
    np.testing.assert_allclose(u[0, 0] / u[0, 1], math.e, rtol=1e-5)


def test_spread_is_the_mean_over_pairs() -> None:
    U = vectors(40, 8, 2) * torch.linspace(0.1, 9, 40)[:, None]
    U[5] = torch.nan
    U[6] = 0.0
    assert spread(U) == pytest.approx(twins.spread(U.double().numpy()), abs=1e-9)
    assert spread(U[:1].expand(7, -1)) == pytest.approx(0.0, abs=1e-12)
    assert spread(torch.tensor([[1.0, 0.0], [-3.0, 0.0]])) == pytest.approx(2.0)
    assert math.isnan(spread(U[:1]))
    assert math.isnan(spread(torch.full((4, 3), torch.nan)))


def test_spreads_of_groups_are_those_of_each_group_alone() -> None:
    U = torch.randn(9, 4, generator=torch.Generator().manual_seed(3))
    U[2] = torch.nan  # a dead unit
    U[5] = 0
    members = torch.tensor([[1] * 9, [1, 1, 1, 1, 0, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1, 1, 1, 1]]).bool()
    found = group_spreads(directions(U), members)
    expected = [twins.spread(U[own & U.abs().sum(1).gt(0)].double().numpy()) for own in members]
    assert found.tolist() == pytest.approx(expected, abs=1e-9)
    # The dead unit does not make a pair, nor does a group of one.
    few = torch.tensor([[0, 1, 1, 0, 0, 1, 0, 0, 0], [1] + [0] * 8]).bool()
    assert group_spreads(directions(U), few).isnan().all()


def test_nearest_anchor_agrees_with_its_twin() -> None:
    U, anchors = vectors(30, 8, 3) * 2.5, vectors(6, 8, 4)
    U[2] = torch.nan
    index, distance = nearest_anchor(U, anchors)
    for c in range(30):
        if c == 2:
            assert index[c] == -1
            assert distance[c].isnan()
            continue
        every = [twins.cosine_distance(U[c].double().numpy(), a.double().numpy()) for a in anchors]
        assert index[c] == int(np.argmin(every))
        assert float(distance[c]) == pytest.approx(min(every), abs=1e-6)


def test_an_anchor_is_at_no_distance_from_itself_and_ties_go_to_the_first() -> None:
    anchors = torch.eye(3)[[1, 0, 1]]
    index, distance = nearest_anchor(torch.eye(3)[:2], anchors)
    assert index.tolist() == [1, 0]
    assert distance.tolist() == [0.0, 0.0]


def test_bad_arguments() -> None:
    with pytest.raises(InputError, match="no anchors"):
        nearest_anchor(torch.eye(3), torch.empty(0, 3))
    with pytest.raises(InputError):
        nearest_anchor(torch.eye(3), torch.eye(2))
    with pytest.raises(InputError):
        neuron_embedding(torch.rand(4, 3), torch.eye(2))
    with pytest.raises(InputError):
        neuron_embedding_from_top(torch.rand(4, 3), torch.zeros(4, 2).long(), torch.eye(2))


def test_places_between_known_points_agree_with_their_twin() -> None:
    rng = np.random.default_rng(4)
    known, points = rng.normal(size=(30, 5)), rng.normal(size=(700, 5))
    places = rng.normal(size=(30, 2))
    points[3], points[4] = 2.5 * known[7], known[8]
    known[9], places[9] = known[8] * 0.5, places[8] + 1.0
    given = [torch.from_numpy(each).float() for each in (points, known, places)]
    for k in (1, 4, 99):
        found = interpolated(*given, k)
        for u in range(0, 700, 50):
            cosines = [
                sum(a * b for a, b in zip(points[u], v, strict=True))
                / math.hypot(*points[u])
                / math.hypot(*v)
                for v in known
            ]
            near = sorted(range(30), key=lambda j: -cosines[j])[:k]
            weights = [1 / (1 - cosines[j]) for j in near]
            for axis in range(2):
                mean = sum(w * places[j, axis] for w, j in zip(weights, near, strict=True)) / sum(weights)
                assert found[u, axis].item() == pytest.approx(mean, rel=1e-3, abs=1e-4)
    # In the direction of one known point, and of two.
    torch.testing.assert_close(interpolated(*given, 4)[3], given[2][7])
    torch.testing.assert_close(interpolated(*given, 4)[4], given[2][8:10].mean(0))


def test_places_do_not_depend_on_the_number_of_threads_or_points() -> None:
    generator = torch.Generator().manual_seed(0)
    points, known = (torch.randn(n, 16, generator=generator) for n in (1030, 300))
    places = torch.randn(300, 2, generator=generator)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = interpolated(points, known, places, 15)
        torch.set_num_threads(3)
        assert torch.equal(interpolated(points, known, places, 15), alone)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(interpolated(points[:512], known, places, 15), alone[:512])
    with pytest.raises(InputError):
        interpolated(points, known[:, :4], places, 15)
    with pytest.raises(InputError):
        interpolated(points, known, places[:4], 15)


# -- neighbours ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 4, 15, 80])
def test_the_nearest_equal_their_twin_copies_in_order_and_each_itself_first(
    k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = torch.randn(60, 7, generator=torch.Generator().manual_seed(0))
    points[31], points[9] = 2 * points[4], points[4]
    points[50] = -points[20]
    indices, distances = nearest(points, k)
    wide = points.double().numpy()
    for i in range(60):
        expected = []
        for j in range(60):
            cosine = sum(wide[i] * wide[j]) / math.sqrt(sum(wide[i] ** 2) * sum(wide[j] ** 2))
            distance = 0.0 if j == i or 1 - cosine < 1e-12 else 1 - cosine
            expected.append((j != i, distance, j))
        expected.sort()
        assert indices[i].tolist() == [j for *_, j in expected[:k]]
        wanted = [distance for _, distance, _ in expected[:k]]
        np.testing.assert_allclose(distances[i].numpy(), wanted, rtol=2e-6, atol=1e-12)
    assert distances[4, : min(k, 3)].tolist() == [0.0] * min(k, 3)
    monkeypatch.setattr(embedding, "_PLACED", 7)
    threads = torch.get_num_threads()
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            again = nearest(points, k)
            assert torch.equal(again[0], indices)
            assert torch.equal(again[1], distances)
    finally:
        torch.set_num_threads(threads)


def test_nothing_is_nearest_to_no_points() -> None:
    with pytest.raises(InputError, match="nearest"):
        nearest(torch.zeros(3), 1)
    with pytest.raises(InputError, match="nearest"):
        nearest(torch.eye(3), 0)
