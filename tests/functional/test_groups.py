"""Groups among the top images: the algorithm against its twin, planted units of one to three meanings."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from late import Late

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.evaluation import groups
from concept_monitor_cli.functional.similarity import ConceptActivations

metrics = Late("sklearn.metrics")


def unit_rows(vectors: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(vectors, dim=-1)


def twin_kmeans(points: np.ndarray, k: int) -> list[int]:
    """Greedy starts and Lloyd's algorithm with coordinates, means and loops."""
    n = len(points)
    starts: list[int] = []
    for _ in range(k):
        costs = []
        for candidate in range(n):
            chosen = [*starts, candidate]
            costs.append(sum(min(((p - points[c]) ** 2).sum() for c in chosen) for p in points))
        starts.append(int(np.argmin(np.round(costs, 12))))
    centres = [points[c] for c in starts]
    labels: list[int] = []
    for _ in range(50):
        moved = [int(np.argmin([((p - c) ** 2).sum() for c in centres])) for p in points]
        if moved == labels:
            break
        labels = moved
        centres = [
            np.mean([p for p, g in zip(points, labels, strict=True) if g == j], axis=0)
            if j in labels
            else np.full(points.shape[1], np.inf)
            for j in range(k)
        ]
    return labels


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_kmeans_and_silhouettes_equal_twin_and_scikit_learn(k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    points = unit_rows(torch.randn(12, 15, 6, generator=generator, dtype=torch.float64))
    square = groups.squared_distances(points)
    labels = groups.kmeans(square, k)
    silhouettes, sizes = groups.group_silhouettes(square, labels, k)
    for b in range(12):
        assert labels[b].tolist() == twin_kmeans(points[b].numpy(), k)
        assert sizes[b].tolist() == labels[b].bincount(minlength=k).tolist()
        if k > 1:
            samples = metrics.silhouette_samples(points[b].numpy(), labels[b].numpy())
            for g in range(k):
                expected = samples[(labels[b] == g).numpy()].mean()
                assert silhouettes[b, g].item() == pytest.approx(expected, abs=1e-6)


def test_distances_of_directions() -> None:
    points = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    square = groups.squared_distances(points * torch.tensor([1.0, 2.0, 5.0, 0.1])[None, :, None])
    rows = unit_rows(points.double())
    for b in range(2):
        for i in range(4):
            for j in range(4):
                expected = ((rows[b, i] - rows[b, j]) ** 2).sum().item()
                assert square[b, i, j].item() == pytest.approx(expected, abs=1e-6)


def test_images_that_are_all_the_same_do_not_divide() -> None:
    same = torch.ones(3, 10, 4)
    assert bool((groups.division_clarity(same.flatten(0, 1), torch.arange(30).view(3, 10)) <= 0).all())
    square = groups.squared_distances(same)
    for k in (2, 3):
        silhouettes, _ = groups.group_silhouettes(square, groups.kmeans(square, k), k)
        assert bool((silhouettes.nan_to_num(0) == 0).all())


@pytest.mark.parametrize("kept", [0, 10_000])
@pytest.mark.parametrize("dimensions", [4, 64, 300])
def test_copies_of_images_divide_where_their_directions_do_and_nowhere_else(
    kept: int, dimensions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "_KEPT", kept)
    images = unit_rows(torch.randn(40, dimensions, generator=torch.Generator().manual_seed(4)))
    # As embeddings of copies come out of batches of different sizes.
    copies = images[[0] * 20 + [1] * 12 + [2] * 8] * (1 + 1e-7 * torch.randn(40, dimensions))
    clarity = groups.division_clarity(torch.cat([images, copies]), 40 + torch.arange(40).view(2, 20))
    assert clarity.tolist() == [[-1.0] * 4, [1.0, -1.0, -1.0, -1.0]]


def test_of_few_images_the_distances_are_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings, topic = scene(3)
    sets = planted(topic, [[0], [1, 2], [3, 4, 5], [-1]], seed=3).T
    found = groups.division_clarity(embeddings, sets)
    monkeypatch.setattr(groups, "_KEPT", len(embeddings) - 1)
    torch.testing.assert_close(groups.division_clarity(embeddings, sets), found, rtol=0, atol=1e-12)
    square = groups.squared_distances(embeddings[sets])
    for column, k in enumerate(range(2, groups.most_groups(sets.shape[1]) + 1)):
        labels = groups.kmeans(square, k)
        silhouettes, sizes = groups.group_silhouettes(square, labels, k)
        expected = torch.where(sizes.amin(1) >= 4, silhouettes.nan_to_num(-1.0).amin(1), -1.0)
        torch.testing.assert_close(found[:, column], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("n", "most"), [(4, 2), (10, 5), (20, 5), (30, 5), (3, 1)])
def test_most_groups(n: int, most: int) -> None:
    assert groups.most_groups(n) == most


# -- sets with one meaning -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [40, 100])
def test_sets_of_one_meaning(n: int) -> None:
    embeddings = unit_rows(torch.randn(n, 5, generator=torch.Generator().manual_seed(1)))
    embeddings[7] = embeddings[3]
    sets = groups.single_meanings(embeddings, 20, draws=50, seed=2)
    assert sets.shape == (5, 50, 20)
    for kind, share in zip(sets, groups.NEIGHBOUR_SHARES, strict=True):
        near = round(20 * share)
        for row in kind.tolist():
            assert len(set(row)) == 20
            if near:
                cosine = embeddings @ embeddings[row[0]]
                farthest = min(cosine[i].item() for i in row[:near])
                assert (cosine > farthest + 1e-6).sum().item() <= near - 1
    assert torch.equal(sets[0, :, 0], sets[4, :, 0])  # around the same images
    assert torch.equal(sets, groups.single_meanings(embeddings, 20, draws=50, seed=2))
    assert torch.equal(sets[:, :10], groups.single_meanings(embeddings, 20, draws=10, seed=2))


def test_too_few_images_in_all() -> None:
    with pytest.raises(InputError, match="twice"):
        groups.single_meanings(torch.eye(30), 20)


# -- planted units -------------------------------------------------------------------------------------------


def scene(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """600 images of 12 topics, with all that images have in common; `(N, D)` and the topics `(N,)`."""
    generator = torch.Generator().manual_seed(seed)
    topics = torch.randn(12, 64, generator=generator)
    common = torch.randn(64, generator=generator)
    topic = torch.arange(600) % 12
    noise = torch.randn(600, 64, generator=generator)
    return unit_rows(common + topics[topic] + 0.8 * noise), topic


def planted(topic: torch.Tensor, wanted: list[list[int]], seed: int = 0) -> torch.Tensor:
    """Top images: of each unit an equal share from each of its topics; -1 is any image. `(20, C)`."""
    generator = torch.Generator().manual_seed(seed)
    columns = []
    for topics in wanted:
        rows: list[int] = []
        for number, which in enumerate(topics):
            pool = torch.arange(600) if which < 0 else (topic == which).nonzero()[:, 0]
            pool = pool[torch.randperm(len(pool), generator=generator)]
            size = 20 // len(topics) + (number < 20 % len(topics))
            rows += [i for i in pool.tolist() if i not in rows][:size]
        columns.append(torch.tensor(rows)[torch.randperm(20, generator=generator)])
    return torch.stack(columns, 1)


def test_planted_units_are_found_and_units_of_one_meaning_stay_one() -> None:
    embeddings, topic = scene()
    one = [[t] for t in range(12)]
    half = [[t, -1] for t in range(12)]
    none = [[-1]] * 12
    two = [[t, (t + 5) % 12] for t in range(12)]
    three = [[t, (t + 4) % 12, (t + 7) % 12] for t in range(12)]
    top = planted(topic, [*one, *half, *none, *two, *three])
    found = groups.image_groups(embeddings, top, groups.single_meaning_clarity(embeddings, 20, draws=400))
    assert found.count[:36].tolist() == [1] * 36
    assert found.count[36:48].tolist() == [2] * 12
    assert found.count[48:].tolist() == [3] * 12
    for unit in range(36, 60):
        # Every group is of one topic, and no topic is in two groups.
        pairs = set(zip(topic[top[:, unit]].tolist(), found.labels[unit].tolist(), strict=True))
        assert len(pairs) == found.count[unit]
        sizes = found.labels[unit].bincount().tolist()
        assert sizes == sorted(sizes, reverse=True)
    assert bool((found.labels[:36] == 0).all())
    assert bool((found.p_values[36:] < 0.01).all())


def test_units_without_meaning_are_called_at_the_rate_that_is_allowed() -> None:
    embeddings, topic = scene(1)
    generator = torch.Generator().manual_seed(5)
    top = planted(topic, [[int(t)] for t in torch.randint(-1, 12, (200,), generator=generator)])
    found = groups.image_groups(embeddings, top, groups.single_meaning_clarity(embeddings, 20, draws=400))
    assert (found.p_values <= 0.05).double().mean().item() <= 0.08
    assert (found.count > 1).sum().item() <= 2


def test_units_that_take_no_part_and_repetition() -> None:
    embeddings, topic = scene()
    top = planted(topic, [[0], [1, 2], [3]])
    top[:, 2] = -1
    null = groups.single_meaning_clarity(embeddings, 20, draws=100)
    assert torch.equal(null, groups.single_meaning_clarity(embeddings, 20, draws=100))
    found = groups.image_groups(embeddings, top, null)
    assert found.count.tolist() == [1, 2, 0]
    assert bool(found.clarity[2].isnan())
    assert bool((found.labels[2] == -1).all())
    again = groups.image_groups(embeddings, top, null)
    assert torch.equal(found.labels, again.labels)
    assert torch.equal(found.p_values.nan_to_num(9), again.p_values.nan_to_num(9))
    nobody = groups.image_groups(embeddings, torch.full((20, 2), -1), null)
    assert nobody.count.tolist() == [0, 0]
    with pytest.raises(InputError, match="groups"):
        groups.image_groups(embeddings, top[:3], null)


@pytest.mark.parametrize("units", [1, 7, 40, 400])
def test_what_chance_gives_equals_its_twin_and_what_layers_of_one_meaning_give(units: int) -> None:
    embeddings, _ = scene(2)
    null = groups.single_meaning_clarity(embeddings, 20, draws=90)
    size, shares = min(units, 90), []
    for kind in null.tolist():
        p = [max((1 + sum(o >= v for o in other)) / 91 for other in null.tolist()) for v in kind]
        for start in range(0, 90 - size + 1, size):
            layer = p[start : start + size]
            ordered = sorted(layer)
            called = [v for j, v in enumerate(ordered, 1) if v <= 0.3 * j / size]
            shares.append(sum(v <= called[-1] for v in layer) / size if called else 0.0)
    expected = sum(shares) / len(shares)
    assert groups.several_by_chance(null, units, fdr=0.3) == pytest.approx(expected, abs=1e-12)
    assert math.isnan(groups.several_by_chance(null, 0))
    # Layers of such sets of another seed are called as often: that is what it claims.
    own = groups.single_meanings(embeddings, 20, draws=400, seed=9)
    null = groups.single_meaning_clarity(embeddings, 20, draws=2000)
    rates = [
        (groups.image_groups(embeddings, kind[start : start + 10].T, null, fdr=0.5).count > 1).double().mean()
        for kind in own
        for start in range(0, 400, 10)
    ]
    assert float(torch.stack(rates).mean()) == pytest.approx(
        groups.several_by_chance(null, 10, fdr=0.5), abs=0.02
    )


# -- names ---------------------------------------------------------------------------------------------------


def test_names_of_groups_equal_their_twin_and_name_the_topic() -> None:
    generator = torch.Generator().manual_seed(3)
    images, texts = (
        unit_rows(torch.randn(30, 8, generator=generator)),
        unit_rows(torch.randn(9, 8, generator=generator)),
    )
    members = torch.tensor([[0, 5, 7], [2, 2, -1], [4, -1, -1], [-1, -1, -1]])
    found = groups.name_groups(ConceptActivations.from_embeddings(images, texts), members)
    by_matrix = groups.name_groups(images @ texts.T, members)
    torch.testing.assert_close(found, by_matrix, equal_nan=True)
    P = (images.double() @ texts.double().T).numpy()
    softmax = [[math.exp(10 * p) / sum(math.exp(10 * q) for q in row) for p in row] for row in P]
    for g, group in enumerate(members.tolist()):
        rows = [i for i in group if i >= 0]
        for m in range(9):
            prior = math.log(sum(s[m] for s in softmax) / 30)
            expected = sum(math.log(softmax[i][m]) for i in rows) / len(rows) - prior if rows else math.nan
            assert found[g, m].item() == pytest.approx(expected, abs=2e-6, nan_ok=True)
    # A concept of its own for image 4: that is what the group of image 4 alone is about.
    named = groups.name_groups(
        ConceptActivations.from_embeddings(images, torch.cat([texts, images[4:5]])), members
    )
    assert named[2].argmax().item() == 9
