"""Concept vectors against plain loops, exhaustive permutations, planted answers and random concepts."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from late import Late

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.concept_vectors import (
    ClassGradients,
    Kind,
    chance_of_shares,
    class_effects,
    concept_vectors,
    cosines,
    decodability,
    decodable_from,
    sign_shares,
    unit_effects,
)
from concept_monitor_cli.functional.set_means import mean_test, random_sets

stats = Late("scipy.stats")


def some(n: int = 40, units: int = 5, concepts: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations with a dead unit, and labels of which some are unknown."""
    rng = np.random.default_rng(seed)
    Q = rng.gamma(1.0, size=(n, units))
    Q[:, 2] = 0.5
    L = (rng.random((n, concepts)) < 0.4).astype(float)
    L[rng.random((n, concepts)) < 0.1] = np.nan
    return torch.from_numpy(Q), torch.from_numpy(L)


def twin_fast(Q: np.ndarray, L: np.ndarray) -> np.ndarray:
    out = np.zeros((Q.shape[1], L.shape[1]))
    for m in range(L.shape[1]):
        with_it = [i for i in range(len(Q)) if L[i, m] == 1]
        known = [i for i in range(len(Q)) if not math.isnan(L[i, m])]
        for k in range(Q.shape[1]):
            out[k, m] = sum(Q[i, k] for i in with_it) / len(with_it) - sum(Q[i, k] for i in known) / len(
                known
            )
    return out


def twin_ridge(Q: np.ndarray, L: np.ndarray) -> np.ndarray:
    n, units = Q.shape
    centred = Q - Q.mean(0)
    weight = 0.01 * sum(float((centred[:, k] ** 2).sum()) for k in range(units)) / units
    out = np.zeros((units, L.shape[1]))
    for m in range(L.shape[1]):
        known = ~np.isnan(L[:, m])
        target = np.array([L[i, m] - L[known, m].mean() if known[i] else 0.0 for i in range(n)])
        # The same as least squares with a row of sqrt(weight) for every unit.
        rows = np.vstack([centred, math.sqrt(weight) * np.eye(units)])
        out[:, m] = np.linalg.lstsq(rows, np.concatenate([target, np.zeros(units)]), rcond=None)[0]
    return out


@pytest.mark.parametrize(("kind", "twin"), [("fast", twin_fast), ("ridge", twin_ridge)])
def test_vectors_are_those_of_plain_loops(kind: Kind, twin: object) -> None:
    Q, L = some()
    found = concept_vectors(Q, L, kind).numpy()
    assert np.allclose(found, twin(Q.numpy(), L.numpy()), atol=1e-10)  # type: ignore[operator]


@pytest.mark.parametrize("kind", ["fast", "ridge", "sgd"])
def test_a_planted_direction_is_found(kind: Kind) -> None:
    rng = np.random.default_rng(1)
    direction = rng.normal(size=20)
    direction /= np.linalg.norm(direction)
    there = rng.random(600) < 0.3
    Q = torch.from_numpy(rng.normal(size=(600, 20)) + 3 * there[:, None] * direction)
    L = torch.from_numpy(there[:, None].astype(float))
    V = concept_vectors(Q, L, kind)
    assert float(V[:, 0] @ torch.from_numpy(direction) / V[:, 0].norm()) > 0.9
    shuffled = concept_vectors(Q, L[torch.randperm(600, generator=torch.Generator().manual_seed(0))], kind)
    assert abs(float(shuffled[:, 0] @ torch.from_numpy(direction) / shuffled[:, 0].norm())) < 0.6


def test_a_concept_on_no_image_or_on_all_has_no_vector() -> None:
    Q, _ = some()
    L = torch.stack([torch.zeros(40), torch.ones(40), torch.full((40,), torch.nan)], 1)
    for kind in ("fast", "ridge", "sgd"):
        assert bool(concept_vectors(Q, L, kind).isnan().all())
    tested = mean_test(Q, L)
    assert bool(tested.p.isnan().all())
    assert bool(tested.difference.isnan().all())


def test_shapes_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(InputError, match="need \\(N, C\\) and \\(N, M\\)"):
        concept_vectors(torch.zeros(3, 2), torch.zeros(4, 1))
    with pytest.raises(InputError, match="gradients"):
        ClassGradients.of(torch.zeros(3, 2), torch.zeros(4, dtype=torch.int64), 2)


# -- can it be read off? -------------------------------------------------------------------------------------


def twin_auc(scores: np.ndarray, labels: np.ndarray) -> float:
    wins = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for a, x in zip(scores, labels, strict=True)
        for b, y in zip(scores, labels, strict=True)
        if x == 1 and y == 0
    ]
    return sum(wins) / len(wins) if wins else math.nan


