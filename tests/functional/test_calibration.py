from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from late import Late
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.calibration import (
    above_null,
    benjamini_hochberg,
    label_beside_chance,
    label_evidence,
    p_values,
    permuted_best_scores,
    pooled_p_values,
    random_top_images,
    shuffled,
    standardised,
)
from concept_monitor_cli.functional.similarity import (
    ConceptActivations,
    cos,
    cos_cubed,
    rank_reorder,
    soft_wpmi_evidence,
    wpmi_evidence,
)
from concept_monitor_cli.functional.similarity.pmi import Evidence
from concept_monitor_cli.functional.topk import top_images
from tests.functional import twins

stats = Late("scipy.stats")

EVIDENCE = {"soft_wpmi": (soft_wpmi_evidence, 100, 1.0), "wpmi": (wpmi_evidence, 28, 0.6)}


def world(n: int = 1200, m: int = 60, d: int = 32, seed: int = 0) -> tuple[ConceptActivations, Tensor]:
    """Images that each show one concept; which one."""
    g = torch.Generator().manual_seed(seed)
    texts = torch.nn.functional.normalize(torch.randn(m, d, generator=g) + 0.5, dim=1)
    shown = torch.randint(0, m // 2, (n,), generator=g)  # half of the words describe nothing in the images
    images = torch.nn.functional.normalize(texts[shown] + 0.2 * torch.randn(n, d, generator=g), dim=1)
    return ConceptActivations.from_embeddings(images, texts), shown


def layer(shown: Tensor, units: int, planted: int, seed: int = 1) -> Tensor:
    """Units with activations of different kinds; the first `planted` fire on one concept each."""
    g = torch.Generator().manual_seed(seed)
    n = shown.numel()
    Q = torch.randn(n, units, generator=g)
    Q[:, ::2] = (Q[:, ::2] - torch.rand(units // 2 + units % 2, generator=g) * 1.5).relu()  # sparse ones
    Q[:, 1::4] += 5  # ones that fire on everything
    wired = torch.randint(0, int(shown.max()) + 1, (planted,), generator=g)
    Q[:, :planted] += 4.0 * (shown[:, None] == wired)
    return Q


def calibrated(name: str, P: ConceptActivations, Q: Tensor, draws: int = 2000) -> tuple[Tensor, Tensor]:
    function, k, lam = EVIDENCE[name]
    evidence = function(P, top_images(Q, k)[0])
    null = function(P, random_top_images(P.n_images, k, draws, seed=7))
    p = p_values(*label_evidence(evidence, null, lam=lam))
    return p, benjamini_hochberg(p)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors here are tiny: threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("units", [1, 2, 9])
@pytest.mark.parametrize("name", EVIDENCE)
def test_label_evidence_is_that_of_the_label_in_this_layer(name: str, units: int) -> None:
    function, k, lam = EVIDENCE[name]
    P, shown = world(n=200, m=80)
    evidence = function(P, top_images(layer(shown, units, min(units, 3)), k)[0])
    null = function(P, random_top_images(200, k, 20))
    found, chance = label_evidence(evidence, null, lam=lam)
    beside = label_beside_chance(evidence, null, lam=lam)
    assert torch.equal(beside.order, evidence.order(lam))
    assert torch.equal(beside.chance, chance)
    own = torch.arange(units) % 2 == 0
    assert torch.equal(evidence.scores(lam, own=own), evidence.scores(lam)[own])
    assert torch.equal(evidence.order(lam, own), evidence.order(lam)[own])
    E, random = evidence.values.double(), null.values.double()
    published = evidence.scores(lam).argmax(1)

    def compared(own: Tensor, rows: Tensor, random: Tensor) -> list[float]:
        """Of the label; of several, where they are level up to rounding, as with few units they often are."""
        scores = own - lam * (torch.logsumexp(rows, 0) - math.log(units))
        labels = (scores >= scores.max() - 1e-5).nonzero().flatten()
        column = random[:, labels]
        return ((own[labels] - column.mean(0)) / column.std(0, correction=0)).tolist()

    for c in range(units):
        assert min(abs(float(found[c]) - each) for each in compared(E[c], E, random)) < 1e-3
        label = int(published[c])
        z = (E[c, label] - random[:, label].mean()) / random[:, label].std(correction=0)
        assert float(found[c]) == pytest.approx(float(z), abs=1e-3)
    for r in range(20):
        rows = E.clone()
        rows[r % units] = random[r]
        others = torch.cat([random[:r], random[r + 1 :]])
        assert min(abs(float(chance[r]) - each) for each in compared(random[r], rows, others)) < 1e-3


@pytest.mark.parametrize("units", [1, 7])
def test_chance_is_the_same_where_many_draws_share_a_label(units: int) -> None:
    """Far more draws than fit a block, so that those of one label are looked at together."""
    draws, m = 700, 40
    rows = torch.randn(units + draws, m, generator=torch.Generator().manual_seed(1))
    rows[:, :3] += 2.0  # most draws have one of three labels
    layer, null = Evidence(rows[:units], 0.0), Evidence(rows[units:], 0.0)
    chance = label_beside_chance(layer, null, lam=0.0).chance
    E = null.values.double()
    for r in range(draws):
        label = int(null.values[r].argmax())
        others = torch.cat([E[:r, label], E[r + 1 :, label]])
        expected = (E[r, label] - others.mean()) / others.std(correction=0)
        assert float(chance[r]) == pytest.approx(float(expected), abs=1e-4)
    assert len(null.values.argmax(1).unique()) < draws / 10


@pytest.mark.parametrize("m", [6, 40])
def test_a_concept_that_no_unit_looks_for_does_not_hide_the_others(m: int) -> None:
    """Its prior is far down, so that every random set of images gets it as its label, with a high score."""
    P, shown = world(n=600, m=2 * m)
    wired = torch.arange(60) % (m - max(1, m // 4))
    Q = 0.3 * torch.randn(600, 60, generator=torch.Generator().manual_seed(0)) + (shown[:, None] == wired)
    _, called = calibrated("soft_wpmi", P, Q)
    assert called.float().mean() >= 0.6
    # Half of them broken: these are not called.
    mixed = torch.cat([Q[:, ::2], shuffled(Q)[:, 1::2]], 1)
    _, called = calibrated("soft_wpmi", P, mixed)
    assert called[:30].float().mean() >= 0.5
    assert called[30:].sum() <= 3


def test_a_concept_that_tells_no_images_apart_is_no_evidence() -> None:
    P = ConceptActivations.from_embeddings(torch.ones(30, 1), torch.ones(2, 1))
    evidence = soft_wpmi_evidence(P, random_top_images(30, 5, 4))
    found, chance = label_evidence(evidence, soft_wpmi_evidence(P, random_top_images(30, 5, 50)), lam=1.0)
    assert found.tolist() == [0.0] * 4
    assert not chance.any()


def test_units_are_not_called_for_what_a_few_draws_see_as_well() -> None:
    """Every concept is strong on one image: a draw that holds it must not soften its own yardstick."""
    units, draws, concepts = 500, 300, 400
    lowest = []
    for seed in range(8):
        g = torch.Generator().manual_seed(seed)
        # Each set of images holds any one image with probability 0.3 %: one draw in 300.
        rows = 0.01 * torch.randn(units + draws, concepts, generator=g)
        rows += 5.0 * (torch.rand(units + draws, concepts, generator=g) < 0.003)
        found, chance = label_evidence(Evidence(rows[:units], 0.0), Evidence(rows[units:], 0.0), lam=0.0)
        lowest.append(float((p_values(found, chance) <= 1 / (draws + 1)).double().mean()))
    assert sum(lowest) / len(lowest) <= 3 / (draws + 1)


def test_a_draw_is_measured_by_the_others() -> None:
    """To float32's digits, also where it is the only one that stands out, and where the others are alike."""
    g = torch.Generator().manual_seed(0)
    random = torch.randn(40, 6, generator=g) * torch.tensor([1.0, 1e-3, 1e-3, 0.0, 0.0, 1e2]) + 7
    random[3, 1] += 50
    random[5, 2] -= 0.5
    random[8, 3] += 2
    for concept in range(6):
        column = random[:, [concept]]
        _, chance = label_evidence(Evidence(column[:1], 0.0), Evidence(column, 0.0), lam=0.5)
        for r in range(40):
            others = torch.cat([column[:r], column[r + 1 :]]).double()
            spread = float(others.std(correction=0))
            if spread < 1e-6:
                assert float(chance[r]) == 0
            else:
                z = (float(column[r]) - float(others.mean())) / spread
                assert float(chance[r]) == pytest.approx(z, rel=2e-3, abs=2e-3)
    one = Evidence(random[:1], 0.0)
    assert [each.tolist() for each in label_evidence(one, one, lam=1.0)] == [[0.0], [0.0]]


@pytest.mark.parametrize("name", EVIDENCE)
def test_p_values_are_uniform_when_the_pairing_is_broken(name: str) -> None:
    P, shown = world()
    p, _ = calibrated(name, P, shuffled(layer(shown, 400, 200), seed=3))
    # The units of a layer share its prior, so their p-values depend on each other a little: no exact level,
    # but a distribution that is off by more than a few hundredths fails.
    assert stats.kstest(p.numpy(), "uniform").statistic < 0.08


@pytest.mark.parametrize("name", EVIDENCE)
def test_broken_pairings_are_not_interpretable_and_planted_units_are(name: str) -> None:
    P, shown = world()
    called = [
        float(calibrated(name, P, shuffled(layer(shown, 256, 128, seed), seed=seed))[1].float().mean())
        for seed in range(3)
    ]
    assert max(called) <= 0.06
    p, interpretable = calibrated(name, P, layer(shown, 256, 64))
    # About two units share each concept, and the prior sets the less pure one back (soft_wpmi with lam = 1
    # most).
    assert interpretable[:64].float().mean() >= 0.8
    assert interpretable[64:].float().mean() <= 0.06
    assert p[:64].median() < p[64:].median()


SCORES = {"cos": cos, "cos_cubed": cos_cubed, "rank_reorder": rank_reorder}


@pytest.mark.parametrize("name", SCORES)
def test_permuted_images_calibrate_any_similarity(name: str) -> None:
    P, shown = world(n=600)

    def score(Q: Tensor) -> Tensor:
        return SCORES[name](P, Q)

    called = []
    for seed in range(2):
        Q = shuffled(layer(shown, 128, 64, seed), seed=seed + 50)
        p = pooled_p_values(score(Q).amax(1), permuted_best_scores(score, Q, seed=seed, permutations=12))
        called.append(float(benjamini_hochberg(p).float().mean()))
        assert stats.kstest(p.numpy(), "uniform").pvalue > 1e-3
    assert max(called) <= 0.06
    Q = layer(shown, 128, 40)
    p = pooled_p_values(score(Q).amax(1), permuted_best_scores(score, Q))
    interpretable = benjamini_hochberg(p)
    # cos cannot see a concept in the quarter that fires on everything; rank reorder looks at the order within
    # the top 5 % only, where a planted unit is mostly noise.
    assert interpretable[:40].float().mean() >= {"cos": 0.7, "cos_cubed": 0.9, "rank_reorder": 0.0}[name]
    assert interpretable[40:].float().mean() <= 0.06


def test_rare_interpretable_units_are_found() -> None:
    """6 units of 512 that beat every draw: the default number of draws is chosen to see them."""
    P, shown = world(n=2400)
    _, interpretable = calibrated("soft_wpmi", P, layer(shown, 512, 6, seed=4))
    assert interpretable[:6].sum() >= 5
    assert interpretable[6:].sum() <= 2


def test_dead_units_take_no_part() -> None:
    p = torch.tensor([0.001, torch.nan, 0.02, torch.nan, 0.5])
    assert benjamini_hochberg(p).tolist() == [True, False, True, False, False]
    assert benjamini_hochberg(torch.full((3,), torch.nan)).tolist() == [False] * 3
    best = torch.tensor([1.0, torch.nan, 9.0])
    assert p_values(best, torch.arange(5.0)).tolist()[::2] == [5 / 6, 1 / 6]
    assert p_values(best, torch.arange(5.0))[1].isnan()
    null = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    null[:, 1] = torch.nan
    pooled = pooled_p_values(best, null)
    assert pooled.isnan().tolist() == [False, True, False]
    assert float(pooled[2]) == pytest.approx(1 / 21)
    assert pooled_p_values(torch.full((3,), torch.nan), null).isnan().all()


@pytest.mark.parametrize("q", [0.01, 0.05, 0.3])
def test_benjamini_hochberg_agrees_with_its_twin_and_scipy(q: float) -> None:
    g = torch.Generator().manual_seed(0)
    for units in (1, 2, 50, 300):
        p = torch.rand(units, generator=g, dtype=torch.float64) ** 3
        called = benjamini_hochberg(p, q)
        assert called.tolist() == twins.benjamini_hochberg(p.tolist(), q)
        assert called.tolist() == (stats.false_discovery_control(p.numpy()) <= q).tolist()


def test_benjamini_hochberg_calls_p_values_at_the_bound_itself() -> None:
    # Numbers that a float holds exactly: p_(j) = q j / C for every j.
    p = torch.tensor([0.125, 0.25, 0.375, 0.5], dtype=torch.float64)
    assert benjamini_hochberg(p, 0.5).tolist() == [True] * 4
    assert benjamini_hochberg(torch.tensor([0.25, 1.0]), 0.5).tolist() == [True, False]


def test_benjamini_hochberg_takes_every_row_for_itself() -> None:
    generator = torch.Generator().manual_seed(1)
    p = torch.rand(3, 4, 30, generator=generator, dtype=torch.float64) ** 3
    p[torch.rand(p.shape, generator=generator) < 0.3] = torch.nan
    p[1, 2] = torch.nan
    called = benjamini_hochberg(p, 0.3)
    assert bool(called.any(-1).sum() > 3)
    for row, own in zip(p.view(-1, 30), called.view(-1, 30), strict=True):
        known = ~row.isnan()
        assert own[known].tolist() == twins.benjamini_hochberg(row[known].tolist(), 0.3)
        assert not bool(own[~known].any())
    assert benjamini_hochberg(torch.empty(2, 0)).shape == (2, 0)


def test_p_values_count_ties_against_the_unit() -> None:
    null = torch.tensor([1.0, 2.0, 2.0, 3.0])
    assert p_values(torch.tensor([2.0, 3.0, 3.5, 0.0]), null).tolist() == [4 / 5, 2 / 5, 1 / 5, 1.0]


def test_random_sets_are_sets_seeded_and_nested() -> None:
    sets = random_top_images(50, 20, 30)
    assert sets.shape == (20, 30)
    assert all(len(set(column.tolist())) == 20 for column in sets.T)
    assert int(sets.min()) >= 0
    assert int(sets.max()) < 50
    assert torch.equal(sets, random_top_images(50, 20, 30))
    assert torch.equal(sets[:, :10], random_top_images(50, 20, 10))
    assert not torch.equal(sets, random_top_images(50, 20, 30, seed=1))
    assert random_top_images(5, 100, 3).sort(0).values.T.tolist() == [[0, 1, 2, 3, 4]] * 3


def test_shuffled_permutes_every_unit_in_its_own_way() -> None:
    Q = torch.arange(40.0)[:, None].repeat(1, 60)
    mixed = shuffled(Q)
    assert torch.equal(mixed.sort(0).values, Q)
    assert len({tuple(column.tolist()) for column in mixed[:, :40].T}) == 40
    assert torch.equal(mixed, shuffled(Q))
    assert not torch.equal(mixed, shuffled(Q, seed=1))


def test_studentised_scores_of_units_with_different_nulls() -> None:
    """Units that differ in mean and spread: pooling as they are calls the high ones, studentised does not."""
    g = torch.Generator().manual_seed(0)
    centre, width = torch.linspace(0, 50, 300), torch.linspace(0.1, 3, 300)
    null = centre + width * torch.randn(20, 300, generator=g)
    best = centre + width * torch.randn(300, generator=g)
    assert stats.kstest(pooled_p_values(best, null).numpy(), "uniform").pvalue > 0.01
    far = best.clone()
    far[0] = centre[0] + 12 * width[0]  # outstanding for its own null, nothing among the others
    assert pooled_p_values(far, null)[0] < 1e-3
    assert pooled_p_values(far, null, studentised=False)[0] > 0.5


def test_standardised_scores_are_distances_from_the_own_null() -> None:
    null = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    # A null without spread counts as one of rounding errors.
    high, flat = standardised(torch.tensor([5.0, 6.0]), null).tolist()
    assert high == pytest.approx((5 - 2) / math.sqrt(2))
    assert flat > 1e5
    assert standardised(torch.tensor([torch.nan, 5.0]), null).isnan().tolist() == [True, False]


def test_bad_arguments() -> None:
    with pytest.raises(InputError, match="not numbers"):
        p_values(torch.ones(2), torch.tensor([1.0, torch.nan]))
    with pytest.raises(InputError):
        p_values(torch.ones(2), torch.empty(0))
    with pytest.raises(InputError, match="too few"):
        pooled_p_values(torch.ones(2), torch.ones(2, 2))
    with pytest.raises(InputError):
        benjamini_hochberg(torch.ones(3), 1.5)
    with pytest.raises(InputError):
        random_top_images(0, 3)


def test_distance_from_a_common_null_is_in_its_deviations() -> None:
    null = torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)
    deviation = math.sqrt(((1 - 3) ** 2 + (2 - 3) ** 2 + (6 - 3) ** 2) / 3)
    found = above_null(torch.tensor([3.0, 8.0], dtype=torch.float64), null)
    assert found.tolist() == pytest.approx([0, 5 / deviation], rel=1e-12)
    # One unit, or units all alike, say nothing of how much they vary.
    assert above_null(torch.tensor([3.0, 8.0]), torch.tensor([1.0])).isnan().all()
    assert above_null(torch.tensor([3.0, 8.0]), torch.tensor([2.0, 2.0])).isnan().all()
    # Whose computed deviation is a rounding error.
    for dtype in (torch.float32, torch.float64):
        for value in (0.1, 1 / 3, 7.7, 123.456):
            null = torch.full((1000,), value, dtype=dtype)
            null[::3] = torch.nextafter(null[::3], torch.tensor(torch.inf, dtype=dtype))
            assert above_null(torch.tensor([value, 2 * value], dtype=dtype), null).isnan().all()
