"""Agreement of raters against the coincidence matrix of the publication, and the test of sign flips."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from concept_monitor_cli.functional.evaluation.ratings import krippendorff_alpha, paired_p

NAN = float("nan")
# Krippendorff 2011, section C: four observers, twelve units; alpha for interval data is .849.
PUBLISHED = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
)


def by_coincidences(ratings: np.ndarray) -> float:
    """Alpha by the book: the coincidence matrix of values, then observed and expected disagreement."""
    values = sorted({value for value in ratings.flatten().tolist() if value == value})
    coincidences = {(a, b): 0.0 for a in values for b in values}
    for question in ratings.T:
        given = [value for value in question.tolist() if value == value]
        for i, j in itertools.permutations(range(len(given)), 2):
            coincidences[given[i], given[j]] += 1 / (len(given) - 1)
    total = sum(coincidences.values())
    marginal = {a: sum(coincidences[a, b] for b in values) for a in values}
    observed = sum(coincidences[a, b] * (a - b) ** 2 for a in values for b in values) / total
    expected = sum(
        (marginal[a] * (marginal[b] - (a == b)) if a == b else marginal[a] * marginal[b]) * (a - b) ** 2
        for a in values
        for b in values
    ) / (total * (total - 1))
    return 1 - observed / expected


def test_the_published_example() -> None:
    assert krippendorff_alpha(PUBLISHED) == pytest.approx(0.849, abs=5e-4)
    assert by_coincidences(PUBLISHED) == pytest.approx(0.849, abs=5e-4)


@pytest.mark.parametrize("seed", range(10))
def test_it_is_that_of_the_coincidence_matrix(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ratings = rng.integers(1, 6, (rng.integers(2, 6), rng.integers(3, 15))).astype(float)
    ratings[rng.random(ratings.shape) < 0.3] = NAN
    ratings[:2, 0] = [1, 4]  # something varies
    assert krippendorff_alpha(ratings) == pytest.approx(by_coincidences(ratings), abs=1e-12)


def test_raters_who_answer_at_random_do_not_agree() -> None:
    rng = np.random.default_rng(0)
    found = [krippendorff_alpha(rng.integers(1, 6, (3, 40)).astype(float)) for _ in range(300)]
    assert abs(np.mean(found)) < 4 * np.std(found) / 300**0.5
    one = rng.integers(1, 6, 40).astype(float)
    assert krippendorff_alpha(np.stack([one, one])) == 1.0


def test_what_cannot_be_known_is_no_number() -> None:
    assert np.isnan(krippendorff_alpha(np.array([[1.0, 2.0, 3.0]])))
    assert np.isnan(krippendorff_alpha(np.array([[3.0, 3.0], [3.0, 3.0]])))
    assert np.isnan(krippendorff_alpha(np.array([[NAN, 1.0], [2.0, NAN]])))
    assert np.isnan(paired_p(np.zeros(0)))


def test_sign_flips_are_exact_for_few_units_and_drawn_for_many() -> None:
    differences = np.array([0.5, 1.0, -0.25, 2.0, 0.75])
    every = [
        sum(s * d for s, d in zip(signs, differences, strict=True))
        for signs in itertools.product((1, -1), repeat=5)
    ]
    exact = np.mean([total >= differences.sum() - 1e-9 for total in every])
    assert paired_p(differences) == exact
    drawn = paired_p(differences, flips=31)  # fewer than all 32
    assert drawn == pytest.approx(exact, abs=4 * (exact * (1 - exact) / 31) ** 0.5 + 1 / 32)
    rng = np.random.default_rng(1)
    low = np.mean([paired_p(rng.normal(size=20), flips=200, seed=k) <= 0.05 for k in range(400)])
    assert low <= 0.05 + 3 * (0.05 * 0.95 / 400) ** 0.5
    assert paired_p(np.zeros(30), flips=100) == 1.0
