from __future__ import annotations

import numpy as np
import pytest

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.self_similarity import UNCHANGED, SelfCorrelation


def correlate(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return SelfCorrelation([a, b])(0, 1, np.arange(a.shape[1]))


def test_equal_to_the_literal_twin() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(50, 6)).astype(np.float32)
    b = (0.5 * a + rng.normal(size=a.shape)).astype(np.float32)
    a[:, 2], b[:, 3] = 4.1, np.nan
    found = correlate(a, b)
    for unit in range(6):
        x, y = a[:, unit].astype(float), b[:, unit].astype(float)
        if unit in (2, 3):
            assert np.isnan(found[unit])
            continue
        mean = [sum(v) / len(v) for v in (x, y)]
        cross = sum((p - mean[0]) * (q - mean[1]) for p, q in zip(x, y, strict=True))
        norms = [sum((p - m) ** 2 for p in v) ** 0.5 for v, m in zip((x, y), mean, strict=True)]
        assert found[unit] == pytest.approx(cross / norms[0] / norms[1], abs=1e-9)


def test_the_same_scaled_and_noisy_units() -> None:
    rng = np.random.default_rng(1)
    a = rng.normal(size=(2000, 3)).astype(np.float32)
    assert correlate(a, a).tolist() == pytest.approx([1, 1, 1])
    assert (correlate(a, 3 * a + 100) >= UNCHANGED).all()
    # Noise of 2 % of the spread leaves a unit what it is, noise of 10 % does not.
    noise = rng.normal(size=a.shape).astype(np.float32)
    assert (correlate(a, a + 0.02 * noise) >= UNCHANGED).all()
    assert (correlate(a, a + 0.1 * noise) < UNCHANGED).all()
    assert np.abs(correlate(a, noise)).max() < 0.1


def test_some_units_between_any_two_epochs() -> None:
    rng = np.random.default_rng(2)
    epochs = [rng.normal(size=(40, 5)).astype(np.float32) for _ in range(4)]
    of = SelfCorrelation(epochs)
    for earlier, later in ((0, 3), (2, 1), (2, 2)):
        found = of(earlier, later, np.array([4, 0, 4]))
        expected = [np.corrcoef(epochs[earlier][:, u], epochs[later][:, u])[0, 1] for u in (4, 0, 4)]
        assert found.tolist() == pytest.approx(expected, abs=1e-12)


def test_layers_of_other_sizes_are_refused() -> None:
    with pytest.raises(InputError):
        correlate(np.zeros((4, 3), np.float32), np.zeros((4, 2), np.float32))
    with pytest.raises(InputError):
        correlate(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32))
