"""Effects and p-values against chance, and the bootstrap over groups of images, against literal twins."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from concept_monitor_cli.functional import compositional as comp
from concept_monitor_cli.functional import dissection as nd
from concept_monitor_cli.functional.compositional import Formula
from concept_monitor_cli.functional.groups import ImageGroups
from tests.functional import twins_dissection as twins
from tests.functional.test_dissection import random_labels


def literal_effect(value: float, draws: list[float], layer_variance: float) -> float:
    """One number in moderated standard deviations of some draws."""
    mean = sum(draws) / len(draws)
    squares = sum((each - mean) ** 2 for each in draws)
    variance = (4 * layer_variance + squares) / (4 + len(draws) - 1)
    if value == mean:
        return 0.0
    return (value - mean) / math.sqrt(variance) if variance else math.copysign(math.inf, value - mean)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_effects_and_p_values_equal_the_twin(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rounds, units = int(rng.integers(3, 8)), int(rng.integers(1, 6))
    # Many equal draws and units without any spread, as supported IoUs are.
    null = rng.choice([0.0, 0.0, 0.1, 0.25], (rounds, units)) * rng.integers(0, 2, units)
    best = rng.choice([0.0, 0.1, 0.3, np.nan], units, p=[0.3, 0.3, 0.3, 0.1])
    alive = [k for k in range(units) if not np.isnan(best[k])]
    variance = [float(np.var(null[:, k], ddof=1)) for k in alive]
    layer = sum(variance) / len(variance) if variance else 0.0
    observed = {k: literal_effect(best[k], null[:, k].tolist(), layer) for k in alive}
    drawn = [
        literal_effect(null[r, k], np.delete(null[:, k], r).tolist(), layer)
        for k in alive
        for r in range(rounds)
    ]
    effect = nd.chance_effect(torch.from_numpy(best), torch.from_numpy(null))
    p = nd.chance_p_values(torch.from_numpy(best), torch.from_numpy(null))
    for k in range(units):
        if k not in alive:
            assert torch.isnan(effect[k])
            assert torch.isnan(p[k])
            continue
        most = (rounds + 1) / math.sqrt(rounds)
        expected = observed[k] if math.isfinite(observed[k]) else math.copysign(most, observed[k])
        assert effect[k].item() == pytest.approx(expected, abs=1e-9)
        # Rounding decides between numbers that are equal, so those may count either way.
        at_least = sum(each > observed[k] + 1e-9 or each == observed[k] for each in drawn)
        close = sum(abs(each - observed[k]) <= 1e-9 for each in drawn if math.isfinite(each))
        count = p[k].item() * (len(drawn) + 1) - 1
        assert at_least - close - 1e-6 <= count <= at_least + close + 1e-6


def test_p_values_are_uniform_for_units_like_their_draws() -> None:
    generator = torch.Generator().manual_seed(0)
    scale = torch.exp(torch.randn(400, generator=generator))
    draws = torch.distributions.Gamma(0.5, 1.0).sample((21, 400)) * scale  # skewed, and each unit its own
    p = nd.chance_p_values(draws[0], draws[1:])
    for level in (0.01, 0.05, 0.2):
        assert abs((p <= level).double().mean() - level) < 4 * math.sqrt(level / 400)


@given(st.integers(0, 2**32 - 1), st.sampled_from(nd.LABEL_RULES), st.sampled_from(nd.NORMALISERS))
@settings(max_examples=20, deadline=None)
def test_draws_of_groups_equal_the_twin(seed: int, rule: nd.LabelRule, normaliser: nd.Normaliser) -> None:
    rng = np.random.default_rng(seed)
    size, m, n, units = (6, 7), 7, 6, 3
    categories = rng.integers(-1, 3, size=m).tolist()
    images = random_labels(rng, n, m, size)
    dense = rng.random((n, units, *size)) < rng.choice([0.0, 0.2, 0.9], size=(n, units, 1, 1))
    groups = ImageGroups.read(rng.integers(0, 4, size=n))
    masks = nd.UnitMasks.from_dense(dense)
    draws = rng.multinomial(groups.n_groups, np.full(groups.n_groups, 1 / groups.n_groups), size=4)
    candidates = np.stack([rng.permutation(m)[:3] for _ in range(units)])
    candidates[:, 2] = rng.choice([-1, candidates[0, 2]], units)
    counts = nd.label_group_counts(images, masks, candidates, categories, groups, normaliser)
    planes = twins.planes(images, m, size).reshape(m, n, *size)
    nothing = np.zeros((n, *size), dtype=bool)
    formulas = [[Formula.of(int(c)) for c in row if c >= 0] for row in candidates]
    by_formula = comp.formula_group_counts(images, masks, formulas, categories, groups, normaliser)
    winners = nd.drawn_winners(counts, draws, rule)
    assert np.array_equal(winners, nd.drawn_winners(by_formula, draws, rule))
    for unit in range(units):
        concepts = [planes[c] if c >= 0 else nothing for c in candidates[unit]]
        counted = [
            _counted(images, dense[:, unit], categories, categories[c], normaliser) for c in candidates[unit]
        ]
        for r, draw in enumerate(draws):
            expected = twins.stable_label(
                images, dense[:, unit], concepts, counted, groups.of.tolist(), draw.tolist(), rule
            )
            assert winners[r, unit] == expected


def _counted(images, unit, categories, category, normaliser) -> np.ndarray:
    """The pixels of a unit that count against a label of this category: (N, h, w)."""
    kept = unit.copy()
    for i, image in enumerate(images):
        height, width = unit.shape[1:]
        pixels = [(y, x) for y in range(height) for x in range(width)]
        here = {categories[c] for y, x in pixels for c in twins.labels_at(image, y, x)}
        under = {categories[c] for y, x in pixels if unit[i, y, x] for c in twins.labels_at(image, y, x)}
        met = {"category": here, "mask": under, "none": {category}}[normaliser]
        if normaliser != "none" and (category < 0 or category not in met):
            kept[i] = False
    return kept


def test_formulas_are_drawn_by_their_own_pixels() -> None:
    size, m, n, seen = (6, 7), 5, 6, set()
    formulas = [
        Formula.of(0).extended("OR", 1),
        Formula.of(2).extended("AND NOT", 3),
        Formula.of(4).extended("OR", 0).extended("AND", 1),
    ]
    for seed in range(6):
        rng = np.random.default_rng(seed)
        images = random_labels(rng, n, m, size)
        dense = rng.random((n, 1, *size)) < 0.5
        planes = twins.planes(images, m, size).reshape(m, n, *size)
        masks, groups = nd.UnitMasks.from_dense(dense), ImageGroups.read([0, 1, 1, 2, 3, 0])
        counts = comp.formula_group_counts(images, masks, [formulas], [0] * m, groups)
        draws = rng.multinomial(4, [0.25] * 4, size=8)
        concepts = [each.evaluate(lambda c, planes=planes: planes[c]) for each in formulas]
        winners = nd.drawn_winners(counts, draws, "iou")
        for r, draw in enumerate(draws):
            expected = twins.stable_label(
                images, dense[:, 0], concepts, [dense[:, 0]] * 3, groups.of.tolist(), draw.tolist(), "iou"
            )
            assert winners[r, 0] == expected
        seen |= set(winners[:, 0].tolist())
    assert len(seen) > 1


def test_concept_sets_and_stability_by_hand() -> None:
    winners = np.array([[0, 1, -1]] * 5 + [[2, 1, -1]] * 3 + [[1, 1, 0], [0, -1, -1]])
    assert nd.share_first(winners).tolist() == [0.6, 0.0, 0.1]
    # Unit 0: 6, 1 and 3 of 10; 9 of 10 need the first two. Unit 1: in one draw nothing wins.
    assert nd.concept_sets(winners) == [[0, 2], [1], [0]]
    assert nd.concept_sets(winners, 0.95) == [[0, 2, 1], [1], [0]]
