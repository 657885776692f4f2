"""AUC within class: beside plain loops over pairs and all permutations, and where nothing is to be found."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
import torch
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.calibration import benjamini_hochberg
from concept_monitor_cli.functional.failures import DRAWS, compared, separation
from concept_monitor_cli.functional.groups import ImageGroups


def literal_auc(x: list[float], failed: list[bool], classes: list[int]) -> float:
    """Over all pairs of a failed and a succeeded case of one class: how often the failed one is higher."""
    won, pairs = 0.0, 0
    for i in range(len(x)):
        for j in range(len(x)):
            if classes[i] >= 0 and classes[i] == classes[j] and failed[i] and not failed[j]:
                won += 1.0 if x[i] > x[j] else 0.5 if x[i] == x[j] else 0.0
                pairs += 1
    return won / pairs


def literal_aucs_of_all_permutations(x: list[float], failed: list[bool], classes: list[int]) -> list[float]:
    """The AUC for every order of the failures within their classes, each as often as any other."""
    members = [[i for i in range(len(x)) if classes[i] == name] for name in sorted(set(classes))]
    found = []
    for orders in product(*(permutations(own) for own in members)):
        moved = list(failed)
        for own, order in zip(members, orders, strict=True):
            for place, source in zip(own, order, strict=True):
                moved[place] = failed[source]
        found.append(literal_auc(x, moved, classes))
    return found


def cases(n: int, share: float, n_classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Who failed, and the class of each."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.arange(n) % n_classes
    # Some classes are harder than others.
    harder = share * 2 * (classes + 1) / (n_classes + 1)
    return torch.rand(n, generator=generator) < harder, classes


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_auc_is_that_of_loops_over_pairs(seed: int) -> None:
    failed, classes = cases(60, 0.3, 4, seed)
    classes[::7] = -1
    X = torch.randn(60, 5, generator=torch.Generator().manual_seed(seed)).round(decimals=1).relu()
    X[:, 3] = 0
    X[:, 4] = 1e-3 * X[:, 4] + 1e6  # float32 keeps few of its digits, and makes ties
    X[5, 2] = torch.nan
    found = separation(X, failed, classes, seed=seed)
    for unit in (0, 1, 3, 4):
        own = literal_auc(X[:, unit].tolist(), failed.tolist(), classes.tolist())
        assert float(found.auc[unit]) == pytest.approx(own, abs=1e-12)
    assert found.auc[3] == 0.5
    assert found.p[3] == 1
    assert found.low[3] == found.high[3] == 0.5
    for each in (found.auc, found.low, found.high, found.p):
        assert bool(each[2].isnan())
        assert not bool(each[[0, 1, 3, 4]].isnan().any())
    kept = compared(failed, classes)
    assert (found.failed, found.succeeded) == (int(failed[kept].sum()), int((~failed[kept]).sum()))
    assert not bool(kept[classes < 0].any())


def test_p_and_band_are_those_of_all_permutations() -> None:
    failed = torch.tensor([True, False, False, True, True, False, False, False, True])
    classes = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 2])  # of the last class none succeeded
    X = torch.tensor([[5.0, 1, 4, 3, 2, 2, 1, 0, 9], [4.0, 1, 2, 3, 5, 2, 1, 0, 9]]).T
    found = separation(X, failed, classes)
    assert (found.failed, found.succeeded) == (3, 5)
    for unit in (0, 1):
        x = X[:8, unit].tolist()
        every = literal_aucs_of_all_permutations(x, failed[:8].tolist(), classes[:8].tolist())
        own = float(found.auc[unit])
        reached = np.mean([abs(value - 0.5) >= abs(own - 0.5) - 1e-9 for value in every])
        error = np.sqrt(reached * (1 - reached) / DRAWS)
        assert float(found.p[unit]) == pytest.approx(reached, abs=4 * error + 1 / DRAWS)
        assert float(found.low[unit]) == pytest.approx(np.quantile(every, 0.025), abs=0.03)
        assert float(found.high[unit]) == pytest.approx(np.quantile(every, 0.975), abs=0.03)
    assert found.auc[1] == 1


def test_a_unit_of_a_difficult_class_says_nothing_and_a_planted_one_everything() -> None:
    failed, classes = cases(400, 0.2, 4, 0)
    generator = torch.Generator().manual_seed(1)
    noise = torch.rand(400, generator=generator)
    confounded = classes.double()
    planted = failed + 10.0 * classes + 0.5 * noise  # much higher in other classes than on failures
    X = torch.stack([confounded, planted, -planted, noise], 1)
    # Over all images the unit of the class tells failures from successes.
    whole = separation(X, failed, torch.zeros_like(classes))
    assert whole.auc[0] > 0.6
    assert whole.p[0] < 0.01
    found = separation(X, failed, classes)
    assert found.auc[:3].tolist() == [0.5, 1.0, 0.0]
    assert found.p[0] == 1
    assert found.p[1:3].tolist() == [1 / (DRAWS + 1)] * 2
    assert found.low[3] < 0.5 < found.high[3]
    assert benjamini_hochberg(found.p).tolist() == [False, True, True, False]
    # Every class weighs by its pairs: a class with few failures has little to say.
    aucs, pairs = [], []
    for name in range(4):
        mine = classes == name
        one = separation(X[mine], failed[mine], classes[mine])
        aucs.append(float(one.auc[3]))
        pairs.append(one.failed * one.succeeded)
    assert float(found.auc[3]) == pytest.approx(np.average(aucs, weights=pairs), abs=1e-12)
    assert len(set(pairs)) == 4


def test_one_unit_of_many_can_be_called_and_units_that_chance_reaches_are_not() -> None:
    failed, classes = cases(200, 0.2, 2, 0)
    X = torch.randn(200, 300, generator=torch.Generator().manual_seed(0))
    X[:, 7] = failed + 0.1 * X[:, 7]
    found = separation(X, failed, classes)
    assert torch.nonzero(benjamini_hochberg(found.p)).flatten().tolist() == [7]
    assert float(found.p[7]) == pytest.approx(1 / (300 / 0.05 + 1))
    # The others have theirs from the first 1,000.
    counted = found.p[found.p > 0.06] * (DRAWS + 1)
    assert len(counted) > 250
    assert torch.allclose(counted, counted.round(), atol=1e-6)


def test_shuffled_failures_call_none() -> None:
    """p-values below any share are no more frequent than that share, and what is called is called rarely."""
    X = torch.randn(120, 40, generator=torch.Generator().manual_seed(0))
    X[:, ::3] = X[:, ::3].relu()
    X[:, 1::3] = (X[:, 1::3] - 1.5).relu()  # fires on few images
    runs, small, called, inside = 30, 0.0, 0, 0.0
    for seed in range(runs):
        failed, classes = cases(120, 0.15, 3, seed)
        found = separation(X, failed, classes, seed=seed)
        small += float((found.p <= 0.05).double().mean()) / runs
        called += bool(benjamini_hochberg(found.p).any())
        inside += float(((found.auc >= found.low) & (found.auc <= found.high)).double().mean()) / runs
    assert small < 0.06
    assert called <= 4
    assert inside > 0.93


def test_copies_of_images_are_permuted_together() -> None:
    failed, classes = cases(40, 0.3, 2, 3)
    X = torch.randn(40, 30, generator=torch.Generator().manual_seed(3))
    once = separation(X, failed, classes)
    copies, of = [each.repeat_interleave(6, dim=0) for each in (X, failed, classes)], np.arange(40).repeat(6)
    together = separation(*copies, ImageGroups.read(of))
    assert torch.allclose(together.auc, once.auc, atol=1e-12)
    assert float((together.p - once.p).abs().max()) < 0.06
    assert float((together.high - once.high).abs().max()) < 0.03
    apart = separation(*copies)
    assert bool(benjamini_hochberg(apart.p).any()), "without groups copies look like evidence"
    assert not bool(benjamini_hochberg(together.p).any())
    # Copies in other places, groups of other sizes, a group that lies in two classes.
    mixed = separation(X, failed, classes, ImageGroups.read([number // 3 for number in range(40)]))
    assert torch.equal(mixed.auc, once.auc)
    assert bool((mixed.low <= mixed.high).all())


def test_the_same_seed_gives_the_same_and_units_do_not_depend_on_their_companions() -> None:
    failed, classes = cases(80, 0.3, 3, 0)
    X = torch.randn(80, 12, generator=torch.Generator().manual_seed(0))
    first, again = separation(X, failed, classes, seed=5), separation(X, failed, classes, seed=5)
    alone = separation(X[:, 3:5], failed, classes, seed=5)
    for name in ("auc", "low", "high", "p"):
        assert torch.equal(getattr(first, name), getattr(again, name))
        assert torch.allclose(getattr(alone, name), getattr(first, name)[3:5], atol=1e-12)


def test_what_cannot_be_compared_is_refused() -> None:
    X = torch.rand(6, 2)
    classes = torch.tensor([0, 0, 0, 1, 1, 1])
    with pytest.raises(InputError, match="no class has both"):
        separation(X, torch.zeros(6, dtype=torch.bool), classes)
    with pytest.raises(InputError, match="no class has both"):
        separation(X, classes == 1, classes)
    with pytest.raises(InputError, match="cases"):
        separation(X, torch.zeros(5, dtype=torch.bool), classes)
