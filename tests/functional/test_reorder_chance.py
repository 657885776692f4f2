"""Rank reorder by counting, and its null by random sets that units share, against literal computations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional import _blocks
from concept_monitor_cli.functional.calibration import benjamini_hochberg, pooled_p_values, shuffled
from concept_monitor_cli.functional.groups import ImageGroups
from concept_monitor_cli.functional.similarity import ConceptActivations, reorder, reorder_chance
from concept_monitor_cli.functional.similarity.registry import (
    ValueSimilarity,
    reordered,
    similarity_named,
)
from concept_monitor_cli.functional.similarity.reorder import rank_reorder_from_top, rank_reorder_of
from concept_monitor_cli.functional.similarity.reorder_chance import (
    OnSets,
    RandomSets,
    rank_reorder_by_chance,
    rank_reorder_of_sets,
)
from concept_monitor_cli.functional.topk import top_images
from tests.functional import twins
from tests.functional.test_similarity import activations, embeddings
from tests.late import Late

stats = Late("scipy.stats")

COMPILED, TORCH = 0, 1 << 62


def matrix(n: int, m: int, kind: str) -> Tensor:
    if kind == "ties":  # few values, a constant column, a negative mean
        P = torch.randint(0, 4, (n, m), generator=torch.Generator().manual_seed(n)) / 10
        P[:, 0], P[:, 1] = 0.2, -0.1
        return P
    images, texts = embeddings(n, m)
    return images @ texts.T


def top_values(n: int, units: int, kind: str) -> Tensor:
    """Falling activations; of kind `ties` the first unit's are all equal."""
    values = activations(n, units, kind).sort(0, descending=True).values
    if kind == "ties":
        values[:, 0] = 3.0
    return values


CASES = {
    "plain": (60, 7, 37, 9, "plain"),  # two sets, the second of five units
    "ties": (60, 5, 6, 12, "ties"),
    "one unit": (40, 4, 1, 5, "plain"),
    "one image": (30, 4, 3, 1, "plain"),
    "all images": (9, 4, 33, 9, "plain"),
    "one concept": (30, 1, 4, 6, "plain"),
}


@pytest.mark.parametrize("way", [TORCH, COMPILED], ids=["torch", "compiled"])
@pytest.mark.parametrize("case", CASES)
def test_agrees_with_its_literal_twin(case: str, way: int, monkeypatch: pytest.MonkeyPatch) -> None:
    n_images, concepts, units, n, kind = CASES[case]
    P, values = matrix(n_images, concepts, kind), top_values(n, units, kind)
    sets = RandomSets.draw(ImageGroups.single(n_images), n, units, 3, seed=4)
    monkeypatch.setattr(_blocks, "WORTH_COMPILING", way)
    found = rank_reorder_by_chance(P, values, sets)
    expected = twins.rank_reorder_by_chance(
        P.double().numpy(), values.double().numpy(), sets.images.numpy(), sets.orders.numpy()
    )
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, rtol=2e-5, atol=1e-6)


def test_both_ways_rank_alike_for_more_images_than_16_bits_count(monkeypatch: pytest.MonkeyPatch) -> None:
    n_images = (1 << 16) + 50
    P = torch.rand(n_images, 3, generator=torch.Generator().manual_seed(0))
    assert reorder.narrow(torch.tensor([n_images - 1]), n_images).tolist() == [n_images - 1]
    assert reorder.narrow(torch.tensor([(1 << 16) - 1]), 1 << 16).dtype == np.uint16
    Q = activations(n_images, 2, "plain")
    top, values = top_images(Q, 41)
    sets = RandomSets.draw(ImageGroups.single(n_images), 41, 2, 2)
    found = []
    for way in (TORCH, COMPILED):
        monkeypatch.setattr(_blocks, "WORTH_COMPILING", way)
        found.append((rank_reorder_from_top(P, top, values), rank_reorder_by_chance(P, values, sets)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=3e-6, atol=0)


def test_ranks_within_a_set_are_those_of_sorting() -> None:
    from concept_monitor_cli.functional import _rank_kernels

    rng, dtype = np.random.default_rng(0), np.uint16
    for n_images, n in ((1, 1), (64, 64), (65, 3), (300, 40), (1000, 999)):
        ranks = rng.permutation(n_images).astype(dtype)
        chosen = rng.choice(n_images, n, replace=False).astype(dtype)
        words = (n_images + 63) // 64
        room = np.empty(words, np.uint64), np.empty(words, np.uint64), np.empty(n, np.uint64)
        places = np.empty(n, dtype)
        _rank_kernels._rank_within(ranks, chosen, *room, places)
        assert places.tolist() == ranks[chosen].argsort().argsort().tolist()


def test_an_image_that_stands_twice_in_a_list_is_ranked_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    P = matrix(40, 6, "plain")
    top = torch.tensor([[3, 1], [3, 2], [9, 30], [11, 4]])
    values = torch.tensor([[4.0, 3.0], [3.0, 2.5], [1.0, 2.0], [0.5, 0.1]])
    monkeypatch.setattr(_blocks, "WORTH_COMPILING", TORCH)
    expected = rank_reorder_from_top(P, top, values)
    monkeypatch.setattr(_blocks, "WORTH_COMPILING", COMPILED)
    assert torch.equal(rank_reorder_from_top(P, top, values), expected)


def test_threads_blocks_and_further_units_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_blocks, "WORTH_COMPILING", COMPILED)
    P, Q = matrix(120, 150, "plain"), activations(120, 70, "ties")
    top, values = top_images(Q, 14)
    sets = RandomSets.draw(ImageGroups.single(120), 14, 70, 3)

    def both() -> tuple[Tensor, Tensor]:
        return rank_reorder_from_top(P, top, values), rank_reorder_by_chance(P, values, sets)

    threads = torch.get_num_threads()
    found = []
    try:
        for number, narrow, size in ((1, 32, 16 << 20), (3, 7, 1), (2, 1, 40 * 8 * 120)):
            torch.set_num_threads(number)
            monkeypatch.setattr(reorder, "_NARROW", narrow)
            monkeypatch.setattr(reorder, "_COMPILED_BYTES", size)
            found.append(both())
    finally:
        torch.set_num_threads(threads)
    for others in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], others, strict=True))
    some = rank_reorder_by_chance(P, values[:, :64], RandomSets(sets.images[:, :2], sets.orders))
    assert torch.equal(some, found[0][1][:, :64])


