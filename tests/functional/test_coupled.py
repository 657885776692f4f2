"""Coupled factorisation: plain loops, scikit-learn, planted answers, and what can go wrong."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from late import Late

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.coupled import (
    balanced,
    coupled_factors,
    group_sparse_factors,
    nonnegative_loadings,
    published_factors,
    residual,
)
from concept_monitor_cli.functional.factor_matching import factor_stability, matched, rank_agreement

optimize = Late("scipy.optimize")
decomposition = Late("sklearn.decomposition")

Array = np.ndarray


def planted(
    n: int = 120, sizes: tuple[int, ...] = (12, 9, 7), factors: int = 4, seed: int = 0, noise: float = 0.0
) -> tuple[list[torch.Tensor], Array]:
    """Blocks of sparse factors that are strong in some blocks and weak in others, and the true `F`."""
    rng = np.random.default_rng(seed)
    F = rng.gamma(0.6, size=(n, factors)) * (rng.random((n, factors)) < 0.4)
    blocks = []
    for size in sizes:
        W = rng.gamma(0.5, size=(size, factors)) * (rng.random((size, factors)) < 0.5) + 1e-3
        X = F @ (W * rng.uniform(0.1, 2, factors)).T
        blocks.append(torch.from_numpy(X + noise * rng.random(X.shape)))
    return blocks, F


def lowest_cosine(found: torch.Tensor, true: Array) -> float:
    return float(matched(torch.from_numpy(true), found)[1].min())


# -- twins ---------------------------------------------------------------------------------------------------


def twin_sweep(X: Array, F: Array, W: Array, ridge: Array, ridge_images: float) -> None:
    """One update of every column of `W`, then of `F`, in place, an entry at a time."""
    d = F.shape[1]
    for k in range(d):
        for p in range(W.shape[0]):
            rest = X[:, p] - sum(F[:, j] * W[p, j] for j in range(d) if j != k)
            W[p, k] = max(0.0, float(F[:, k] @ rest) / (float(F[:, k] @ F[:, k]) + ridge[p]))
    for k in range(d):
        for n in range(F.shape[0]):
            rest = X[n] - sum(F[n, j] * W[:, j] for j in range(d) if j != k)
            F[n, k] = max(0.0, float(W[:, k] @ rest) / (float(W[:, k] @ W[:, k]) + ridge_images))


def twin_nndsvd(X: Array, d: int) -> Array:
    """The features' side of NNDSVD of a block (features x images), zeros kept."""
    U, S, Vt = np.linalg.svd(X, full_matrices=False)
    W = np.zeros((X.shape[0], d))
    for k in range(d):
        best = (-1.0, None)
        for sign in (1.0, -1.0):
            u = np.array([max(sign * value, 0.0) for value in U[:, k]])
            v = np.array([max(sign * value, 0.0) for value in Vt[k]])
            length = np.sqrt((u**2).sum())
            product = length * np.sqrt((v**2).sum())
            if product > best[0]:
                best = (product, u / max(length, 1e-300))
        W[:, k] = np.sqrt(S[k] * best[0]) * best[1]
    return W


def twin_published(
    pixels: list[Array], layers: list[Array], F: Array, iterations: int, lP: float, lO: float, lF: float
) -> tuple[Array, list[Array]]:
    """Equation 3.2 with the paper's shapes: blocks features x images, `F` factors x images."""
    d = F.shape[0]
    P, A = [twin_nndsvd(D, d) for D in pixels], [twin_nndsvd(A, d) for A in layers]
    e = 1e-9
    for _ in range(iterations):
        above, below = np.zeros_like(F), np.zeros_like(F)
        for block, loadings in [*zip(pixels, P, strict=True), *zip(layers, A, strict=True)]:
            above += loadings.T @ block
            below += loadings.T @ loadings @ F
        F = F * above / (below + lF * (1 + F) + e)
        for kind, blocks, sides in (("P", pixels, P), ("O", layers, A)):
            for i, block in enumerate(blocks):
                penalty = lP * sides[i] if kind == "P" else lO * (1 + sides[i])
                sides[i] = sides[i] * (block @ F.T) / (sides[i] @ F @ F.T + penalty + e)
                for k in range(d):
                    length = np.sqrt((sides[i][:, k] ** 2).sum())
                    if length > 0:
                        sides[i][:, k] /= length
    return F, P + A


