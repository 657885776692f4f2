"""Similarity of representations: against plain loops, invariances, independent data, blocks that add up."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from threadpoolctl import ThreadpoolController

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.dynamics import (
    CenteredGrams,
    Centred,
    cka,
    cka_matrix,
    effective_rank,
    finite,
    participation_ratio,
    procrustes,
    pwcca,
    singular_values,
    svcca,
    turned,
    two_nearest_neighbours,
)


def normal(n: int, p: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, p, generator=torch.Generator().manual_seed(seed))


def twin_hsic(X: np.ndarray, Y: np.ndarray) -> float:
    """The unbiased estimate, term by term (Song et al. 2012, equation 5)."""
    n = len(X)
    K, L = (
        np.array([[0.0 if i == j else float(Z[i] @ Z[j]) for j in range(n)] for i in range(n)])
        for Z in (X, Y)
    )
    trace = sum(K[i, j] * L[j, i] for i in range(n) for j in range(n))
    sums = sum(K[i, j] for i in range(n) for j in range(n)) * sum(L[i, j] for i in range(n) for j in range(n))
    chain = sum(K[i, j] * L[j, k] for i in range(n) for j in range(n) for k in range(n))
    return (trace + sums / ((n - 1) * (n - 2)) - 2 / (n - 2) * chain) / (n * (n - 3))


def twin_cka(X: np.ndarray, Y: np.ndarray) -> float:
    return twin_hsic(X, Y) / math.sqrt(twin_hsic(X, X) * twin_hsic(Y, Y))


@pytest.mark.parametrize(("n", "p", "q"), [(4, 3, 2), (9, 4, 6), (12, 20, 3)])
def test_cka_is_that_of_plain_loops(n: int, p: int, q: int) -> None:
    X, Y = normal(n, p, 1), normal(n, q, 2) + normal(n, p, 1)[:, :1]
    assert cka(X, Y) == pytest.approx(twin_cka(X.double().numpy(), Y.double().numpy()), rel=1e-5, abs=1e-6)


def test_cka_does_not_change_with_rotation_scale_shift_and_order_of_images() -> None:
    X, Y = normal(60, 10), normal(60, 6, 1)
    Y[:, :3] += 2 * X[:, :3]
    rotation = torch.linalg.qr(normal(10, 10, 5)).Q
    value = cka(X, Y)
    assert cka(3 * X @ rotation + 7, Y) == pytest.approx(value, abs=1e-5)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    assert cka(X[order], Y[order]) == pytest.approx(value, abs=1e-6)
    assert cka(X, X) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("p", [50, 2000])
def test_independent_data_have_no_similarity(p: int) -> None:
    values = [cka(normal(100, p, 2 * seed), normal(100, p, 2 * seed + 1)) for seed in range(5)]
    assert max(abs(value) for value in values) < 0.03
    assert min(values) < 0  # not clipped


def test_blocks_give_the_value_of_the_whole() -> None:
    X = normal(960, 20)
    Y = X @ normal(20, 15, 3) + 4 * normal(960, 15, 4)
    whole = cka(X, Y)
    assert 0.3 < whole < 0.9
    assert cka(X, Y, block=16) == pytest.approx(whole, abs=0.01)


def test_shards_add_up_to_the_same_numbers() -> None:
    X, Y = normal(256, 12), normal(256, 9, 1)
    Y[:, :4] += X[:, :4]
    whole = [CenteredGrams.of(values) for values in (X, Y)]
    shards = [
        CenteredGrams.joined([CenteredGrams.of(values[:128]), CenteredGrams.of(values[128:])])
        for values in (X, Y)
    ]
    assert torch.equal(cka_matrix(whole), cka_matrix(shards))
    assert whole[0].images == 256


def test_a_last_block_that_is_too_small_is_dropped_and_counted() -> None:
    grams = CenteredGrams.of(normal(67, 5))
    assert (grams.images, grams.dropped) == (64, 3)


def test_all_pairs_are_those_of_two() -> None:
    sets = [normal(40, 6, seed) for seed in range(3)]
    sets[1] += sets[0]
    matrix = cka_matrix([CenteredGrams.of(values) for values in sets])
    assert torch.allclose(matrix, matrix.T)
    assert float(matrix[0, 1]) == pytest.approx(cka(sets[0], sets[1]), abs=1e-6)


def twin_cca(X: np.ndarray, Y: np.ndarray) -> np.ndarray:
    """Canonical correlations from the covariances, with whitening by inverse square roots."""
    X, Y = X - X.mean(0), Y - Y.mean(0)

    def whiten(Z: np.ndarray) -> np.ndarray:
        values, vectors = np.linalg.eigh(Z.T @ Z)
        return Z @ vectors @ np.diag(values**-0.5) @ vectors.T

    return np.linalg.svd(whiten(X).T @ whiten(Y), compute_uv=False)


def test_canonical_correlations_are_those_of_whitened_data() -> None:
    X, Y = normal(80, 5), normal(80, 4, 1)
    Y[:, :2] += X[:, :2]
    expected = twin_cca(X.double().numpy(), Y.double().numpy())
    assert svcca(X, Y, variance=1.0) == pytest.approx(float(expected.mean()), abs=1e-8)


def test_pwcca_weighs_by_the_projections_of_x() -> None:
    X, Y = normal(50, 3).double(), normal(50, 4, 1).double()
    Y[:, 0] += 3 * X[:, 0]
    A, B = (np.linalg.qr((Z - Z.mean(0)).numpy())[0] for Z in (X, Y))
    U, S, _ = np.linalg.svd(A.T @ B, full_matrices=False)
    H, centred = A @ U, (X - X.mean(0)).numpy()
    weights = [sum(abs(float(H[:, i] @ centred[:, j])) for j in range(3)) for i in range(3)]
    expected = sum(w * s for w, s in zip(weights, S, strict=True)) / sum(weights)
    assert pwcca(X, Y) == pytest.approx(expected, abs=1e-9)
    assert pwcca(X, X) == pytest.approx(1, abs=1e-9)


def test_procrustes_is_one_for_a_rotation_and_less_for_another_scale_of_a_direction() -> None:
    X = normal(40, 6)
    rotation = torch.linalg.qr(normal(6, 6, 3)).Q
    assert procrustes(X, 2 * X @ rotation) == pytest.approx(1, abs=1e-6)
    stretched = X * torch.tensor([9.0, 1, 1, 1, 1, 1])
    assert procrustes(X, stretched) < 0.9
    assert svcca(X, stretched, variance=1.0) == pytest.approx(1, abs=1e-6)


def test_more_units_than_images_are_turned_into_as_many_columns_and_no_measure_sees_it() -> None:
    X, Y = normal(30, 70) * torch.linspace(0, 9, 70), normal(30, 90, 1)
    Y[:, :40] += X[:, :40]
    Y[:, 50] = 3.0
    order = torch.randperm(30, generator=torch.Generator().manual_seed(2))
    A, B = turned(X), turned(Y)
    assert A.shape == B.shape == (30, 30)
    for other in (slice(None), order):
        # The literal formula, on the units as they are.
        P, Q = (Z.double().numpy() - Z.double().numpy().mean(0) for Z in (X, Y[other]))
        expected = np.linalg.svd(P.T @ Q, compute_uv=False).sum() / np.linalg.norm(P) / np.linalg.norm(Q)
        assert procrustes(A, B[other]) == pytest.approx(expected, abs=1e-12)
        assert cka(A, B[other]) == pytest.approx(cka(X, Y[other]), abs=1e-6)
    singular = np.linalg.svd(X.double().numpy() - X.double().numpy().mean(0), compute_uv=False)
    np.testing.assert_allclose(singular_values(A).numpy(), singular, atol=1e-10)
    for measure in (effective_rank, participation_ratio, two_nearest_neighbours):
        assert measure(A) == pytest.approx(measure(X), rel=1e-9)
    for measure in (effective_rank, participation_ratio):
        assert measure(X, singular_values(A)) == pytest.approx(measure(X), rel=1e-9)
    few = normal(30, 30)
    assert turned(few) is few


def test_what_one_outlying_group_makes_shows_beside_procrustes() -> None:
    X, Y = normal(100, 20), normal(100, 20, 1)
    X[:10] += 20
    Y[:10] += 20
    assert cka(X, Y) > 0.9
    assert procrustes(X, Y) < cka(X, Y)


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_dimensions_of_planted_data(dimension: int) -> None:
    X = normal(1500, dimension) @ torch.linalg.qr(normal(20, dimension, 2)).Q.T
    assert participation_ratio(X) == pytest.approx(dimension, rel=0.1)
    assert effective_rank(X) == pytest.approx(dimension, rel=0.1)
    assert two_nearest_neighbours(X) == pytest.approx(dimension, rel=0.15)


def test_dimensions_are_those_of_plain_formulas() -> None:
    X = (normal(30, 4) * torch.tensor([1.0, 2, 3, 4])).double()
    covariance = np.cov(X.numpy().T)
    eigen = np.linalg.eigvalsh(covariance)
    assert participation_ratio(X) == pytest.approx(eigen.sum() ** 2 / (eigen**2).sum(), rel=1e-9)
    s = np.sqrt(eigen) / np.sqrt(eigen).sum()
    assert effective_rank(X) == pytest.approx(math.exp(-(s * np.log(s)).sum()), rel=1e-9)
    distances = np.linalg.norm(X.numpy()[:, None] - X.numpy()[None], axis=2) + np.diag([np.inf] * 30)
    nearest = np.sort(distances, axis=1)[:, :2]
    assert two_nearest_neighbours(X) == pytest.approx(
        30 / np.log(nearest[:, 1] / nearest[:, 0]).sum(), rel=1e-9
    )


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_copies_are_left_out_whose_activations_differ_by_rounding(scale: float) -> None:
    generator = torch.Generator().manual_seed(3)
    X = torch.randn(300, 500, generator=generator).relu() * scale
    alone = two_nearest_neighbours(X[1:])
    # Another batch size gives a copy other last digits; and so does turning the layer.
    X[1] = X[0] * (1 + 1e-7 * torch.randn(500, generator=generator))
    X[2] = X[3]
    for given in (X, Centred(turned(X), X.dtype)):
        assert two_nearest_neighbours(given) == pytest.approx(alone, rel=0.05)


def test_a_layer_that_is_the_same_on_all_images_has_no_similarity_when_turned() -> None:
    generator = torch.Generator().manual_seed(4)
    same, other = (
        torch.rand(1, 90, generator=generator).expand(40, 90),
        torch.randn(40, 90, generator=generator),
    )
    A, B = turned(same), turned(other)
    for measure in (svcca, pwcca, procrustes):
        assert math.isnan(measure(A, B))
    for dimension in (effective_rank, participation_ratio, two_nearest_neighbours):
        assert math.isnan(dimension(A))


def test_copies_have_no_distance_and_are_left_out() -> None:
    X = normal(60, 3)
    assert math.isfinite(two_nearest_neighbours(torch.cat([X, X[:5]])))


def test_a_layer_that_does_not_vary_has_no_similarity_and_no_dimension() -> None:
    X, flat = normal(20, 3), torch.ones(20, 4)
    for measure in (cka, svcca, pwcca, procrustes):
        assert math.isnan(measure(X, flat)), measure.__name__
    for dimension in (effective_rank, participation_ratio, two_nearest_neighbours):
        assert math.isnan(dimension(flat)), dimension.__name__


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(InputError, match="same"):
        cka(normal(10, 2), normal(11, 2))
    with pytest.raises(InputError, match="at least 4"):
        cka(normal(3, 2), normal(3, 2))
    bad = normal(10, 2)
    bad[0, 0] = torch.nan
    with pytest.raises(InputError, match="not a number"):
        svcca(bad, normal(10, 2))


@pytest.mark.parametrize("rank", [270, 3])
def test_large_layers_have_the_values_of_plain_decompositions(rank: int) -> None:
    X, Y = (normal(300, rank, seed) @ normal(rank, 270, seed + 2) + 5 for seed in (0, 1))
    A, B = (Z.double().numpy() - Z.double().numpy().mean(0) for Z in (X, Y))
    S = np.linalg.svd(A, compute_uv=False)
    assert singular_values(X).numpy() == pytest.approx(S, abs=1e-7 * S[0])
    shares = S[1e-9 * S[0] < S] / S.sum()
    # Of data of rank 3 the rounding errors of float32 are directions, too, but hardly count.
    assert effective_rank(X) == pytest.approx(math.exp(-(shares * np.log(shares)).sum()), rel=1e-6)
    nuclear = np.linalg.svd(A.T @ B, compute_uv=False).sum()
    assert procrustes(X, Y) == pytest.approx(nuclear / np.linalg.norm(A) / np.linalg.norm(B), rel=1e-6)
    assert procrustes(X, X) == pytest.approx(1, abs=1e-6)


def test_the_two_nearest_of_many_images_are_those_of_all_distances() -> None:
    X = normal(600, 4) + 1000  # far from the origin inner products round
    X[500:520] = X[500]  # more copies than are looked at twice
    X[7] = X[8] + 1e-3
    distance = np.linalg.norm(X[:, None].double().numpy() - X[None].double().numpy(), axis=2)
    np.fill_diagonal(distance, np.inf)
    first, second = np.sort(distance, axis=1)[:, :2].T
    known = first > 0
    assert known.sum() == 580
    expected = known.sum() / np.log(second[known] / first[known]).sum()
    assert two_nearest_neighbours(X) == pytest.approx(expected, rel=1e-9)


def test_close_neighbours_in_far_groups_are_told_apart_without_the_rounding_of_inner_products() -> None:
    places = normal(60, 5).double() * 1e6
    X = places.repeat_interleave(6, dim=0) + 1e-3 * normal(360, 5, seed=1).double()
    distance = torch.cdist(X, X, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(torch.inf)
    first, second = distance.topk(2, largest=False).values.T
    expected = len(X) / float((second / first).log().sum())
    assert two_nearest_neighbours(X) == pytest.approx(expected, rel=1e-4)


def test_a_large_layer_of_low_rank_has_no_dimensions_of_rounding_errors() -> None:
    X = normal(400, 20).double() @ normal(20, 300, seed=1).double()
    found = singular_values(X)
    assert found[19] > 0.1 * found[0]
    assert float(found[20:].max()) < 1e-12 * float(found[0])


def test_grams_in_several_orders_are_those_of_the_images_in_these_orders() -> None:
    X = normal(130, 7)
    order = torch.randperm(130, generator=torch.Generator().manual_seed(1))
    plain, shuffled = CenteredGrams.in_orders(X, (None, order), 32)
    for found, values in ((plain, X), (shuffled, X[order])):
        expected = CenteredGrams.of(values, 32)
        assert found.dropped == expected.dropped == 2
        assert all(torch.equal(a, b) for a, b in zip(found.grams, expected.grams, strict=True))


@pytest.mark.parametrize(("n", "p"), [(60, 5), (560, 260)])
def test_what_is_decomposed_once_has_the_values_of_the_activations(n: int, p: int) -> None:
    X, Y = normal(n, p), normal(n, p, 1)
    Y[:, :3] += X[:, :3]
    order = torch.randperm(n, generator=torch.Generator().manual_seed(2))
    A, B = Centred(X), Centred(Y)
    for measure in (svcca, pwcca, procrustes):
        for other, given in ((B, Y), (B.permuted(order), Y[order])):
            assert measure(A, other) == pytest.approx(measure(X, given), abs=1e-10), measure.__name__
    assert procrustes(A, B.permuted(order)) < procrustes(A, B) - 0.001
    for dimension in (effective_rank, participation_ratio, two_nearest_neighbours):
        assert dimension(A) == pytest.approx(dimension(X), rel=1e-12), dimension.__name__


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_single_value_that_is_not_finite_is_seen(bad: float) -> None:
    values = normal(40, 30)
    assert finite(values)
    assert finite(values[:0])
    values[17, 3] = bad
    assert not finite(values)


def test_grams_leave_the_activations_as_they_are() -> None:
    """Also where they are float64 and nothing is converted."""
    X = torch.randn(50, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 3
    before = X.clone()
    CenteredGrams.in_orders(X, (None, torch.randperm(50)), block=25)
    assert torch.equal(X, before)


@pytest.mark.parametrize("shape", [(200, 90), (67, 300)])
def test_grams_are_the_same_on_any_number_of_threads_and_numpy_keeps_its_own(shape: tuple[int, int]) -> None:
    X = normal(*shape)
    order = torch.randperm(len(X), generator=torch.Generator().manual_seed(1))
    before, threads, found = ThreadpoolController().info(), torch.get_num_threads(), []
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            found.append(CenteredGrams.in_orders(X, (None, order)))
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(*found, strict=True):
        assert len(one.grams) == len(X) // 64 + (len(X) % 64 >= 4)
        for gram, again in zip(one.grams, other.grams, strict=True):
            square = gram.view(math.isqrt(len(gram)), -1)
            assert torch.equal(gram, again)
            assert torch.equal(square, square.T)
    assert ThreadpoolController().info() == before