@pytest.mark.parametrize("digits", [0, 9])
def test_auc_is_the_share_of_pairs_and_its_p_that_of_mann_whitney(digits: int) -> None:
    rng = np.random.default_rng(5)
    L = np.stack([rng.random(300) < share for share in (0.3, 0.5, 0.04)], 1).astype(float)
    L[rng.random(L.shape) < 0.1] = np.nan
    scores = np.round(rng.normal(size=(300, 3)) + 0.3 * np.nan_to_num(L), digits)
    auc, p = decodability(torch.from_numpy(scores), torch.from_numpy(L))
    for m in range(3):
        assert float(auc[m]) == pytest.approx(twin_auc(scores[:, m], L[:, m]), abs=1e-12)
        test = stats.mannwhitneyu(
            scores[L[:, m] == 1, m], scores[L[:, m] == 0, m], method="asymptotic", use_continuity=False
        )
        few = np.nansum(L[:, m]) < 30
        assert float(p[m]) == pytest.approx(test.pvalue, rel=1e-9, abs=0.02 if few else 1e-12)


@pytest.mark.parametrize(("images", "with_it"), [(18, 11), (20, 15), (30, 20)])
def test_images_without_a_concept_are_as_far_away_as_those_with_it(images: int, with_it: int) -> None:
    """Sums of ranks are often level with random ones: the ratio of both sides must not be rounded."""
    g = torch.Generator().manual_seed(images)
    L = torch.stack([(torch.randperm(images, generator=g) < with_it).float() for _ in range(30)], 1)
    scores = torch.randn(images, 30, generator=g)
    assert torch.equal(decodability(scores, L, draws=500)[1], decodability(scores, 1 - L, draws=500)[1])


def test_scores_that_are_above_0_on_few_images_tell_nothing_by_chance() -> None:
    """Ranks of which nearly all are level: the normal law says 1e-12 where one random set in 50 is as far."""
    g = torch.Generator().manual_seed(6)
    scores = torch.rand(1000, 30, generator=g) * (torch.rand(1000, 30, generator=g) < 0.003)
    L = (torch.rand(1000, 30, generator=g) < 0.05).float()
    L[:, 0] = 0
    L[torch.nonzero(scores[:, 0])[0], 0] = 1  # where one of its few images has the concept
    L[500:540, 0] = 1
    p = decodability(scores, L, draws=2000)[1]
    assert float(p.min()) > 0.003


def test_a_dead_layer_tells_nothing() -> None:
    L = torch.zeros(60, 2)
    L[:12, 0], L[:30, 1] = 1, 1
    auc, p = decodability(torch.zeros(60, 2), L)
    assert auc.tolist() == [0.5, 0.5]
    assert p.tolist() == [1.0, 1.0]


def test_a_concept_is_decodable_from_when_it_came_to_stay() -> None:
    auc = torch.tensor(
        [[0.9, 0.5, 0.5, 0.2], [0.6, 0.88, 0.6, 0.2], [0.88, 0.7, 0.7, 0.2], [0.9, 0.9, 0.5, 0.2]]
    )
    assert decodable_from(auc, torch.ones(4, 4, dtype=torch.bool)).tolist() == [2, 3, -1, -1]
    never = torch.ones(4, 4, dtype=torch.bool)
    never[3, 0] = False
    assert decodable_from(auc, never).tolist() == [-1, 3, -1, -1]


# -- what classes make of it ---------------------------------------------------------------------------------


def network(seed: int = 6) -> tuple[torch.Tensor, ClassGradients, torch.Tensor]:
    """Activations of 400 images, the gradients of tanh scores of 3 classes, and which class each image is."""
    rng = np.random.default_rng(seed)
    Q, W = torch.from_numpy(rng.gamma(1.0, size=(400, 16))), torch.from_numpy(rng.normal(size=(3, 16)))
    classes = torch.from_numpy(rng.integers(0, 3, 400))
    slope = 1 - torch.tanh(Q @ W.T / 4) ** 2
    own = slope[torch.arange(400), classes][:, None] * W[classes] / 4
    return Q, ClassGradients.of(own, classes, 3), classes


def test_sign_shares_are_those_of_plain_loops() -> None:
    Q, gradients, classes = network()
    _, L = some(400)
    V = concept_vectors(Q, L)
    found = sign_shares(gradients, V)
    for k, m in itertools.product(range(3), range(L.shape[1])):
        own = [gradients.own[i] for i in range(400) if classes[i] == k]
        share = sum(float(sum(g * v for g, v in zip(one, V[:, m], strict=True))) > 0 for one in own) / len(
            own
        )
        assert float(found[k, m]) == pytest.approx(share, abs=1e-12)


