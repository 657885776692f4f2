"""Means over sets of images: moments against all sets, p against permuted labels, units blind to the sets."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from late import Late

from concept_monitor_cli.functional.calibration import benjamini_hochberg
from concept_monitor_cli.functional.set_means import COUNTED_BELOW, EVEN, mean_test, random_sets

stats = Late("scipy.stats")


def test_the_closed_form_is_the_variance_over_all_sets() -> None:
    """Mean and spread over every set of 3 of 9 images, one image unknown."""
    values = np.random.default_rng(2).gamma(1.0, size=(10, 2))
    L = np.array([1, 0, 1, 0, 0, 0, 1, 0, 0, np.nan])
    found = mean_test(torch.from_numpy(values), torch.from_numpy(L[:, None]))
    known = values[:9]
    for k in range(2):
        means = [known[list(chosen), k].mean() for chosen in itertools.combinations(range(9), 3)]
        assert float(found.spread[k, 0]) == pytest.approx(np.std(means), rel=1e-12)
        seen = known[[0, 2, 6], k].mean()
        assert float(found.difference[k, 0]) == pytest.approx(seen - known[:, k].mean(), rel=1e-12)
        far = [abs(mean - known[:, k].mean()) >= abs(seen - known[:, k].mean()) - 1e-12 for mean in means]
        assert float(found.p[k, 0]) == pytest.approx(np.mean(far), abs=0.015)


@pytest.mark.parametrize("with_it", [35, 965, 12])
def test_p_is_that_of_permuted_labels(with_it: int) -> None:
    """Many images: in closed form. Few with (or without) the concept: counted."""
    rng = np.random.default_rng(3)
    values = rng.gamma(0.5, size=1000)
    there = np.zeros(1000)
    there[np.argsort(values + rng.gamma(0.5, size=1000) * 3)[-with_it:]] = 1
    found = mean_test(torch.from_numpy(values[:, None]), torch.from_numpy(there[:, None]))
    seen = abs(values[there == 1].mean() - values.mean())
    away = [abs(rng.permutation(values)[:with_it].mean() - values.mean()) for _ in range(4000)]
    assert float(found.p) == pytest.approx(np.mean(np.array(away) >= seen), abs=0.03)


def test_counted_p_values_do_not_depend_on_what_is_asked_beside() -> None:
    rng = np.random.default_rng(4)
    values = torch.from_numpy(rng.gamma(1.0, size=(80, 3)))
    L = torch.zeros(80, 3)
    for column, count in enumerate((4, 11, 75)):
        L[torch.from_numpy(rng.permutation(80)[:count]), column] = 1
    together = mean_test(values, L).p
    assert bool(((together > 1e-4) & (together <= 1)).all())
    alone = torch.cat([mean_test(values, L[:, [m]]).p for m in range(3)], 1)
    assert torch.allclose(together, alone, atol=0.03)


def test_numbers_that_are_all_equal_are_no_finding() -> None:
    L = torch.zeros(100, 2)
    L[:10, 0] = 1
    L[:40, 1] = 1
    assert mean_test(torch.full((100, 1), 0.1), L).p.tolist() == [[1.0, 1.0]]
    rounding = 1 + 1e-16 * torch.randint(-2, 3, (100, 1), generator=torch.Generator().manual_seed(0)).double()
    assert mean_test(0.1 * rounding, L).p.tolist() == [[1.0, 1.0]]


def test_random_sets_have_no_repeats_and_every_image_alike() -> None:
    sets = random_sets(20, 7, 4000)
    assert all(len(set(row)) == 7 for row in sets[:200].tolist())
    shares = torch.bincount(sets[:, 0], minlength=20) / 4000
    assert bool(((shares - 0.05).abs() < 0.02).all())


def twin_closed_form(values: np.ndarray, there: np.ndarray) -> float:
    """Moments by definition, the tails of the gamma law by scipy."""
    total, count = len(values), int(there.sum())
    away = values - values.mean()
    variance = (away**2).mean() * (total - count) / ((total - 1) * count)
    third = (away**3).mean() * (total - count) * (total - 2 * count) / ((total - 1) * (total - 2) * count**2)
    law = stats.pearson3(abs(third) / variance**1.5)
    t = abs(values[there == 1].mean() - values.mean()) / math.sqrt(variance)
    return float(law.sf(t) + law.cdf(-t))


@pytest.mark.parametrize("with_it", [100, 500, 850])
@pytest.mark.parametrize("shape", [1.5, 6.0])
def test_the_closed_form_equals_its_twin(with_it: int, shape: float) -> None:
    rng = np.random.default_rng(7)
    values = rng.gamma(shape, size=(1000, 40))
    there = np.zeros(1000)
    there[rng.permutation(1000)[:with_it]] = 1
    values += there[:, None] * rng.normal(size=40) * 0.3
    p = mean_test(torch.from_numpy(values), torch.from_numpy(there[:, None])).p[:, 0]
    expected = np.array([twin_closed_form(column, there) for column in values.T])
    assert expected.min() < 1e-3
    assert p.numpy() == pytest.approx(expected, rel=0.03)


def test_the_third_moment_is_that_of_all_sets() -> None:
    """Of the means of every set of 4 of 12 images: what the closed form's skewness claims."""
    values = np.random.default_rng(8).gamma(0.7, size=12)
    means = np.array([values[list(chosen)].mean() for chosen in itertools.combinations(range(12), 4)])
    third = ((values - values.mean()) ** 3).mean() * (12 - 4) * (12 - 8) / ((12 - 1) * (12 - 2) * 4**2)
    assert third == pytest.approx(((means - means.mean()) ** 3).mean(), rel=1e-9)