@pytest.mark.parametrize(("ridge", "ridge_images"), [((0.0, 0.0), 0.0), ((0.3, 0.0), 0.2)])
def test_a_sweep_is_that_of_plain_loops(ridge: tuple[float, float], ridge_images: float) -> None:
    rng = np.random.default_rng(1)
    blocks = [rng.random((6, 4)), rng.random((6, 3))]
    F, Ws = rng.random((6, 2)), [rng.random((4, 2)), rng.random((3, 2))]
    found = coupled_factors(
        [torch.from_numpy(block) for block in blocks],
        2,
        start=(torch.from_numpy(F), [torch.from_numpy(W) for W in Ws]),
        ridge=ridge,
        ridge_images=ridge_images,
        sweeps=1,
        inner=1,
    )
    X, W = np.concatenate(blocks, 1), np.concatenate(Ws)
    weights = np.repeat(ridge, [4, 3])
    F = F.copy()
    twin_sweep(X, F, W, weights, ridge_images)
    product = found.F @ torch.cat(found.W).T
    assert np.allclose(product.numpy(), F @ W.T, atol=1e-12)
    objective = ((X - F @ W.T) ** 2).sum() + (weights[:, None] * W**2).sum() + ridge_images * (F**2).sum()
    assert found.objective[-1] == pytest.approx(objective, abs=1e-12)


def test_a_sweep_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(2)
    X, F, W = rng.gamma(0.4, size=(30, 12)), rng.random((30, 3)), rng.random((12, 3))
    start = (torch.from_numpy(F), [torch.from_numpy(W)])
    found = coupled_factors([torch.from_numpy(X)], 3, start=start, sweeps=1, inner=1)
    model = decomposition.NMF(3, solver="cd", init="custom", shuffle=False, max_iter=1)
    loadings = model.fit_transform(X.T.copy(), W=W.copy(), H=F.T.copy())
    assert np.allclose(
        (found.F @ found.W[0].T).numpy(), (loadings @ model.components_).T, atol=1e-12, rtol=1e-12
    )


@pytest.mark.parametrize("penalties", [(0.0, 0.0, 0.0), (0.01, 0.02, 0.03)])
def test_published_is_the_papers_iteration(penalties: tuple[float, float, float]) -> None:
    blocks, _ = planted(n=40, sizes=(8, 9, 10), factors=3, noise=0.1)
    start = np.random.default_rng(4).random((3, 40))
    found = published_factors(blocks[:2], blocks[2:], 3, start=torch.from_numpy(start.T), penalties=penalties)
    arrays = [block.numpy().T for block in blocks]
    F, sides = twin_published(arrays[:2], arrays[2:], start, 50, *penalties)
    assert np.abs(found.F.numpy().T - F).max() < 1e-10 * max(1.0, np.abs(F).max())
    for ours, theirs in zip(found.W, sides, strict=True):
        assert np.abs(ours.numpy() - theirs).max() < 1e-10
    assert len(found.objective) == 50


def test_loadings_are_those_of_scipys_least_squares() -> None:
    rng = np.random.default_rng(5)
    X, F = rng.random((25, 6)), rng.random((25, 4))
    F[:, 2] = 0
    W = nonnegative_loadings(torch.from_numpy(X), torch.from_numpy(F), tolerance=1e-13)
    expected = np.stack([optimize.nnls(F, X[:, p])[0] for p in range(6)])
    assert np.allclose(W.numpy(), expected, atol=1e-8)
    assert float(W[:, 2].abs().max()) == 0
    assert residual(torch.from_numpy(X), torch.from_numpy(F), W) == pytest.approx(
        ((X - F @ expected.T) ** 2).sum() / (X**2).sum(), abs=1e-9
    )


