"""Labels against the truth: each function against its twin, SciPy and scikit-learn, and at chance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import twins_truth as twins
from late import Late

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional import evaluation as functional

stats = Late("scipy.stats")
metrics = Late("sklearn.metrics")
pairwise = Late("sklearn.metrics.pairwise")

CLOSE = {"rtol": 0, "atol": 1e-6}


def rows(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator), dim=-1)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


# -- labels --------------------------------------------------------------------------------------


def test_accuracy_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    true, predicted = rng.integers(0, 4, (2, 50)).astype(str).tolist()
    assert functional.label_accuracy(predicted, true) == pytest.approx(
        metrics.accuracy_score(true, predicted)
    )
    assert functional.label_accuracy(true, true) == 1.0
    assert np.isnan(functional.label_accuracy([], []))
    with pytest.raises(InputError, match="2 labels for 1"):
        functional.label_accuracy(["a", "b"], ["a"])


def test_cosines(generator: torch.Generator) -> None:
    predicted, true = 3 * torch.randn(20, 7, generator=generator), torch.randn(20, 7, generator=generator)
    found = functional.cosines(predicted, true).numpy()
    np.testing.assert_allclose(found, twins.cosines(predicted.tolist(), true.tolist()), **CLOSE)
    np.testing.assert_allclose(found, np.diag(pairwise.cosine_similarity(predicted, true)), **CLOSE)
    np.testing.assert_allclose(functional.cosines(true, true), 1.0, **CLOSE)
    with pytest.raises(InputError, match="shapes"):
        functional.cosines(predicted[:3], true)


def test_random_labels_have_the_expected_cosine(generator: torch.Generator) -> None:
    true, concepts = rows(generator, 5, 6), rows(generator, 40, 6)
    expected = functional.expected_cosines(true, concepts)
    np.testing.assert_allclose(expected, twins.expected_cosines(true.tolist(), concepts.tolist()), **CLOSE)
    drawn = torch.randint(0, 40, (4000, 5), generator=generator)
    mean = torch.stack([functional.cosines(concepts[draw], true) for draw in drawn]).mean(0)
    # A cosine of random vectors in six dimensions spreads by 0.4; over 4,000 draws by 0.0065.
    np.testing.assert_allclose(mean, expected, atol=0.03)


def test_ranks(generator: torch.Generator) -> None:
    scores = torch.randint(0, 5, (30, 12), generator=generator).float()  # many ties
    true = torch.randint(0, 12, (30,), generator=generator)
    found = functional.label_ranks(scores, true)
    assert found.tolist() == twins.label_ranks(scores.tolist(), true.tolist())
    clear = torch.rand(30, 12, generator=generator)
    loss = metrics.label_ranking_loss(torch.nn.functional.one_hot(true, 12).numpy(), clear.numpy())
    assert (functional.label_ranks(clear, true) - 1).double().mean() / 11 == pytest.approx(loss)
    best = clear.clone()
    best[torch.arange(30), true] = 2.0
    assert functional.label_ranks(best, true).tolist() == [1] * 30


# -- contributions -------------------------------------------------------------------------------


def test_most_contributing_unit(generator: torch.Generator) -> None:
    Q = torch.randint(0, 3, (60, 5), generator=generator).float()
    W = torch.randint(-2, 3, (4, 5), generator=generator).float()
    classes = torch.randint(0, 4, (60,), generator=generator)
    found = functional.most_contributing_unit(Q, W, classes)
    assert found.tolist() == twins.most_contributing_unit(Q.tolist(), W.tolist(), classes.tolist())
    assert (found == -1).any(), "some image must have no positive contribution"
    with pytest.raises(InputError, match="shapes"):
        functional.most_contributing_unit(Q, W[:, :3], classes)


def test_described_class(generator: torch.Generator) -> None:
    texts = [rows(generator, 9, 5), rows(generator, 9, 3)]
    names = [rows(generator, 4, 5), rows(generator, 4, 3)]
    found = functional.described_class(texts, names)
    expected = twins.described_class([t.tolist() for t in texts], [n.tolist() for n in names])
    assert found.tolist() == expected
    assert functional.described_class(names, names).tolist() == [0, 1, 2, 3]
    with pytest.raises(InputError, match="no space"):
        functional.described_class([], [])


# -- weights -------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [3, 4, 30, 5000])
@pytest.mark.parametrize("strength", [0.0, 0.5, -3.0])
def test_correlation_is_scipys(count: int, strength: float) -> None:
    rng = np.random.default_rng(count)
    x = rng.normal(size=count)
    y = strength * x + rng.normal(size=count)
    r, p = functional.correlation(torch.from_numpy(x), torch.from_numpy(y))
    expected = stats.pearsonr(x, y)
    assert r == pytest.approx(expected.statistic, abs=1e-9)
    assert r == pytest.approx(twins.correlation(x.tolist(), y.tolist()), abs=1e-9)
    assert p == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-300)


def test_correlation_of_nothing() -> None:
    line = torch.arange(5.0)
    assert functional.correlation(line, line) == (1.0, 0.0)
    assert all(np.isnan(functional.correlation(line, torch.full((5,), 0.1))))
    assert all(np.isnan(functional.correlation(line[:2], line[:2])))
    assert np.isnan(functional.permutation_p_value(float("nan"), torch.zeros(3)))
    with pytest.raises(InputError):
        functional.correlation(line, line[:3])


def test_cosine_of_highest(generator: torch.Generator) -> None:
    W = torch.randint(-3, 4, (4, 9), generator=generator).float()
    S = torch.rand(4, 9, generator=generator)
    ks = [1, 2, 7, 36]
    found = functional.cosine_of_highest(W, S, ks)
    np.testing.assert_allclose(found, twins.cosine_of_highest(W.tolist(), S.tolist(), ks), **CLOSE)
    assert found[-1] == pytest.approx(float(S.mean()))
    with pytest.raises(InputError, match="highest"):
        functional.cosine_of_highest(W, S, [37])


def test_permutations_are_correlations_of_permuted_columns(generator: torch.Generator) -> None:
    W, S = torch.randn(3, 8, generator=generator), torch.rand(3, 8, generator=generator)
    null = functional.permuted_correlations(W, S, permutations=100, seed=5)
    orders = np.random.default_rng(5).permuted(np.tile(np.arange(8), (100, 1)), axis=1)
    for value, order in zip(null.tolist(), orders, strict=True):
        expected = twins.correlation(W.flatten().tolist(), S[:, order].flatten().tolist())
        assert value == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_units_that_share_a_label_cannot_be_told_from_any_order_of_them(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    W = torch.randn(10, 37, generator=generator)
    S = torch.rand(10, 1, generator=generator).expand(10, 37)
    r, _ = functional.correlation(W, S)
    assert functional.permutation_p_value(r, functional.permuted_correlations(W, S, seed=seed)) == 1


def test_the_permutation_p_value_is_uniform_for_labels_that_know_nothing() -> None:
    """Labels stand for whole columns; the plain p-value is far too sure of what columns have in common."""
    plain, permuted = [], []
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        # Columns of both have levels of their own, which have nothing to do with each other.
        W = torch.randn(6, 20, generator=generator) + 2 * torch.randn(20, generator=generator)
        S = 0.1 * torch.randn(6, 20, generator=generator) + torch.randn(20, generator=generator)
        r, p = functional.correlation(W, S)
        null = functional.permuted_correlations(W, S, permutations=99, seed=seed)
        plain.append(p)
        permuted.append(functional.permutation_p_value(r, null))
    assert stats.kstest(permuted, "uniform").pvalue > 0.01
    assert np.mean(np.array(plain) < 0.05) > 0.3
