"""What factors say, against plain loops and answers that can be worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.factor_measures import (
    chance_purity,
    chance_spectrum,
    class_weights,
    entropy,
    neighbourhoods,
    purity,
    similarity,
    spectrum,
)


def twin_weights(F: np.ndarray, classes: np.ndarray, count: int) -> np.ndarray:
    found = np.full((F.shape[1], count), np.nan)
    for k in range(F.shape[1]):
        total = sum(F[n, k] for n in range(len(F)) if classes[n] >= 0)
        for c in range(count):
            if total > 0:
                found[k, c] = sum(F[n, k] for n in range(len(F)) if classes[n] == c) / total
    return found


def twin_neighbours(F: np.ndarray, count: int) -> tuple[list[list[int]], list[float]]:
    near, impurity = [], []
    strongest = [int(np.argmax(row)) if row.sum() > 0 else -1 for row in F]
    for i in range(len(F)):
        others = sorted(
            (math.sqrt(sum((a - b) ** 2 for a, b in zip(F[i], F[j], strict=True))), j)
            for j in range(len(F))
            if j != i
        )
        chosen = [j for _, j in others[:count]]
        near.append(chosen)
        seen = [strongest[j] for j in chosen if strongest[j] >= 0]
        shares = [seen.count(k) / len(seen) for k in sorted(set(seen))]
        impurity.append(-sum(p * math.log2(p) for p in shares) if seen else math.nan)
    return near, impurity


def twin_spectrum(W: np.ndarray) -> np.ndarray:
    d = W.shape[1]
    table = np.zeros((d, d))
    for i in range(d):
        for j in range(d):
            table[i, j] = sum(W[:, i] * W[:, j]) / math.sqrt(sum(W[:, i] ** 2) * sum(W[:, j] ** 2))
    return np.sort(np.linalg.eigh(table)[0])[::-1]


def test_class_weights_purity_and_entropy_are_those_of_plain_loops() -> None:
    rng = np.random.default_rng(0)
    F, classes = rng.random((40, 5)), rng.integers(-1, 4, 40)
    F[:, 3] = 0
    found = class_weights(torch.from_numpy(F), torch.from_numpy(classes), 4)
    expected = twin_weights(F, classes, 4)
    assert np.allclose(found, expected, equal_nan=True)
    alive = [0, 1, 2, 4]
    assert np.allclose(purity(found)[alive], expected[alive].max(1))
    bits = [-sum(p * math.log2(p) for p in expected[k] if p > 0) for k in alive]
    assert np.allclose(entropy(found)[alive], bits)
    assert math.isnan(float(purity(found)[3]))


def test_a_factor_of_one_class_is_pure_and_chance_is_near_one_over_k() -> None:
    classes = torch.arange(5).repeat(40)
    F = torch.nn.functional.one_hot(classes, 5).double()
    assert bool((purity(class_weights(F, classes, 5)) == 1).all())
    assert bool((entropy(class_weights(F, classes, 5)) == 0).all())
    chance = chance_purity(F, classes, 5)
    assert bool(((chance > 0.2) & (chance < 0.4)).all())
    flat = torch.ones(200, 2)
    assert np.allclose(chance_purity(flat, classes, 5), 0.2)


@pytest.mark.parametrize("count", [3, 30])
def test_neighbours_are_those_of_plain_loops(count: int) -> None:
    rng = np.random.default_rng(1)
    F = rng.integers(0, 4, (25, 4)).astype(float)  # with ties
    F[7] = 0
    found = neighbourhoods(torch.from_numpy(F), neighbours=count)
    near, impurity = twin_neighbours(F, min(count, 24))
    assert found.nearest.tolist() == near
    assert np.allclose(found.impurity, impurity, equal_nan=True)
    assert int(found.factor[7]) == -1
    seen = [[int(found.factor[j]) for j in row] for row in near]
    assert found.counts.tolist() == [[row.count(k) for k in range(4)] for row in seen]
    for image in (0, 7):
        others = [int(found.factor[j]) for j in range(25) if j != image]
        by_chance = [min(count, 24) * others.count(k) / 24 for k in range(4)]
        np.testing.assert_allclose(found.expected(image), by_chance)


def test_images_of_separate_factors_have_pure_neighbours_and_chance_has_not() -> None:
    F = torch.nn.functional.one_hot(torch.arange(4).repeat(50), 4).double()
    found = neighbourhoods(F, neighbours=20)
    assert float(found.impurity.max()) == 0
    assert 1.6 < found.chance <= 2
    mixed = neighbourhoods(torch.rand(400, 4, generator=torch.Generator().manual_seed(0)), neighbours=20)
    assert float(mixed.impurity.mean()) < mixed.chance


def test_one_image_has_no_neighbours() -> None:
    with pytest.raises(InputError, match="two images"):
        neighbourhoods(torch.ones(1, 3))


def test_the_spectrum_is_that_of_plain_loops() -> None:
    W = np.random.default_rng(2).random((12, 5))
    found = spectrum(torch.from_numpy(W))
    expected = twin_spectrum(W)
    assert np.allclose(found.eigenvalues, expected)
    assert found.leading == pytest.approx(expected[0])
    assert found.mean_of_three == pytest.approx(expected[:3].mean())
    shares = expected / expected.sum()
    assert found.effective_rank == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)))
    assert float(found.eigenvalues.sum()) == pytest.approx(5)


def test_separate_factors_have_the_identity_and_equal_ones_a_single_direction() -> None:
    apart = spectrum(torch.eye(6)[:, :4])
    assert np.allclose(apart.eigenvalues, 1)
    assert apart.effective_rank == pytest.approx(4)
    same = spectrum(torch.ones(6, 4))
    assert same.leading == pytest.approx(4)
    assert same.effective_rank == pytest.approx(1, abs=1e-6)


def test_factors_that_a_layer_has_no_part_in_are_left_out() -> None:
    W = torch.eye(6)[:, :3].clone()
    W[:, 1] = 0
    assert np.allclose(spectrum(W).eigenvalues, [1, 1])
    table = similarity(W)
    assert bool(table[1].isnan().all())
    assert float(table[0, 2]) == 0
    nothing = spectrum(torch.zeros(6, 3))
    assert math.isnan(nothing.leading)
    assert len(nothing.eigenvalues) == 0


def test_shared_units_make_the_leading_eigenvalue_larger_than_permuted_units_do() -> None:
    rng = np.random.default_rng(3)
    common = rng.gamma(0.3, size=(60, 1))
    together = torch.from_numpy(common + 0.1 * rng.gamma(0.3, size=(60, 5)))
    leading, three, rank = chance_spectrum(together)
    found = spectrum(together)
    assert found.leading > leading + 0.5
    assert found.mean_of_three > three
    assert found.effective_rank < rank
    # Where units are independent, permuting them changes nothing but luck.
    apart = torch.from_numpy(rng.gamma(0.3, size=(400, 5)))
    assert chance_spectrum(apart)[0] == pytest.approx(spectrum(apart).leading, abs=0.15)