def twin_group_cost(X: Array, F: Array, W: Array, groups: Array, weight: float) -> float:
    penalty = 0.0
    for k in range(F.shape[1]):
        for group in set(groups.tolist()):
            penalty += np.sqrt(sum(F[n, k] ** 2 for n in range(len(F)) if groups[n] == group))
    return 0.5 * float(((X - F @ W.T) ** 2).sum()) + weight * penalty


# -- planted answers and other solvers -----------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_planted_factors_of_several_blocks_are_found(seed: int) -> None:
    blocks, F = planted(seed=seed)
    found = coupled_factors(balanced(blocks)[0], 4)
    assert lowest_cosine(found.F, F) >= 0.99
    assert found.objective[-1] < 0.01
    # Permuted images leave nothing of them.
    shuffled = torch.from_numpy(F[np.random.default_rng(seed).permutation(len(F))])
    assert float(matched(shuffled, found.F)[1].mean()) < 0.6


def test_the_published_iteration_forbids_what_the_blocks_are_made_of() -> None:
    # Strong in one block and weak in the other: columns of unit length in each cannot say so.
    blocks, F = planted(n=150, sizes=(20, 20, 20), seed=3)
    scaled = balanced(blocks)[0]
    ours = coupled_factors(scaled, 4)
    theirs = published_factors([], scaled, 4, iterations=200)
    assert theirs.objective[-1] > 10 * ours.objective[-1]
    assert lowest_cosine(theirs.F, F) < lowest_cosine(ours.F, F)
    assert all(np.allclose(W.norm(dim=0), 1) for W in theirs.W)


def test_the_objective_never_rises() -> None:
    for seed in range(5):
        blocks, _ = planted(seed=seed, noise=0.3)
        for options in ({}, {"ridge": (0.1, 0.2, 0.0), "ridge_images": 0.05}, {"inner": 1}):
            found = coupled_factors(blocks, 6, seed=seed, sweeps=80, tolerance=0, **options)  # type: ignore[arg-type]
            steps = itertools.pairwise(found.objective)
            assert all(after <= before * (1 + 1e-12) for before, after in steps)


def test_residual_comes_within_two_per_cent_of_scikit_learns_in_its_time_or_less() -> None:
    rng = np.random.default_rng(6)
    F, W = rng.gamma(0.4, size=(2000, 12)), rng.gamma(0.3, size=(168, 12))
    X = F @ W.T + 0.2 * rng.gamma(1, size=(2000, 168))
    blocks = [torch.from_numpy(X[:, :60].copy()), torch.from_numpy(X[:, 60:].copy())]
    model = decomposition.NMF(10, init="nndsvda", solver="cd", max_iter=300, tol=1e-6)
    theirs = least_time(lambda: model.fit(X))
    bound = 1.02 * model.reconstruction_err_
    found = coupled_factors(blocks, 10)
    assert found.objective[-1] ** 0.5 <= bound
    enough = next(i for i, value in enumerate(found.objective, 1) if value**0.5 <= bound)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ours = least_time(lambda: coupled_factors(blocks, 10, sweeps=enough))
    finally:
        torch.set_num_threads(threads)
    assert ours <= theirs


@pytest.mark.slow
def test_ten_thousand_images_of_a_thousand_units_take_ten_seconds_on_two_cores() -> None:
    # Rectified mixtures of more sources than factors, with noise: the fit takes hundreds of sweeps.
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(10_000, 60)) @ rng.normal(size=(60, 1000)) / 8
    X = torch.from_numpy(np.maximum(mixed + 0.5 * rng.normal(size=mixed.shape) - 0.3, 0))
    begun = time.process_time()
    found = coupled_factors(balanced([X])[0], 20)
    spent = time.process_time() - begun
    assert len(found.objective) > 50
    assert spent < 20, "seconds of two processors"