def test_the_effect_on_a_linear_score_is_exact() -> None:
    """With z = Wq, images with the concept score higher by the effect."""
    rng = np.random.default_rng(7)
    Q, W = torch.from_numpy(rng.gamma(1.0, size=(120, 6))), torch.from_numpy(rng.normal(size=(4, 6)))
    classes = torch.from_numpy(rng.integers(0, 4, 120))
    L = torch.from_numpy((rng.random((120, 3)) < 0.4).astype(float))
    gradients = ClassGradients.of(W[classes], classes, 4)
    found = class_effects(gradients, Q, L)
    scores = Q @ W.T
    for m in range(3):
        seen = scores[L[:, m] == 1].mean(0) - scores.mean(0)
        assert torch.allclose(found.difference[:, m], seen, atol=1e-12)
    # Every image has the class's gradient, so that a share of signs is all or nothing.
    assert gradients.same.tolist() == [True] * 4
    shares = sign_shares(gradients, concept_vectors(Q, L))
    assert bool(((shares == 0) | (shares == 1)).all())
    assert network()[1].same.tolist() == [False] * 3


def test_random_concepts_are_called_significant_as_often_as_they_should() -> None:
    """400 random sets of images: 5 +- 2 % at level .05, with few images and with many; shares of signs are
    extreme for most of them, which is why they are no test."""
    Q, gradients, _ = network()
    for size in (15, 60):
        L = torch.zeros(400, 400)
        L[random_sets(400, size, 400, seed=8).T, torch.arange(400)] = 1.0
        p = class_effects(gradients, Q, L).p
        assert 0.03 <= float((p < 0.05).double().mean()) <= 0.07
        _, held_out = decodability(torch.randn(400, 400, generator=torch.Generator().manual_seed(1)), L)
        assert 0.03 <= float((held_out < 0.05).double().mean()) <= 0.07
        shares = sign_shares(gradients, concept_vectors(Q, L))
        assert float(((shares < 0.05) | (shares > 0.95)).double().mean()) > 0.3
        odds = chance_of_shares(gradients, Q, shares, size, "fast")
        assert float((odds < 0.05).double().mean()) < 0.1


def test_a_planted_cause_is_found_and_a_class_without_images_has_none() -> None:
    Q, gradients, classes = network()
    pushed = gradients.mean[0] / gradients.mean[0].norm()
    there = Q @ pushed > (Q @ pushed).quantile(0.8)
    found = class_effects(gradients, Q, there[:, None].double())
    assert float(found.difference[0, 0]) > 0
    assert float(found.p[0, 0]) < 1e-6
    wider = ClassGradients.of(gradients.own, classes, 5)
    assert bool(class_effects(wider, Q, there[:, None].double()).p[3:].isnan().all())
    assert bool(sign_shares(wider, concept_vectors(Q, there[:, None].double()))[3:].isnan().all())


def test_cosines_of_columns() -> None:
    V = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    W = torch.tensor([[3.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
    found = cosines(V, W)
    assert found[:2].tolist() == pytest.approx([1.0, math.sqrt(0.5)])
    assert bool(found[2].isnan())


def test_units_move_their_classes_by_gradient_times_activation_beside_random_images() -> None:
    generator = torch.Generator().manual_seed(11)
    Q, own = torch.rand(90, 6, generator=generator), torch.randn(90, 6, generator=generator)
    classes = torch.arange(90) % 2
    Q[classes == 1, 4] += 1.0
    gradients = ClassGradients.of(own, classes, 3)
    found = unit_effects(gradients, Q)
    for k in (0, 1):
        for c in range(6):
            slope = sum(float(own[i, c]) for i in range(90) if classes[i] == k) / 45
            there = [float(Q[i, c]) for i in range(90) if classes[i] == k]
            apart = sum(there) / 45 - sum(float(Q[i, c]) for i in range(90)) / 90
            assert float(found.difference[k, c]) == pytest.approx(slope * apart, abs=1e-6)
            drawn = [float(Q[torch.randperm(90, generator=generator)[:45], c].mean()) for _ in range(400)]
            deviation = float(torch.tensor(drawn).std()) * abs(slope)
            assert float(found.spread[k, c]) == pytest.approx(deviation, rel=0.15)
    assert float(found.p[1, 4]) < 1e-9
    assert int((found.p[:2] < 0.01).sum()) == 2, "unit 4 for both classes, no other"
    assert bool(found.difference[2].isnan().all()), "no image is of class 2"