def firing_on(share: float) -> Callable[[torch.Generator, int], torch.Tensor]:
    def make(generator: torch.Generator, images: int) -> torch.Tensor:
        fires = torch.rand(images, 300, generator=generator) < share
        return fires * torch.randn(images, 300, generator=generator).exp()

    return make


BLIND: dict[str, Callable[[torch.Generator, int], torch.Tensor]] = {
    "fires on .2 %": firing_on(0.002),
    "fires on 5 %": firing_on(0.05),
    "relu(z - 1)": lambda g, n: (torch.randn(n, 300, generator=g) - 1).relu(),
    "relu(z)": lambda g, n: torch.randn(n, 300, generator=g).relu(),
    "exp(z)": lambda g, n: torch.randn(n, 300, generator=g).exp(),
}


@pytest.mark.parametrize("units", BLIND)
def test_units_that_are_blind_to_classes_are_called_as_rarely_as_they_should(units: str) -> None:
    """Units that fire on few images were called by hundreds: their means are far from the normal law."""
    g = torch.Generator().manual_seed(9)
    values = BLIND[units](g, 3000)
    L = torch.nn.functional.one_hot(torch.arange(3000) % 50, 50).double()
    p = mean_test(values, L, draws=4000).p
    assert int(benjamini_hochberg(p.flatten()).sum()) == 0
    assert 0.035 < float((p < 0.05).double().mean()) < 0.06
    assert float((p < 0.002).double().mean()) < 0.004


def test_one_image_makes_up_the_mean() -> None:
    """The one image that a unit fires on is in 30 of 1,000 sets of 30; whatever the unit's scale."""
    L = torch.zeros(1000, 1)
    L[:COUNTED_BELOW] = 1
    values = torch.zeros(1000, 1, dtype=torch.float64)
    values[0] = 1
    for scale in (1e-30, 1.0, 1e30):
        assert float(mean_test(values * scale, L).p) == pytest.approx(0.03, abs=0.006)
    # Sets of the same images, be they asked for beside others or not.
    assert torch.equal(mean_test(values.expand(-1, 3), L).p, mean_test(values, L).p.expand(3, 1))
    even = torch.randn(1000, 1, generator=torch.Generator().manual_seed(1))
    kurtosis = float((even - even.mean()).pow(4).mean() / (even - even.mean()).pow(2).mean() ** 2)
    assert 100 / kurtosis > EVEN, "100 images of these need no counting"