def least_time(work: Callable[[], object], repeats: int = 3) -> float:
    """Seconds of the processor."""
    found = []
    for _ in range(repeats):
        begun = time.process_time()
        work()
        found.append(time.process_time() - begun)
    return min(found)


def test_groups_a_factor_has_no_part_in_are_exactly_zero() -> None:
    rng = np.random.default_rng(7)
    groups = np.repeat(np.arange(8), 30)
    part = np.zeros((8, 6), dtype=bool)
    for k in range(6):
        part[rng.choice(8, 3, replace=False), k] = True
    F = rng.gamma(1.0, size=(240, 6)) * part[groups]
    blocks = []
    for size in (40, 30):
        W = rng.gamma(0.5, size=(size, 6)) * (rng.random((size, 6)) < 0.4)
        blocks.append(torch.from_numpy(F @ W.T + 0.01 * rng.random((240, size))))
    scaled = balanced(blocks)[0]
    found = group_sparse_factors(scaled, 6, torch.from_numpy(groups))
    partner, cosine = matched(torch.from_numpy(F), found.F)
    support = np.stack([(found.F.numpy()[groups == g] != 0).any(0) for g in range(8)])[:, partner]
    assert (support == part).all(), "48 of 48"
    assert float(cosine.min()) > 0.9
    assert all(after <= before * (1 + 1e-12) for before, after in itertools.pairwise(found.objective))
    W = torch.cat(found.W)
    assert np.allclose(W.norm(dim=0), 1)
    X = torch.cat(scaled, 1).numpy()
    expected = twin_group_cost(X, found.F.numpy(), W.numpy(), groups, 0.005)
    assert found.objective[-1] == pytest.approx(expected, rel=1e-9)
    # Without the penalty no factor leaves a group out.
    plain = coupled_factors(scaled, 6)
    assert (np.stack([(plain.F.numpy()[groups == g] != 0).any(0) for g in range(8)])).mean() > part.mean()


def test_the_groups_of_no_factor_are_told_from_noise_not_from_their_order() -> None:
    rng = np.random.default_rng(8)
    groups, X = np.repeat(np.arange(4), 20), rng.random((80, 12))
    found = group_sparse_factors([torch.from_numpy(X)], 3, torch.from_numpy(groups))
    moved = rng.permutation(80)
    other = group_sparse_factors([torch.from_numpy(X[moved])], 3, torch.from_numpy(groups[moved]))
    assert np.allclose(found.F.numpy()[moved], other.F.numpy(), atol=1e-3)


def from_random_starts(blocks: list[torch.Tensor], rank: int, starts: int = 4) -> list[torch.Tensor]:
    return [coupled_factors(blocks, rank, seed=seed, sweeps=150).F for seed in range(starts)]


def test_the_rank_that_starts_agree_on_is_the_planted_one() -> None:
    blocks, _ = planted(n=200, sizes=(25, 25), noise=0.05)
    agreement = {rank: rank_agreement(from_random_starts(blocks, rank)) for rank in (4, 9)}
    assert agreement[4] > 0.97
    assert agreement[9] < agreement[4] - 0.05


def test_stability_is_near_one_for_planted_factors_and_unknown_without_starts() -> None:
    blocks, _ = planted(n=200, noise=0.05)
    found = coupled_factors(blocks, 4)
    assert float(factor_stability(found.F, from_random_starts(blocks, 4)).min()) > 0.95
    assert bool(factor_stability(found.F, []).isnan().all())


