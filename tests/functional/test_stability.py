"""The bootstrap of labels, against the same written with loops in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from concept_monitor_cli.functional.firing import SIZES
from concept_monitor_cli.functional.groups import ImageGroups
from concept_monitor_cli.functional.resampling import image_counts
from concept_monitor_cli.functional.similarity import ConceptActivations
from concept_monitor_cli.functional.similarity.pmi import MIN_PROB, P_END, P_START
from concept_monitor_cli.functional.similarity.registry import SIMILARITIES, RankSimilarity, ValueSimilarity
from concept_monitor_cli.functional.stability import (
    Stability,
    concept_sets,
    rank_stability,
    shares_of_first,
    value_stability,
)
from concept_monitor_cli.functional.topk import top_images, top_rows


def world(seed: int) -> tuple[ConceptActivations, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.nn.functional.normalize(torch.randn(40, 16, generator=generator), dim=1)
    texts = torch.nn.functional.normalize(torch.randn(9, 16, generator=generator), dim=1)
    Q = images @ texts[:5].T * 3 + torch.randn(40, 5, generator=generator)
    return ConceptActivations.from_embeddings(images, texts), Q.relu()


def twin_of_ranks(name: str, P: np.ndarray, tops: list[int], size: int, counts: list[int], m: int) -> float:
    similarity = SIMILARITIES[name]
    assert isinstance(similarity, RankSimilarity)
    total, filled = 0.0, 0
    for rank, image in enumerate(tops):
        times = min(counts[image], size - filled)
        exponents = [math.exp(similarity.a * value) for value in P[image]]
        s = exponents[m] / sum(exponents)
        if name == "soft-wpmi":
            belongs = P_START - min(rank / size, 1.0) * (P_START - P_END)
            term = math.log(1 + belongs * (s - 1) + MIN_PROB)
        else:
            term = math.log(s + MIN_PROB)
        total += times * term
        filled += times
    return total * size / max(filled, 1)


@pytest.mark.parametrize("name", ["soft-wpmi", "wpmi"])
@pytest.mark.parametrize("seed", range(3))
def test_ranks(name: str, seed: int) -> None:
    activations, Q = world(seed)
    P = activations.block(slice(0, 9)).double().numpy()
    size, length, fires = 8, 25, (Q > 0).sum(0)
    top = top_images(Q, length)[0]
    candidates = torch.stack(
        [torch.randperm(9, generator=torch.Generator().manual_seed(u))[:4] for u in range(5)]
    )
    order = torch.randn(5, 4, generator=torch.Generator().manual_seed(seed)).sort(1, descending=True).values
    counts = image_counts(40, range(30), seed=seed)
    similarity = SIMILARITIES[name]
    assert isinstance(similarity, RankSimilarity)
    found = rank_stability(similarity, activations, top, fires, size, candidates, order, counts)
    for unit in range(5):
        tops = top[: int(fires[unit]), unit].tolist()
        first = np.zeros(4)
        for draw in counts.tolist():
            scores = []
            for place, m in enumerate(candidates[unit].tolist()):
                prior = sum(
                    twin_of_ranks(name, P, tops[: min(size, len(tops))], size, [1] * 40, m)
                    * min(size, len(tops))
                    / size
                    for _ in (0,)
                ) - float(order[unit, place])
                scores.append(twin_of_ranks(name, P, tops, size, draw, m) - prior)
            first[int(np.argmax(scores))] += 1 / 30
        assert np.allclose(found.shares[unit].numpy(), first, atol=1 / 30 + 1e-9)


def twin_of_values(
    name: str, P: np.ndarray, q: np.ndarray, counts: list[int], m: int, of: list[int]
) -> float:
    if name == "rank-reorder":
        best: dict[int, int] = {}  # the best image of every group
        for i in sorted(range(len(q)), key=lambda i: (-q[i], i)):
            best.setdefault(of[i], i)
        n = min(len(best), max(20, int(len(best) * 0.05)))
        lowest = min(q)
        if len({of[i] for i in range(len(q)) if q[i] == lowest}) > 1:  # it is silent on these
            fires = sum(q[i] > lowest for i in best.values())
            n = max([k for k in (*SIZES, n) if k <= min(fires, n)], default=fires)
        tops = sorted(best.values(), key=lambda i: (-q[i], of.index(of[i])))[:n]
        rising = sorted(q[i] for i in tops)
        by_concept = sorted(range(n), key=lambda j: (P[tops[j], m], tops[j]))
        error, weight, mean = 0.0, 0.0, 0.0
        for rank, j in enumerate(by_concept):
            times = counts[tops[j]]
            error += times * abs(rising[rank] - q[tops[j]]) ** 3
            weight += times
            mean += times * P[tops[j], m]
        span = max(q[tops[0]] - q[tops[-1]], 1e-30) ** 3
        weight = max(weight, 1)
        return -error / span / weight / max(mean / weight, 1e-3) ** 0.5
    p = P[:, m]
    if name == "cos-cubed":
        p, q = (p - p.mean()) ** 3, (q - q.mean()) ** 3
    dot = sum(c * a * b for c, a, b in zip(counts, p, q, strict=True))
    norm = math.sqrt(sum(c * a * a for c, a in zip(counts, p, strict=True)))
    return dot / max(norm, 1e-3 if name == "cos-cubed" else 0)


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("name", ["cos", "cos-cubed", "rank-reorder"])
def test_values(name: str, copies: int) -> None:
    activations, Q = world(7)
    Q = torch.cat([Q, torch.rand(40, 2)], 1)
    P = activations.block(slice(0, 9)).double().numpy()
    candidates = torch.stack([torch.randperm(9)[:4] for _ in range(7)])
    groups = ImageGroups.read(torch.arange(40) // copies)
    counts = image_counts(groups, range(30), seed=3)
    similarity = SIMILARITIES[name]
    assert isinstance(similarity, ValueSimilarity)
    found = value_stability(similarity, activations, Q, candidates, counts, groups)
    for unit in range(7):
        first = np.zeros(4)
        for draw in counts.tolist():
            scores = [
                twin_of_values(name, P, Q[:, unit].double().numpy(), draw, m, groups.of.tolist())
                for m in candidates[unit].tolist()
            ]
            first[int(np.argmax(scores))] += 1 / 30
        assert np.allclose(found.shares[unit].numpy(), first, atol=1 / 30 + 1e-9)


@pytest.mark.parametrize("name", ["cos", "cos-cubed", "rank-reorder"])
@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e13])
def test_with_every_image_once_the_printed_concept_is_first(name: str, scale: float) -> None:
    """Cosines as CLIP has them: their cubes have norms below the smallest that the similarity takes."""
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(512, generator=generator)
    images = common + 0.5 * torch.randn(300, 512, generator=generator)
    texts = 0.35 * common + torch.randn(200, 512, generator=generator)
    unit = torch.nn.functional.normalize
    activations = ConceptActivations.from_embeddings(unit(images, dim=1), unit(texts, dim=1))
    Q, groups, similarity = (
        torch.randn(300, 24, generator=generator).relu(),
        ImageGroups.single(300),
        SIMILARITIES[name],
    )
    assert isinstance(similarity, ValueSimilarity)
    candidates, _ = top_rows(similarity.function(activations, Q, groups), 20)
    once = torch.ones(1, 300, dtype=torch.int64)
    found = value_stability(similarity, activations, Q * scale, candidates, once, groups)
    assert found.first.tolist() == [1.0] * 24
    drawn = image_counts(groups, range(40), seed=1)
    shares = value_stability(similarity, activations, Q * scale, candidates, drawn, groups).shares
    expected = value_stability(similarity, activations, Q, candidates, drawn, groups).shares
    torch.testing.assert_close(shares, expected, rtol=0, atol=1 / 40 + 1e-9)
    assert float(expected[:, 0].mean()) < 0.9


def test_the_fewest_concepts_that_make_up_the_share() -> None:
    stability = Stability(
        torch.tensor([[0.6, 0.1, 0.3], [0.05, 0.95, 0.0], [0.9, 0.1, 0.0]], dtype=torch.float64)
    )
    assert stability.sets() == [[0, 2], [1], [0]]
    names = ["a", "b", "c", "d"]
    candidates = torch.tensor([[3, 1, 0], [0, 1, 2], [2, 1, 0]])
    assert concept_sets(stability, candidates, names) == ["d; a", "b", "c"]
    assert stability.first.tolist() == [0.6, 0.05, 0.9]


def test_level_scores_go_to_the_printed_concept() -> None:
    assert shares_of_first(torch.zeros(10, 2, 3)).tolist() == [[1, 0, 0], [1, 0, 0]]
