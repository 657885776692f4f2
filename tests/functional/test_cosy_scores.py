"""CoSy against scikit-learn and loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from late import Late

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.evaluation.cosy import cosy_scores, of_labels

metrics = Late("sklearn.metrics")


@pytest.mark.parametrize("seed", range(5))
def test_auc_is_scikit_learns_and_mad_that_of_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    control = rng.integers(0, 6, (40, 5)).astype(np.float32)  # many are level
    generated = rng.integers(0, 9, (25, 5)).astype(np.float32)
    concept = rng.integers(0, 3, 25)
    auc, mad = cosy_scores(*(torch.from_numpy(each) for each in (control, generated, concept)), 4)
    for unit in range(5):
        base = control[:, unit].astype(float)
        mean = sum(base) / 40
        spread = (sum((value - mean) ** 2 for value in base) / 40) ** 0.5
        for m in range(3):
            own = generated[concept == m, unit].astype(float)
            truth = np.r_[np.ones(len(own)), np.zeros(40)]
            assert auc[unit, m].item() == pytest.approx(
                metrics.roc_auc_score(truth, np.r_[own, base]), abs=1e-12
            )
            assert mad[unit, m].item() == pytest.approx((sum(own) / len(own) - mean) / spread, abs=1e-12)
    assert bool(auc[:, 3].isnan().all())
    assert bool(mad[:, 3].isnan().all())


def test_dead_units_and_numbers_that_are_none() -> None:
    control = torch.tensor([[1.0, 0.0, float("nan")], [1.0, 1.0, 0.0]])
    generated = torch.tensor([[1.0, 2.0, 1.0], [2.0, float("inf"), 1.0]])
    auc, mad = cosy_scores(control, generated, torch.tensor([0, 1]), 2)
    assert auc[0].tolist() == [0.5, 1.0]
    assert bool(mad[0].isnan().all())
    assert auc[1, 0] == 1.0
    assert bool(auc[1, 1].isnan())
    assert bool(auc[2].isnan().all())
    with pytest.raises(InputError, match="same units"):
        cosy_scores(control, generated[:, :2], torch.tensor([0, 1]), 2)


def test_chance_is_the_mean_over_the_labels_of_the_other_units() -> None:
    rng = np.random.default_rng(3)
    scores = torch.from_numpy(rng.random((6, 3)))
    scores[2, 1] = float("nan")
    label = torch.tensor([0, 0, 1, 2, -1, 2])
    own, chance = of_labels(scores, label)
    for unit in range(6):
        if label[unit] < 0 or bool(scores[unit, label[unit]].isnan()):
            assert bool(own[unit].isnan())
            assert bool(chance[unit].isnan())
            continue
        others = [scores[unit, label[u]].item() for u in range(6) if u != unit and label[u] >= 0]
        others = [value for value in others if not np.isnan(value)]
        assert own[unit] == scores[unit, label[unit]]
        assert chance[unit].item() == pytest.approx(np.mean(others))


def test_units_that_are_blind_to_the_images_score_as_chance_says() -> None:
    rng = np.random.default_rng(4)
    control, generated = rng.normal(size=(200, 300)), rng.normal(size=(100, 300))
    concept, label = np.repeat(np.arange(10), 10), rng.integers(0, 10, 300)
    auc, _ = cosy_scores(*(torch.from_numpy(each) for each in (control, generated, concept)), 10)
    own, chance = of_labels(auc, torch.from_numpy(label))
    difference = (own - chance).numpy()
    assert abs(difference.mean()) < 3 * difference.std() / 300**0.5
    assert abs(float(own.mean()) - 0.5) < 0.03