def test_random_sets_are_seeded_and_every_unit_has_an_order_of_its_own() -> None:
    groups = ImageGroups.read([i // 2 for i in range(60)])
    sets = RandomSets.draw(groups, 12, 70, 5, seed=3)
    assert sets.images.shape == (5, 3, 12)
    assert sets.orders.sort(2).values.equal(torch.arange(12).expand(5, 32, 12))
    # One image of a group.
    assert all(len(set((own // 2).tolist())) == 12 for own in sets.images.flatten(0, 1))
    lists = torch.stack([sets.of_units(b, 70) for b in range(5)])
    assert len({tuple(each.tolist()) for each in lists.transpose(1, 2).flatten(0, 1)}) == 5 * 70
    assert len({frozenset(each.tolist()) for each in lists.transpose(1, 2).flatten(0, 1)}) == 5 * 3
    again = RandomSets.draw(groups, 12, 70, 2, seed=3)
    assert torch.equal(again.images, sets.images[:2])
    assert torch.equal(again.orders, sets.orders[:2])
    assert not torch.equal(RandomSets.draw(groups, 12, 70, 2, seed=4).images, again.images)


def test_each_unit_s_lists_are_uniform() -> None:
    """Any image in any place, and any two images in any two places, equally often."""
    sets = RandomSets.draw(ImageGroups.single(6), 3, 40, 3000)
    for unit in (0, 31, 39):
        lists = torch.stack([sets.of_units(b, 40)[:, unit] for b in range(3000)])
        counts = torch.bincount(lists @ torch.tensor([36, 6, 1]), minlength=216)
        assert stats.chisquare(counts[counts > 0].numpy()).pvalue > 1e-3
        assert int((counts > 0).sum()) == 6 * 5 * 4
    # Two units of a set see its three images in unrelated orders.
    first, second = (torch.stack([sets.of_units(b, 40)[:, k] for b in range(3000)]) for k in (2, 5))
    assert stats.binomtest(int((first[:, 0] == second[:, 0]).sum()), 3000, 1 / 3).pvalue > 1e-3


def rank_reorder() -> ValueSimilarity:
    similarity = similarity_named("rank-reorder")
    assert isinstance(similarity, ValueSimilarity)
    return similarity


@pytest.mark.parametrize(
    ("concepts", "size", "mean"), [(60, 16, 0.3), (2, 8, 0.0)], ids=["a cone", "two concepts around zero"]
)
def test_p_values_of_blind_units_are_uniform(concepts: int, size: int, mean: float) -> None:
    """Also in the tail, of units with the same activations at other images: had the units of a set one order,
    their draws would be the same, and every twentieth would beat all of them."""
    similarity, groups, found, called = rank_reorder(), ImageGroups.single(200), [], 0
    for seed in range(12):
        g = torch.Generator().manual_seed(seed)
        images, texts = (
            torch.nn.functional.normalize(torch.randn(n, size, generator=g) + mean, dim=1)
            for n in (200, concepts)
        )
        P = ConceptActivations.from_embeddings(images, texts)
        Q = torch.rand(200, 64, generator=g).argsort(0).double().div(40).exp().float()
        assert similarity.chance is not None
        best = similarity.compared(similarity.function(P, Q, groups).amax(1))
        null = similarity.compared(similarity.chance(P, Q, groups, 20, seed))
        p = pooled_p_values(best, null)
        found.append(p)
        called += int(benjamini_hochberg(p).sum())
    p = torch.cat(found)
    assert stats.kstest(p.numpy(), "uniform").pvalue > 1e-3
    for level in (0.05, 0.02, 0.005):
        below = int((p <= level).sum())
        assert stats.binomtest(below, len(p), level, alternative="greater").pvalue > 1e-3, level
    assert called <= 3


def test_draws_have_the_distribution_of_permuted_layers() -> None:
    """Mean and standard deviation of every unit's null, by permutations of the images and by random sets."""
    similarity, groups = rank_reorder(), ImageGroups.single(150)
    images, texts = embeddings(150, 25)
    P = ConceptActivations.from_embeddings(images, texts)
    Q = activations(150, 6, "plain").exp()
    Q[:, 3] = Q[:, 3].floor()  # equal activations
    Q[:, 4] *= torch.arange(150) % 13 == 0  # fires on 12 images
    assert len(reordered(Q, groups)) == 2
    permuted = torch.stack([similarity.function(P, shuffled(Q, seed=s), groups).amax(1) for s in range(300)])
    assert similarity.chance is not None
    drawn = similarity.chance(P, Q, groups, 1200, 0)
    for unit in range(6):
        assert stats.ks_2samp(permuted[:, unit].numpy(), drawn[:, unit].numpy()).pvalue > 1e-3, unit


def test_copies_and_small_sets_have_a_null() -> None:
    similarity = rank_reorder()
    images, texts = embeddings(24, 7)
    groups = ImageGroups.read([i // 3 for i in range(24)])
    P = ConceptActivations.from_embeddings(images, texts)
    Q = activations(24, 5, "ties")
    assert similarity.chance is not None
    null = similarity.chance(P, Q, groups, 6, 1)
    assert null.shape == (6, 5)
    assert bool(null.isfinite().all())
    assert torch.equal(null, similarity.chance(P, Q, groups, 6, 1))


def test_bad_sizes_are_named() -> None:
    groups = ImageGroups.single(10)
    with pytest.raises(InputError, match="11 of 10 groups"):
        RandomSets.draw(groups, 11, 3, 2)
    sets = RandomSets.draw(groups, 4, 40, 2)
    for shape in ((5, 40), (4, 20), (4, 70)):
        with pytest.raises(InputError, match=r"need \(4, C\) for 2 sets of 32 units"):
            rank_reorder_by_chance(torch.rand(10, 3), torch.rand(*shape), sets)


@pytest.mark.parametrize("way", [TORCH, COMPILED], ids=["torch", "compiled"])
def test_units_of_several_sizes_are_scored_as_each_size_alone(
    way: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_blocks, "WORTH_COMPILING", way)
    P, groups = matrix(90, 50, "plain"), ImageGroups.single(90)
    Q = activations(90, 45, "plain").exp()
    for unit in range(0, 45, 3):  # fires on 8 to 22 images
        Q[8 + unit // 3 :, unit] = 0.0
    parts = reordered(Q, groups)
    assert len(parts) >= 5
    scores = rank_reorder_of(P, parts)
    on_sets = [
        OnSets(part.units, part.values, RandomSets.draw(groups, *part.values.shape, draws=4))
        for part in parts
    ]
    null = rank_reorder_of_sets(P, on_sets)
    assert (scores.shape, null.shape) == ((45, 50), (4, 45))
    for part, own in zip(parts, on_sets, strict=True):
        alone = rank_reorder_from_top(P, part.images, part.values)
        assert torch.equal(scores[part.units], alone)
        assert torch.equal(null[:, part.units], rank_reorder_by_chance(P, part.values, own.sets))


def test_draws_in_torch_are_cut_by_their_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    P, values = matrix(60, 20, "plain"), top_values(8, 10, "plain")
    sets = RandomSets.draw(ImageGroups.single(60), 8, 10, 5)
    whole = rank_reorder_by_chance(P, values, sets)
    for room in (1, 2 * 10 * 20):
        monkeypatch.setattr(reorder_chance, "_TOGETHER", room)
        assert torch.equal(rank_reorder_by_chance(P, values, sets), whole)


@pytest.mark.parametrize("wrong", [-1, 60, 10**9])
@pytest.mark.parametrize("terms", [0, 10**12])  # in compiled loops, and in operations of torch
def test_images_that_are_not_there_are_refused(
    monkeypatch: pytest.MonkeyPatch, wrong: int, terms: int
) -> None:
    monkeypatch.setattr(_blocks, "WORTH_COMPILING", terms)
    P = torch.rand(60, 9, generator=torch.Generator().manual_seed(0))
    images, values = torch.arange(10).reshape(5, 2), torch.linspace(1, 0, 5)[:, None].repeat(1, 2)
    images[2, 1] = wrong
    with pytest.raises(InputError, match="of 60"):
        rank_reorder_from_top(P, images, values)
    sets = RandomSets.draw(ImageGroups.single(60), 5, 2, draws=4)
    sets.images[3, 0, 2] = wrong
    with pytest.raises(InputError, match="of 60"):
        rank_reorder_by_chance(P, values, sets)
