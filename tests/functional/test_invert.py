"""AUC of formulas: against scikit-learn, SciPy and every formula tried by hand; planted ones; chance."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.calibration import benjamini_hochberg, pooled_p_values, shuffled
from concept_monitor_cli.functional.held_out import held_out_auc
from concept_monitor_cli.functional.invert import (
    AND,
    AND_NOT,
    OR,
    SINGLE,
    FormulaTable,
    PresenceFormula,
    mann_whitney,
)
from concept_monitor_cli.functional.ranks import average_ranks

Array = NDArray[np.float64]


def literal_auc(values: Array, holds: Array) -> float:
    """Every pair of an image with and one without."""
    on, off = values[holds == 1], values[holds == 0]
    wins = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a in on for b in off)
    return wins / (len(on) * len(off))


def literal_best(values: Array, present: Array, fewest: int, share: float) -> tuple[float, int]:
    """The highest AUC of any formula of at most two concepts or its negation, and how many are tried."""
    concepts = [m for m in range(present.shape[1]) if np.nansum(present[:, m]) >= fewest]
    sets: list[Array] = [present[:, i] for i in concepts]
    for i, j in itertools.permutations(concepts, 2):
        a, b = present[:, i], present[:, j]
        known = ~(np.isnan(a) | np.isnan(b))
        made = [np.where(known, a * (1 - b), np.nan)]
        if i < j:
            made += [np.where(known, np.maximum(a, b), np.nan), np.where(known, a * b, np.nan)]
        own = [np.where(known, a, np.nan), np.where(known, b, np.nan)]
        sets += [s for s in made if not any(np.array_equal(s, o, equal_nan=True) for o in own)]
    best, tried = 0.5, 0
    for holds in sets:
        known = ~np.isnan(holds)
        n, shown = int(known.sum()), int(np.nansum(holds))
        if fewest <= shown <= share * n:
            tried += 1
            auc = literal_auc(values[known], holds[known])
            best = max(best, auc, 1 - auc)
    return best, tried


def random_presence(rng: np.random.Generator, n: int, concepts: int, *, unknown: bool) -> Array:
    present = (rng.random((n, concepts)) < rng.uniform(0.05, 0.7, concepts)).astype(float)
    if unknown:  # concepts of two kinds, each looked for on some of the images
        for kind in range(2):
            present[np.ix_(rng.random(n) < 0.3, np.arange(concepts) % 3 == kind)] = np.nan
    return present


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("unknown", [False, True])
def test_the_best_formula_is_that_of_trying_all_by_hand(seed: int, unknown: bool) -> None:
    rng = np.random.default_rng(seed)
    present = random_presence(rng, 40, 6, unknown=unknown)
    values = np.maximum(rng.normal(size=(40, 4)), 0.0).round(1)  # ties, as after a ReLU
    table = FormulaTable(torch.from_numpy(present), fewest=4)
    best = table.best(torch.from_numpy(values))
    for unit in range(4):
        auc, tried = literal_best(values[:, unit], present, 4, 0.5)
        assert table.n_formulas == tried
        assert float(best.auc[unit]) == pytest.approx(auc, abs=1e-12)
        formula = best.formulas[unit]
        assert formula is not None
        # The AUC is that of the formula that is printed, on the images that count for it.
        holds = formula.holds(torch.from_numpy(present)).numpy()
        known = ~np.isnan(holds)
        assert literal_auc(values[known, unit], holds[known]) == pytest.approx(auc, abs=1e-12)
        assert (int(best.shown[unit]), int(best.counted[unit])) == (int(np.nansum(holds)), int(known.sum()))


def test_auc_and_p_are_those_of_scikit_learn_and_scipy() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    from scipy.stats import mannwhitneyu

    rng = np.random.default_rng(0)
    present = random_presence(rng, 300, 12, unknown=False)
    values = np.maximum(rng.normal(size=(300, 20)), 0.0).round(2)
    auc, z = FormulaTable(torch.from_numpy(present), largest_share=0.9).singles(torch.from_numpy(values))
    assert bool(auc.isfinite().any())
    for unit, concept in itertools.product(range(20), range(12)):
        if auc[unit, concept].isfinite():
            own = metrics.roc_auc_score(present[:, concept], values[:, unit])
            assert float(auc[unit, concept]) == pytest.approx(own, abs=1e-12)
            on = present[:, concept] == 1
            p = mannwhitneyu(
                values[on, unit], values[~on, unit], method="asymptotic", use_continuity=False
            ).pvalue
            assert float(mann_whitney(z[unit, concept][None], 1)[0]) == pytest.approx(p, rel=1e-9)
    assert mann_whitney(torch.tensor([1.0]), 1000).tolist() == [1.0]


@pytest.mark.parametrize("operator", [SINGLE, OR, AND, AND_NOT])
@pytest.mark.parametrize("negated", [False, True])
def test_planted_formulas_are_found_exactly(operator: int, negated: bool) -> None:
    rng = np.random.default_rng(operator)
    present = torch.from_numpy((rng.random((400, 15)) < 0.25).astype(float))
    planted = [PresenceFormula(i, -1 if operator == SINGLE else i + 7, operator, negated) for i in range(7)]
    Q = torch.stack([each.holds(present) for each in planted], 1) + 0.3 * torch.rand(
        400, 7, generator=torch.Generator().manual_seed(1)
    )
    best = FormulaTable(present).best(Q)
    assert best.formulas == planted
    assert best.auc.tolist() == pytest.approx([1.0] * 7, abs=1e-12)


def test_blind_units_are_rarely_called() -> None:
    """Units that know nothing, tested as the detector does: at most 5 % of a layer, and two."""
    rng = np.random.default_rng(4)
    called, low = [], []
    for layer in range(6):
        present = torch.from_numpy((rng.random((120, 10)) < 0.2).astype(float))
        Q = torch.from_numpy(np.maximum(rng.normal(size=(120, 40)), 0.0))
        table = FormulaTable(present)
        null = torch.stack([table.best(shuffled(Q, seed=100 * layer + b)).z for b in range(20)])
        z = table.best(Q).z
        p = pooled_p_values(z, null, studentised=False)
        called.append(int(benjamini_hochberg(p).sum()))
        low.append(float((p <= 0.05).double().mean()))
        assert int(benjamini_hochberg(mann_whitney(z, table.n_formulas)).sum()) <= 0.05 * 40 + 2
    assert max(called) <= 0.05 * 40 + 2
    assert 0.02 < np.mean(low) < 0.09


def test_a_set_of_one_image_is_not_tried_and_equal_formulas_only_once() -> None:
    present = torch.zeros(60, 3)
    present[:20, 0] = 1
    present[:20, 1] = 1  # the same images: no pair of them says more
    present[0, 2] = 1
    table = FormulaTable(present)
    assert table.n_formulas == 2
    Q = torch.zeros(60, 1)
    Q[0] = 1
    assert table.best(Q).formulas == [PresenceFormula(0)]
    assert FormulaTable(present[:, 2:]).best(Q).formulas == [None]
    with pytest.raises(InputError, match="need"):
        FormulaTable(torch.zeros(0, 3))


def test_texts() -> None:
    names = ("dog", "grass")
    texts = [
        PresenceFormula(0, 1, operator, negated).text(names)
        for operator in (OR, AND, AND_NOT)
        for negated in (False, True)
    ]
    assert texts[0::2] == ["dog OR grass", "dog AND grass", "dog AND NOT grass"]
    assert texts[1::2] == [f"NOT ({text})" for text in texts[0::2]]
    assert PresenceFormula(1, negated=True).text(names) == "NOT grass"


def test_ranks_are_scipys() -> None:
    from scipy.stats import rankdata

    values = np.random.default_rng(0).integers(0, 5, (30, 4)).astype(float)
    np.testing.assert_array_equal(average_ranks(torch.from_numpy(values)).numpy(), rankdata(values, axis=0))
    own, _ = held_out_auc(torch.eye(4), torch.eye(4), torch.arange(4), share=0.25)
    assert own.tolist() == [1.0] * 4
    assert math.isnan(float(held_out_auc(torch.ones(4, 1), torch.eye(4), torch.tensor([0]))[0]))