def test_matching_is_the_best_of_all_permutations() -> None:
    rng = np.random.default_rng(9)
    F, G = rng.random((15, 4)), rng.random((15, 4))
    table = np.array(
        [
            [F[:, i] @ G[:, j] / np.linalg.norm(F[:, i]) / np.linalg.norm(G[:, j]) for j in range(4)]
            for i in range(4)
        ]
    )
    best = max(
        itertools.permutations(range(4)), key=lambda order: sum(table[i, j] for i, j in enumerate(order))
    )
    partner, cosine = matched(torch.from_numpy(F), torch.from_numpy(G))
    assert tuple(partner.tolist()) == best
    assert np.allclose(cosine, [table[i, j] for i, j in enumerate(best)])


# -- what can go wrong ---------------------------------------------------------------------------------------


def test_strong_factors_come_first_and_f_carries_the_scale() -> None:
    blocks, _ = planted(noise=0.1)
    found = coupled_factors(blocks, 4)
    assert np.allclose(torch.cat(found.W).norm(dim=0), 1)
    sizes = found.F.norm(dim=0)
    assert bool((sizes[:-1] >= sizes[1:]).all())
    strength = found.strength
    assert np.allclose(strength.square().sum(0), sizes.square())


def test_a_factor_that_vanishes_begins_again() -> None:
    blocks, _ = planted()
    F, Ws = (
        torch.rand(120, 4, generator=torch.Generator().manual_seed(0)),
        [torch.rand(s, 4) for s in (12, 9, 7)],
    )
    F[:, 1] = 0
    found = coupled_factors(blocks, 4, start=(F, Ws))
    assert float(found.F.norm(dim=0).min()) > 0
    total = sum(float(block.square().sum()) for block in blocks)
    assert found.objective[-1] < 0.01 * total


def test_dead_units_silent_images_and_dead_layers_do_no_harm() -> None:
    blocks, _ = planted()
    blocks[0][:, 3], blocks[1][:, :], blocks[2][5] = 0, 0, 0
    scaled, norms = balanced(blocks)
    assert norms[1] == 0
    for found in (
        coupled_factors(scaled, 4),
        group_sparse_factors(scaled, 4, torch.arange(120) % 3),
        published_factors([], scaled, 4),
    ):
        assert all(bool(part.isfinite().all()) for part in (found.F, *found.W))
    found = coupled_factors(scaled, 4)
    assert float(found.W[0][3].max()) == 0
    assert float(found.W[1].max()) == 0
    assert np.isnan(residual(scaled[1], found.F, found.W[1]))


def test_more_factors_than_the_rank_leave_nothing_and_stay_finite() -> None:
    blocks, _ = planted(factors=2)
    found = coupled_factors(blocks, 6)
    assert bool(found.F.isfinite().all())
    assert found.objective[-1] < 1e-3


def test_one_block_and_one_factor() -> None:
    X = torch.outer(torch.arange(1.0, 6), torch.tensor([1.0, 0, 2]))
    found = coupled_factors([X], 1)
    assert np.allclose((found.F @ found.W[0].T).numpy(), X, atol=1e-9)
    assert np.allclose(found.W[0][:, 0], [1 / 5**0.5, 0, 2 / 5**0.5])


@pytest.mark.parametrize(
    ("blocks", "members", "words"),
    [
        ([-torch.ones(5, 3)], 2, "below 0"),
        ([torch.tensor([[1.0, float("nan")], [1, 1]])], 1, "not a number"),
        ([torch.zeros(5, 3)], 2, "all 0"),
        ([torch.ones(3, 9)], 4, "at most 3"),
        ([torch.ones(9, 3)], 0, "0 factors"),
        ([torch.ones(9, 3), torch.ones(8, 3)], 2, "need the same"),
        ([], 2, "need"),
    ],
)
def test_what_has_no_factors_is_said(blocks: list[torch.Tensor], members: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        coupled_factors(blocks, members)


def test_the_published_start_needs_as_many_features_as_factors() -> None:
    with pytest.raises(InputError, match="a block has 3 features"):
        published_factors([], [torch.rand(20, 3), torch.rand(20, 9)], 5)
