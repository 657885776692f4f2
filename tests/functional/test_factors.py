"""Directions and non-negative factors, against plain loops, scikit-learn, and planted answers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from late import Late

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.factors import (
    nonnegative_coefficients,
    nonnegative_factors,
    principal_directions,
    random_directions,
)

decomposition = Late("sklearn.decomposition")


def planted(
    n: int = 200, channels: int = 12, factors: int = 3, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    W = rng.gamma(0.3, size=(channels, factors)) * (rng.random((channels, factors)) < 0.5) + 1e-3
    F = rng.gamma(0.5, size=(n, factors)) * (rng.random((n, factors)) < 0.4)
    return F @ W.T, W / np.linalg.norm(W, axis=0)


def twin_coefficients(Q: np.ndarray, W: np.ndarray, sweeps: int) -> np.ndarray:
    F = np.zeros((len(Q), W.shape[1]))
    for i in range(len(Q)):
        for _ in range(sweeps):
            for k in range(W.shape[1]):
                rest = Q[i] - sum(F[i, j] * W[:, j] for j in range(W.shape[1]) if j != k)
                square = float(W[:, k] @ W[:, k])
                F[i, k] = max(0.0, float(rest @ W[:, k]) / square) if square > 0 else 0.0
    return F


def test_principal_directions_are_those_of_scikit_learn() -> None:
    Q = torch.randn(50, 8, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 9)
    centre, directions = principal_directions(Q, 4)
    oracle = decomposition.PCA(4, svd_solver="full").fit(Q.double().numpy())
    assert np.allclose(centre.numpy(), oracle.mean_, atol=1e-6)
    assert np.allclose(np.abs((directions.numpy() * oracle.components_.T).sum(0)), 1, atol=1e-5)
    assert bool((directions.gather(0, directions.abs().argmax(0, keepdim=True)) > 0).all())


def test_planted_factors_are_found() -> None:
    X, W = planted()
    found = nonnegative_factors(torch.from_numpy(X), 3).numpy()
    cosines = found.T @ W
    assert np.sort(cosines.max(0))[0] > 0.99
    assert len(set(cosines.argmax(0))) == 3


def test_the_error_is_that_of_scikit_learn_or_less() -> None:
    rng = np.random.default_rng(1)
    X = rng.gamma(0.4, size=(150, 20))
    W = nonnegative_factors(torch.from_numpy(X), 5)
    F = nonnegative_coefficients(torch.from_numpy(X), W, sweeps=400)
    ours = np.linalg.norm(X - (F @ W.T).double().numpy())
    oracle = decomposition.NMF(5, init="nndsvda", solver="cd", max_iter=300, tol=1e-6).fit(X)
    assert ours <= 1.02 * oracle.reconstruction_err_


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3, 1e9])
def test_factors_are_the_same_at_every_scale(scale: float) -> None:
    """A start filled up with numbers larger than itself left factors that nothing was left for."""
    rng = np.random.default_rng(4)
    X = 2 * rng.random((300, 64)) * (np.maximum(rng.normal(size=(300, 8)), 0) @ rng.random((8, 64)) ** 4)
    W = nonnegative_factors(torch.from_numpy(X * scale), 8)
    assert bool((W.norm(dim=0) > 0.99).all())
    error = float(
        (
            torch.from_numpy(X) - nonnegative_coefficients(torch.from_numpy(X), W).double() @ W.double().T
        ).norm()
    )
    oracle = decomposition.NMF(8, init="nndsvda", solver="cd", max_iter=300, tol=1e-6).fit(
        X * 0.01 / X.mean()
    )
    assert error <= 1.02 * oracle.reconstruction_err_ * X.mean() / 0.01


def test_more_sweeps_never_raise_the_error() -> None:
    X = torch.from_numpy(np.random.default_rng(2).gamma(0.4, size=(60, 10)))
    errors = []
    for sweeps in (1, 2, 5, 10, 40):
        W = nonnegative_factors(X, 4, sweeps=sweeps, tolerance=0)
        errors.append(float((X - nonnegative_coefficients(X, W, sweeps=500).double() @ W.double().T).norm()))
    assert all(later <= earlier * (1 + 1e-6) for earlier, later in itertools.pairwise(errors))


@pytest.mark.parametrize("sweeps", [1, 3])
def test_coefficients_are_those_of_plain_loops(sweeps: int) -> None:
    rng = np.random.default_rng(3)
    Q, W = rng.random((6, 5)), rng.random((5, 3))
    W[:, 2] = 0  # a factor that is nothing
    found = nonnegative_coefficients(torch.from_numpy(Q), torch.from_numpy(W), sweeps=sweeps)
    assert np.allclose(found.numpy(), twin_coefficients(Q, W, sweeps), atol=1e-6)


def test_dead_channels_and_silent_images_do_no_harm() -> None:
    X, _ = planted()
    X[:, 3] = 0
    X[5] = 0
    W = nonnegative_factors(torch.from_numpy(X), 3)
    assert bool(W.isfinite().all())
    assert float(W[3].abs().max()) < 1e-6
    assert float(nonnegative_coefficients(torch.from_numpy(X), W)[5].abs().max()) == 0
    assert bool(nonnegative_factors(torch.zeros(4, 3), 2).isfinite().all())


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InputError):
        nonnegative_factors(-torch.ones(4, 3), 2)
    with pytest.raises(InputError):
        nonnegative_factors(torch.ones(4, 3), 4)
    with pytest.raises(InputError):
        principal_directions(torch.ones(4, 3), 0)
    with pytest.raises(InputError):
        random_directions(0, 3)
