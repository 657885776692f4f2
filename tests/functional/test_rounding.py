"""What is equal but for rounding, and what scales: no finding may hang on the last digits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from concept_monitor_cli.functional.dissection.chance import chance_effect, chance_effects
from concept_monitor_cli.functional.evaluation.cutoff import quality_cutoff
from concept_monitor_cli.functional.evaluation.layers import nearest_units
from concept_monitor_cli.functional.evaluation.weights import permuted_correlations
from concept_monitor_cli.functional.linear import correlations, standardise


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_units_that_found_what_every_draw_found_have_no_effect() -> None:
    values = torch.from_numpy(np.random.default_rng(1).random(64) * 0.01 + 1e-4)
    assert chance_effect(values, values.repeat(20, 1)).tolist() == [0.0] * 64
    one = torch.tensor([0.9350724237877682], dtype=torch.float64)
    # What was found counts among the draws.
    found = chance_effect(2 * one, one.expand(20, 1).contiguous())
    assert found.tolist() == pytest.approx([21 / math.sqrt(20)])
    own, drawn = chance_effects(one, one.expand(20, 1).contiguous())
    assert own.tolist() == [0.0]
    assert drawn.tolist() == [[0.0]] * 20


@pytest.mark.parametrize("quality", [0.1, 0.7, 1 / 3])
def test_labels_that_are_all_as_good_as_wanted_are_all_above_the_cutoff(quality: float) -> None:
    found = quality_cutoff(random(30), torch.full((30,), quality, dtype=torch.float64), quality)
    assert found.units == 30


def test_of_units_that_are_copies_the_first_is_the_nearest() -> None:
    means = random(50, 12, seed=2)
    units, cosines = nearest_units(torch.cat([means, 3 * means, means]))
    assert units[:50].tolist() == list(range(50, 100))
    assert units[50:].tolist() == [*range(50), *range(50)]
    assert float(cosines.max()) <= 1


@pytest.mark.parametrize("scale", [1e-30, 1e-9, 1.0, 1e20])
def test_correlations_and_columns_do_not_depend_on_the_scale(scale: float) -> None:
    values, other = random(200, 3, seed=3).double() + 5, random(200, 3, seed=4).double()
    other = other + values
    torch.testing.assert_close(correlations(values * scale, other), correlations(values, other))
    fitted = torch.arange(200) < 100
    torch.testing.assert_close(standardise(values * scale, fitted), standardise(values, fitted))
    same = torch.full((200, 3), 0.1, dtype=torch.float64) * scale
    assert correlations(same, other).tolist() == [0.0] * 3
    assert standardise(same, fitted).abs().max() == 0
    assert standardise(values * scale, torch.zeros(200, dtype=torch.bool)).abs().max() == 0


def test_weights_that_are_all_the_same_have_no_correlation_by_chance() -> None:
    same = torch.full((3, 25), 0.1, dtype=torch.float64)
    assert bool(permuted_correlations(same, random(3, 25), permutations=5).isnan().all())
    assert bool(permuted_correlations(random(3, 25), same, permutations=5).isnan().all())
