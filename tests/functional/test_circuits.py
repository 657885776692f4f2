"""Edges between layers, against plain loops in double precision, and what luck gives."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from late import Late

from concept_monitor_cli.functional.circuits import (
    agreement,
    concept_graph,
    conv_channels,
    edge_p_values,
    fires,
    proportional_draws,
    sampling_error,
    standardised,
    tap_shares,
    unions,
)

stats = Late("scipy.stats")


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- draws ---------------------------------------------------------------------------------------------------


def test_all_images_that_matter_give_the_mean_itself() -> None:
    sizes = np.array([0.0, 2.0, 0.0, 1.0, 3.0])
    images, weights = proportional_draws(sizes, 3)
    assert images.tolist() == [1, 3, 4]
    change = np.array([9.0, 4.0, 9.0, -1.0, 6.0]) * (sizes > 0)
    assert (weights * change[images]).sum() == pytest.approx(change.mean())


def test_draws_estimate_the_mean_without_bias_and_know_their_error() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.exponential(size=60) * (rng.random(60) < 0.7)
    change = sizes * (1 + 0.5 * rng.normal(size=60))
    estimates, errors = [], []
    for seed in range(300):
        images, weights = proportional_draws(sizes, 8, seed=seed)
        assert (sizes[images] > 0).all()
        times = weights * 60 * 8 * sizes[images] / sizes.sum()
        assert times.sum() == pytest.approx(8)
        estimates.append((weights * change[images]).sum())
        alone = torch.from_numpy(weights * 8 / times * change[images])[:, None]
        errors.append(float(sampling_error(alone, torch.from_numpy(times))))
    spread = np.std(estimates)
    assert np.mean(estimates) == pytest.approx(change.mean(), abs=4 * spread / math.sqrt(300))
    # Systematic draws are better than the independent ones that the error supposes, and it counts one more.
    assert spread < np.sqrt(np.mean(np.square(errors))) < 2 * spread
    # Images drawn alike, whatever the unit does on them, are worse.
    alike = [change[rng.choice(60, 8)].mean() for _ in range(300)]
    assert np.std(alike) > 1.5 * spread


def test_a_single_draw_has_no_error() -> None:
    assert sampling_error(torch.ones(1, 2), torch.ones(1)).isnan().all()


def test_the_error_is_that_of_the_draws_and_one_more_without_effect() -> None:
    contributions = torch.randn(5, 3, generator=generator(20), dtype=torch.float64)
    contributions[:, 2] = 0
    times = torch.tensor([1.0, 2.0, 1.0, 3.0, 1.0])
    found = sampling_error(contributions, times)
    for k in range(3):
        drawn = [float(contributions[m, k]) for m in range(5) for _ in range(int(times[m]))] + [0.0]
        middle = sum(drawn) / len(drawn)
        variance = sum((each - middle) ** 2 for each in drawn) / (len(drawn) - 1)
        assert float(found[k]) == pytest.approx(math.sqrt(variance / len(drawn)))
    alike = sampling_error(torch.full((8, 1), 2.0), torch.ones(8))
    assert float(alike) == pytest.approx(2.0 / 9)


@pytest.mark.parametrize("off", [0.02, 0.05, 0.2])
def test_an_edge_that_few_images_lack_is_within_three_errors(off: float) -> None:
    """The later unit is on in nearly all draws, often in all of them: their spread alone says no error."""
    rng = np.random.default_rng(1)
    draws = 24
    beyond = naive = agree = 0
    for _ in range(400):
        kept = (rng.random(draws) >= off).astype(float)
        contributions = torch.from_numpy(kept)[:, None]
        error = float(sampling_error(contributions, torch.ones(draws)))
        away = abs(kept.mean() - (1 - off))
        beyond += away > 3 * error
        naive += away > 3 * float(np.std(kept, ddof=1)) / math.sqrt(draws)
        agree += kept.min() == 1
    assert beyond <= 0.05 * 400
    if off < 0.1:
        # The null of this test: without the draw that is added, an edge would be called sure, wrongly.
        assert naive >= agree > 0.2 * 400


# -- weights -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "dilation"),
    [(6, 3, 1, 1, 1), (6, 3, 2, 1, 1), (1, 3, 1, 1, 1), (7, 5, 2, 2, 1), (9, 3, 1, 2, 2), (4, 1, 2, 0, 1)],
)
@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_of_flat_maps_is_the_matrix(
    size: int, kernel: int, stride: int, padding: int, dilation: int, groups: int
) -> None:
    """Where every channel has one value everywhere, the mean of the output is exact."""
    conv = torch.nn.Conv2d(
        4, 6, kernel, stride=stride, padding=padding, dilation=dilation, groups=groups, bias=False
    ).double()
    values = torch.randn(4, generator=generator(0), dtype=torch.float64)
    out = conv(values.view(1, 4, 1, 1).expand(1, 4, size, size))
    share = tap_shares(size, out.shape[2], kernel, stride=stride, padding=padding, dilation=dilation)
    matrix = conv_channels(conv.weight, (share, share), groups)
    torch.testing.assert_close(matrix @ values, out[0].mean((1, 2)))


# -- edges ---------------------------------------------------------------------------------------------------


def twin_standardised(effect: list[list[float]]) -> list[list[float]]:
    rows, columns = len(effect), len(effect[0])
    silent_row = [all(v == 0 for v in row) for row in effect]
    silent_column = [all(row[k] == 0 for row in effect) for k in range(columns)]
    z = [list(row) for row in effect]
    for _ in range(10):
        for i in range(rows):
            if not silent_row[i]:
                kept = [z[i][k] for k in range(columns) if not silent_column[k]]
                scale = math.sqrt(sum(v * v for v in kept) / len(kept))
                z[i] = [v / scale for v in z[i]]
        for k in range(columns):
            if not silent_column[k]:
                kept = [z[i][k] for i in range(rows) if not silent_row[i]]
                scale = math.sqrt(sum(v * v for v in kept) / len(kept))
                for i in range(rows):
                    z[i][k] /= scale
    return [
        [math.nan if silent_row[i] or silent_column[k] else z[i][k] for k in range(columns)]
        for i in range(rows)
    ]


def test_p_values_count_the_edges_of_the_random_network() -> None:
    effect = torch.randn(5, 7, generator=generator(1), dtype=torch.float64)
    effect[2] = 0
    untrained = torch.randn(4, 7, generator=generator(2), dtype=torch.float64)
    p = edge_p_values(effect, untrained)
    z, null = twin_standardised(effect.tolist()), twin_standardised(untrained.tolist())
    torch.testing.assert_close(standardised(effect), torch.tensor(z, dtype=torch.float64), equal_nan=True)
    flat = [abs(v) for row in null for v in row]
    for i in range(5):
        for k in range(7):
            if i == 2:
                assert p[i, k].isnan()
                continue
            expected = (1 + sum(v >= abs(z[i][k]) * (1 - 1e-9) for v in flat)) / (1 + len(flat))
            assert float(p[i, k]) == pytest.approx(expected)
    assert edge_p_values(effect, torch.zeros(2, 7)).isnan().all()


def test_random_edges_are_as_often_significant_as_they_should_and_loud_units_do_not_help() -> None:
    loud = torch.rand(40, 1, generator=generator(3)) * 50 + 0.1
    effect = torch.randn(40, 50, generator=generator(4)) * loud
    effect[7, 9] = 9 * float(loud[7])
    p = edge_p_values(effect, torch.randn(40, 50, generator=generator(5)))
    others = torch.ones(40, 50, dtype=torch.bool)
    others[7] = False
    others[:, 9] = False
    assert float((p[others] < 0.05).double().mean()) == pytest.approx(0.05, abs=0.015)
    assert float(p[7, 9]) < 2 / 2000


def test_agreement_of_what_two_ways_say() -> None:
    a = torch.tensor([[1.0, 2.0], [3.0, torch.nan]])
    assert agreement(a, 2 * a + 1)[0] == pytest.approx(1)
    assert agreement(a, a.exp())[1] == pytest.approx(1)
    assert all(math.isnan(each) for each in agreement(a, torch.ones(2, 2)))


# -- concepts ------------------------------------------------------------------------------------------------


def twin_shares(
    effect: list[list[float]], sources: list[int], targets: list[int], sign: int, s: int, t: int
) -> float:
    into = part = 0.0
    for i, row in enumerate(effect):
        for k, value in enumerate(row):
            if targets[k] == t and sign * value > 0:
                into += abs(value)
                part += abs(value) * (sources[i] == s)
    return part / into if into else math.nan


@pytest.mark.parametrize("sign", [1, -1])
def test_shares_of_concepts_against_loops(sign: int) -> None:
    effect = torch.randn(9, 8, generator=generator(6), dtype=torch.float64)
    sources = torch.tensor([0, 0, 1, -1, 2, 1, -1, 0, 2])
    targets = torch.tensor([1, 0, -1, 1, 0, 2, -1, 2])
    effect[:, 5] = effect[:, 7] = sign  # of target 2 nothing has the other sign
    graph = concept_graph(effect, sources, targets, sign, draws=20)
    empty = concept_graph(effect, sources, targets, -sign, draws=20)
    for s in range(3):
        for t in range(3):
            expected = twin_shares(effect.tolist(), sources.tolist(), targets.tolist(), sign, s, t)
            assert float(graph.share[s, t]) == pytest.approx(expected)
        assert empty.share[s, 2].isnan()
        assert empty.p[s, 2].isnan()
        assert float(empty.strength[s, 2]) == 0


def test_what_builds_a_concept_is_found_and_random_wiring_is_not() -> None:
    sources = torch.arange(60) % 7 - 1
    targets = torch.arange(40) % 5 - 1
    hits = total = 0
    for seed in range(12):
        effect = torch.randn(60, 40, generator=generator(seed), dtype=torch.float64)
        graph = concept_graph(effect, sources, targets, 1, draws=199, seed=seed)
        hits += int((graph.p <= 0.05).sum())
        total += graph.p.numel()
    assert hits / total == pytest.approx(0.05, abs=0.035)
    effect = torch.randn(60, 40, generator=generator(99), dtype=torch.float64)
    effect[(sources == 2)[:, None] & (targets == 3)[None, :]] += 2
    effect[(sources == 4)[:, None] & (targets == 1)[None, :]] -= 2
    excites, inhibits = (concept_graph(effect, sources, targets, sign, draws=199) for sign in (1, -1))
    assert float(excites.p[2, 3]) == pytest.approx(1 / 200)
    assert float(inhibits.p[4, 1]) == pytest.approx(1 / 200)
    assert float(excites.p[4, 1]) > 0.5
    assert float(excites.share[2, 3]) > 1.5 * float(excites.chance[2, 3])


def test_a_unit_that_unites_two_cases_is_found() -> None:
    n = 200
    a, b = torch.zeros(n, dtype=torch.bool), torch.zeros(n, dtype=torch.bool)
    a[:20], b[20:40] = True, True
    noise = 0.1 * torch.rand(n, 3, generator=generator(7))
    sources = torch.stack([a.float(), b.float(), torch.rand(n, generator=generator(8))], 1) + noise
    target = torch.stack([a.float() + b.float(), a.float(), sources[:, 2]], 1)
    target = target + 0.3 * torch.rand(n, 3, generator=generator(9))
    effect = torch.tensor([[1.0, 1.0, 0.1], [1.0, 0.1, 0.1], [0.1, 0.2, 1.0]])
    shown = fires(sources, 0.1)
    assert shown.sum(0).tolist() == [20, 20, 20]
    found = unions(target, effect, shown, torch.arange(3))
    assert [(each.target, each.first, each.second) for each in found] == [(0, 0, 1)]
    top = target[:, 0].topk(10).indices
    one = (shown[top, 0] ^ shown[top, 1]).double().mean()
    assert found[0].one == pytest.approx(float(one))
    everywhere = int((shown[:, 0] ^ shown[:, 1]).sum())
    assert found[0].chance == pytest.approx(everywhere / n)
    assert found[0].p == pytest.approx(float(stats.hypergeom.sf(10 * one - 1, n, everywhere, 10)))
    # Other images in the target's place show no union.
    order = torch.randperm(n, generator=generator(10))
    assert unions(target[order], effect, shown, torch.arange(3)) == []
    # What inhibits is no case.
    assert unions(target, -effect, shown, torch.arange(3)) == []
