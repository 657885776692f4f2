from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.evaluation.scoring import nameable, similarity_scores
from concept_monitor_cli.functional.groups import ImageGroups
from concept_monitor_cli.functional.resampling import image_counts, resampled_top_images
from concept_monitor_cli.functional.similarity import ConceptActivations, cos, soft_wpmi
from concept_monitor_cli.functional.similarity.registry import ValueSimilarity, similarity_named
from concept_monitor_cli.functional.topk import top_images
from concept_monitor_cli.monitor.confidence import (
    CONFIDENCE,
    Held,
    Rescorer,
    Words,
    concept_columns,
    confident_changes,
    held_labels,
    wins,
)
from concept_monitor_cli.monitor.history import History, Label, histories
from concept_monitor_cli.monitor.wins import Scored, rivals, share
from scripts.blind_worlds import blind, random_world

SOFT = {"similarity": "soft-wpmi", "top_k": 20, "a": 10.0, "lam": 1.0}


def test_a_resample_draws_as_many_images_and_does_not_depend_on_its_neighbours() -> None:
    counts = image_counts(50, range(4), seed=1)
    assert counts.sum(1).tolist() == [50] * 4
    assert torch.equal(counts[2:3], image_counts(50, [2], seed=1))
    assert not torch.equal(counts[0], counts[1])
    assert not torch.equal(counts, image_counts(50, range(4), seed=2))


def test_top_images_of_a_resample_are_those_of_the_resampled_activations() -> None:
    """Draw the rows for real, rank them, and map back to the images they came from."""
    rng = np.random.default_rng(0)
    Q = torch.from_numpy(rng.integers(0, 12, (60, 7)).astype(np.float32))  # with many ties
    order = top_images(Q, 60)[0]
    counts = image_counts(60, range(3))
    found = resampled_top_images(order, counts, 25)
    for r in range(3):
        drawn = torch.repeat_interleave(counts[r])
        rows = top_images(Q[drawn], 25)[0]
        assert torch.equal(found[:, r], drawn[rows])


def test_a_list_that_is_too_short_is_an_error() -> None:
    with pytest.raises(InputError, match="do not fill"):
        resampled_top_images(torch.tensor([[0], [1]]), torch.tensor([[1, 0, 2]]), 2)


def _world(images: int, concepts: int, units: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    texts = torch.nn.functional.normalize(torch.randn(concepts, 16, generator=generator), dim=1)
    embedded = torch.nn.functional.normalize(torch.randn(images, 16, generator=generator), dim=1)
    return embedded, texts, torch.randn(images, units, generator=generator).relu()


def twin_soft_wpmi(P: np.ndarray, Q: np.ndarray, k: int, a: float, lam: float) -> np.ndarray:
    """CLIP-Dissect's formulas as they stand, in float64, with loops."""
    n, units = Q.shape
    s = np.exp(a * P)
    s /= s.sum(axis=1, keepdims=True)
    E = np.zeros((units, P.shape[1]))
    for unit in range(units):
        ranked = sorted(range(n), key=lambda i: (-Q[i, unit], i))[:k]
        for r, image in enumerate(ranked):
            p = 0.998 - r / k * (0.998 - 0.97)
            E[unit] += np.log(1 + p * (s[image] - 1) + 1e-7)
    return E - lam * (np.log(np.exp(E).sum(axis=0)) - math.log(units))


def test_scores_of_a_resample_equal_those_of_the_images_drawn_for_real() -> None:
    images, texts, Q = _world(80, 9, 9)
    chosen = torch.tensor([7, 2, 4])
    rescorer = Words.of(images, texts).rescorer(SOFT, Q, chosen)
    counts = image_counts(80, range(4))
    found = rescorer.scores(counts)
    assert found.dtype == torch.float64
    for r in range(4):
        drawn = torch.repeat_interleave(counts[r])
        P = (images[drawn].double() @ texts.double().T).numpy()
        expected = twin_soft_wpmi(P, Q[drawn].numpy(), 20, 10.0, 1.0)
        np.testing.assert_allclose(found[r].numpy(), expected[:, chosen.numpy()], atol=1e-3)
    by_value = Words.of(images, texts).rescorer({"similarity": "cos"}, Q, chosen)
    drawn = torch.repeat_interleave(counts[1])
    expected_cos = cos(images[drawn] @ texts[chosen].T, Q[drawn])
    np.testing.assert_allclose(by_value.scores(counts[1:2])[0].numpy(), expected_cos.numpy(), atol=1e-6)


@pytest.mark.parametrize("similarity", ["soft-wpmi", "wpmi", "cos", "cos-cubed", "rank-reorder"])
@pytest.mark.parametrize("units", [3, 12])
def test_where_every_image_is_drawn_once_scores_are_those_of_the_labels(
    tmp_path: Path, similarity: str, units: int
) -> None:
    """The rule of the detector: by groups, through images on which a unit fires, few units by chance."""
    world, rng = random_world(tmp_path, 120, 15, copies=2)
    parts = [
        blind(world, rng, units),
        blind(world, rng, units, 7),
        blind(world, rng, 2, 2),
        torch.zeros(120, 1),
    ]
    Q = torch.cat(parts if units > 3 else [parts[0], *parts[2:]], 1)
    named = nameable(Q, world)
    assert int(named.sum()) == len(named) - 3
    expected = similarity_scores(similarity, world, Q, named).scores.double()
    settings = {"similarity": similarity, "top_k": None, "a": 10.0 if similarity == "soft-wpmi" else 2.0}
    settings["lam"] = 1.0 if similarity == "soft-wpmi" else 0.6
    concepts = torch.tensor([3, 14, 0, 8])
    words = Words.of(world.image_embeddings, world.text_embeddings, world.groups)
    found = words.rescorer(settings, Q, concepts).scores(torch.ones(1, 120, dtype=torch.int64))[0]
    beyond = (found - expected[:, concepts])[named]
    # Of one concept and set size a score may be shifted: only differences between concepts of a unit count.
    np.testing.assert_allclose((beyond - beyond[:, :1]).numpy(), 0, atol=2e-3)
    assert float((expected[named][:, concepts]).std(1).min()) > 0.01


def test_units_that_fire_on_few_images_are_scored_by_these() -> None:
    """A resample through a unit's own images alone, scaled to their number, by the formulas in float64."""
    images, texts, _ = _world(60, 9, 1)
    generator = np.random.default_rng(3)
    Q = np.zeros((60, 9), dtype=np.float32)
    for unit in range(9):
        Q[generator.choice(60, 8, replace=False), unit] = 1 + generator.random(8)
    counts = image_counts(60, range(20), seed=2)
    concepts = torch.tensor([5, 1])
    found = Words.of(images, texts).rescorer(SOFT, torch.from_numpy(Q), concepts).scores(counts).numpy()
    s = np.exp(10.0 * (images.double() @ texts.double().T).numpy())
    s /= s.sum(axis=1, keepdims=True)
    compared = 0
    for r, draw in enumerate(counts.tolist()):
        E, known = np.zeros((9, 9)), np.ones(9, dtype=bool)
        for unit in range(9):
            ranked = sorted(np.flatnonzero(Q[:, unit]), key=lambda i: -Q[i, unit])
            taken = [i for i in ranked for _ in range(draw[i])][:8]
            known[unit] = bool(taken)
            for rank, image in enumerate(taken):
                p = 0.998 - rank / 8 * (0.998 - 0.97)
                # Beyond what an image says that knows nothing of the two concepts.
                said = np.log(1 + p * (s[image] - 1) + 1e-7) - math.log(1 - p / 2 + 1e-7)
                E[unit] += said * 8 / len(taken)
        if not known.all():
            continue
        compared += 1
        scores = E - (np.log(np.exp(E).sum(axis=0)) - math.log(9))
        difference = scores[:, 5] - scores[:, 1]
        np.testing.assert_allclose(found[r, :, 0] - found[r, :, 1], difference, atol=2e-3)
    assert compared >= 15


def test_a_group_that_is_drawn_twice_is_two_groups(tmp_path: Path) -> None:
    world, rng = random_world(tmp_path, 120, 12, copies=2)
    Q = blind(world, rng, 4)
    words = Words.of(world.image_embeddings, world.text_embeddings, world.groups)
    counts = image_counts(world.groups, range(3))
    found = words.rescorer({"similarity": "rank-reorder"}, Q, torch.arange(12)).scores(counts)
    for r in range(3):
        drawn = torch.repeat_interleave(counts[r])
        seen: dict[int, int] = {}
        group = []
        for image in drawn.tolist():
            seen[image] = seen.get(image, -1) + 1
            group.append(int(world.groups.of[image]) * 100 + seen[image])
        activations = ConceptActivations.from_embeddings(world.image_embeddings[drawn], world.text_embeddings)
        similarity = similarity_named("rank-reorder")
        assert isinstance(similarity, ValueSimilarity)
        expected = similarity.function(activations, Q[drawn], ImageGroups.read(group))
        np.testing.assert_allclose(found[r].numpy(), expected.numpy(), rtol=1e-5)


def test_dead_units_have_no_say_in_the_prior() -> None:
    images, texts, Q = _world(80, 9, 9)
    dead = torch.zeros(80, 3)
    counts = image_counts(80, range(3))
    concepts = torch.arange(9)
    alone, among = (Words.of(images, texts).rescorer(SOFT, q, concepts) for q in (Q, torch.cat([dead, Q], 1)))
    torch.testing.assert_close(among.scores(counts)[:, 3:], alone.scores(counts), atol=1e-4, rtol=0)


def agreement(
    before: Rescorer, after: Rescorer, units: torch.Tensor, old: torch.Tensor, new: torch.Tensor, **how: Any
) -> np.ndarray:
    """Share of the resamples in which units change from an old to a new concept."""
    first, second = wins(before, units, old, new, **how), wins(after, units, new, old, **how)
    return share(first, second, how.get("resamples", 100))


def test_agreement_does_not_depend_on_how_resamples_are_batched() -> None:
    images, texts, Q = _world(60, 5, 8)
    words = Words.of(images, texts)
    before, after = (words.rescorer(SOFT, q, torch.arange(5)) for q in (Q, Q.flip(1)))
    units, old, new = torch.arange(8), torch.arange(8) % 5, (torch.arange(8) + 2) % 5
    together = agreement(before, after, units, old, new, resamples=20)
    assert 0 < together.sum() < 8
    before.batch = 3
    np.testing.assert_array_equal(agreement(before, after, units, old, new, resamples=20), together)


@pytest.mark.parametrize("similarity", ["soft-wpmi", "cos"])
def test_a_bit_says_whether_a_concept_beats_another_in_one_resample(similarity: str) -> None:
    """Against the images drawn for real and scored by the formulas in float64."""
    images, texts, Q = _world(60, 5, 8)
    rescorer = Words.of(images, texts).rescorer({**SOFT, "similarity": similarity}, Q, torch.arange(5))
    units = torch.arange(8)
    better, worse = units % 5, (units + 2) % 5
    bits = wins(rescorer, units, better, worse, resamples=11, seed=3)
    assert bits.shape == (8, 2)
    found = np.unpackbits(bits, axis=1)
    assert not found[:, 11:].any()
    for number in range(11):
        drawn = torch.repeat_interleave(image_counts(60, [number], seed=3)[0])
        P = (images[drawn].double() @ texts.double().T).numpy()
        if similarity == "cos":
            scores = cos(torch.from_numpy(P), Q[drawn].double()).numpy()
        else:
            scores = twin_soft_wpmi(P, Q[drawn].numpy(), 20, 10.0, 1.0)
        expected = scores[units, better] > scores[units, worse]
        assert found[:, number].tolist() == expected.tolist()


@pytest.mark.parametrize("halves", [False, True])
def test_recordings_of_one_checkpoint_with_other_images_show_hardly_any_change(halves: bool) -> None:
    """Labels differ by the images alone; fewer than 5 % of the units may be called changed.

    Half of the units look for a mixture of two concepts, so that which of them is best is a matter of luck;
    the others are noise. Images are drawn anew from one set (as the bootstrap does), or two disjoint halves.
    """
    images, texts, _ = _world(600, 40, 1, seed=5)
    generator = torch.Generator().manual_seed(9)
    mixture = texts[torch.randint(40, (150,), generator=generator)]
    mixture = mixture + texts[torch.randint(40, (150,), generator=generator)]
    planted = images @ mixture.T + 0.5 * torch.randn(600, 150, generator=generator)
    Q = torch.cat([planted, torch.randn(600, 150, generator=generator)], dim=1)
    if halves:
        parts = torch.randperm(600, generator=generator).split(300)
    else:
        parts = tuple(torch.randint(600, (600,), generator=generator).sort().values for _ in range(2))
    settings = {**SOFT, "top_k": 50}
    words = [Words.of(images[part], texts) for part in parts]
    labels = [
        soft_wpmi(w.activations, Q[part], top_k=50).argmax(1) for w, part in zip(words, parts, strict=True)
    ]
    units = torch.nonzero(labels[0] != labels[1]).flatten()
    assert len(units) > 100  # otherwise there is nothing to test
    concepts, columns = concept_columns([labels[0][units].numpy(), labels[1][units].numpy()])
    old, new = (torch.from_numpy(column) for column in columns)
    first, second = (
        w.rescorer(settings, Q[part], torch.from_numpy(concepts))
        for w, part in zip(words, parts, strict=True)
    )
    agreeing = np.unpackbits(
        wins(first, units, old, new, seed=1) & wins(second, units, new, old, seed=2), axis=1
    )
    sure = agreeing[:, :100].mean(1) >= CONFIDENCE
    assert float(sure.sum()) / Q.shape[1] < 0.05


def test_a_real_change_is_found() -> None:
    images, texts, _ = _world(300, 10, 1)
    generator = torch.Generator().manual_seed(2)
    noise = 0.1 * torch.randn(300, 10, generator=generator)
    before, after = images @ texts.T + noise, images @ texts.roll(1, 0).T + noise
    words = Words.of(images, texts)
    first, second = (words.rescorer(SOFT, q, torch.arange(10)) for q in (before, after))
    units = torch.arange(10)
    assert (agreement(first, second, units, units, units.roll(1)) >= CONFIDENCE).mean() >= 0.9


def test_a_unit_holds_its_concept_until_another_takes_its_place(
    concept_table: Callable[..., pd.DataFrame],
) -> None:
    def unit(name: str) -> tuple[str, str, float, bool]:
        return name, "", 1.0, True

    # Unit 0 changes over two unsure epochs, unit 1 trembles, unit 2 dies and comes back as another.
    told = {
        0: [unit("a"), unit("a"), unit("a")],
        1: [unit("a"), unit("b"), None],
        2: [unit("c"), unit("a"), None],
        3: [unit("b"), unit("c"), unit("b")],
        4: [unit("b"), unit("a"), unit("b")],
    }
    (history,) = histories(concept_table(told))
    name = {label.concept: code for code, label in enumerate(history.names)}
    asked = []

    def compare(earlier: int, later: int, rows: np.ndarray, old: np.ndarray, new: np.ndarray) -> np.ndarray:
        asked.extend((earlier, later, int(r), int(o), int(n)) for r, o, n in zip(rows, old, new, strict=True))
        sure = (rows != 1) & (new == name["b"])
        return np.where(sure, 1.0, 0.6)

    held = held_labels(history, compare)
    a, b, c = name["a"], name["b"], name["c"]
    assert asked == [
        (0, 1, 1, a, b),
        (1, 2, 0, a, c),  # since epoch 1, the last at which it was `a`
        (0, 3, 2, a, b),
        (1, 3, 0, a, b),
        (2, 3, 1, a, c),
    ]
    assert held.labels.tolist() == [[a, a, a, b, b], [a] * 5, [a, a, a, b, b]]
    assert held.taken.sum(axis=1).tolist() == [1, 0, 1]
    assert held.agreement[0, 2] == 0.6
    assert np.isnan(held.agreement[0, 4])
    assert held.since.tolist() == [[-1, -1, 1, 1, -1], [-1, 0, -1, 2, -1], [-1, -1, -1, 0, -1]]
    changes = confident_changes(history, held)
    columns = ["epoch", "unit", "from_concept", "from_epoch", "to_concept", "confidence"]
    assert changes[columns].to_numpy().tolist() == [[3, 0, "a", 1, "b", 1.0], [3, 2, "a", 0, "b", 1.0]]
    assert set(changes["layer"]) == {history.layer}


def test_a_unit_that_does_the_same_as_before_has_not_changed() -> None:
    """Whatever the images say of its label; the correlation is that with the epoch it is compared with."""
    names = tuple(Label(name, "") for name in "ab")
    labels = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]])
    history = History(
        "l", "d", np.arange(4), tuple("x" * 4), np.arange(3), names, labels, labels * 1.0, labels >= 0
    )
    correlations = {(1, 2): [0.5, 0.9995, np.nan], (1, 3): [0.4, 0.99, np.nan]}

    def similarity(earlier: int, later: int, rows: np.ndarray) -> np.ndarray:
        return np.array(correlations[earlier, later])[rows]

    held = held_labels(history, lambda earlier, later, rows, old, new: np.ones(len(rows)), similarity)
    assert held.taken.tolist() == [
        [False, False, True, False],
        [False, False, False, True],
        [False, False, True, False],
    ]
    assert held.agreement[1, 2] == 0
    np.testing.assert_array_equal(held.self_similarity[:, 2], [0.5, 0.9995, np.nan])
    assert held.self_similarity[1, 3] == 0.99
    changes = confident_changes(history, held)
    assert changes["unit"].tolist() == [0, 1, 2]
    np.testing.assert_array_equal(changes["self_similarity"], [0.5, 0.99, np.nan])
    unknown = held_labels(history, lambda earlier, later, rows, old, new: np.ones(len(rows)))
    assert unknown.taken[:, 2].all()
    assert np.isnan(confident_changes(history, unknown)["self_similarity"]).all()


def _random_history(seed: int) -> History:
    labels = np.random.default_rng(seed).integers(-1, 4, (30, 9))
    names = tuple(Label(name, "") for name in "abcd")
    scores = np.zeros(labels.shape)
    return History("l", "d", np.arange(9), tuple("x" * 9), np.arange(30), names, labels, scores, labels >= 0)


def test_all_that_is_asked_of_an_epoch_is_known_beforehand() -> None:
    """By a loop over all pairs of epochs; and whatever the test decides, it asks nothing else."""
    history = _random_history(0)
    found = [set(zip(each.rows.tolist(), each.labels.tolist(), strict=True)) for each in rivals(history)]
    assert all(len(pairs) == len(each.rows) for pairs, each in zip(found, rivals(history), strict=True))
    expected: list[set[tuple[int, int]]] = [set() for _ in range(9)]
    for row, labels in enumerate(history.labels.tolist()):
        for t in range(9):
            for e in range(t):
                last = labels[e] not in labels[e + 1 : t]
                if min(labels[e], labels[t]) >= 0 and labels[e] != labels[t] and last:
                    expected[e].add((row, labels[t]))
                    expected[t].add((row, labels[e]))
    assert found == expected
    rng = np.random.default_rng(1)

    def compare(earlier: int, later: int, rows: np.ndarray, old: np.ndarray, new: np.ndarray) -> np.ndarray:
        assert found[earlier] >= set(zip(rows.tolist(), new.tolist(), strict=True))
        assert found[later] >= set(zip(rows.tolist(), old.tolist(), strict=True))
        return rng.integers(0, 2, len(rows)).astype(float)

    assert held_labels(history, compare).taken.any()


def test_every_epoch_is_scored_once_and_says_what_pairs_of_epochs_say() -> None:
    history = _random_history(2)
    generator = np.random.default_rng(3)
    # Of every epoch, draw, unit and concept a score; some labels are sure, some are not.
    scores = generator.normal(size=(9, 21, 30, 4))
    for column, row in np.argwhere(history.labels.T >= 0):
        scores[column, :, row, history.labels[row, column]] += generator.uniform(0, 3)
    asked = []

    def answered(column: int, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
        asked.append(column)
        of = scores[column]
        return np.packbits((of[:, rows, history.labels[rows, column]] > of[:, rows, labels]).T, axis=1)

    advanced: list[int] = []
    questions = dict(enumerate(rivals(history)))
    scored = Scored(questions, answered, len(history.names), 21, advanced.append)
    assert asked == list(range(9))
    assert advanced == [1] * 9

    def literal(earlier: int, later: int, rows: np.ndarray, old: np.ndarray, new: np.ndarray) -> np.ndarray:
        before, after = scores[earlier], scores[later]
        agree = (before[:, rows, old] > before[:, rows, new]) & (after[:, rows, new] > after[:, rows, old])
        return agree.sum(0) / 21

    held, expected = (
        held_labels(history, compare, confidence=0.6) for compare in (scored.agreement, literal)
    )
    assert expected.taken.any()
    for name in ("labels", "taken", "agreement", "since", "self_similarity"):
        np.testing.assert_array_equal(getattr(held, name), getattr(expected, name))
    parts = []
    for rows in (slice(0, 11), slice(11, 30)):
        first = rows.start

        def some(
            e: int, t: int, r: np.ndarray, old: np.ndarray, new: np.ndarray, at: int = first
        ) -> np.ndarray:
            return scored.agreement(e, t, r + at, old, new)

        parts.append(held_labels(history.part(rows), some, confidence=0.6))
    np.testing.assert_array_equal(Held.together(parts).taken, held.taken)
    assert asked == list(range(9))


class _Fixed:
    """A rescorer whose concept 0 scores `first` and whose concept 1 scores 0, in every resample."""

    n_images, n_concepts, batch = 10, 2, 7

    def __init__(self, first: float) -> None:
        self.first = first

    def scores(self, counts: torch.Tensor) -> torch.Tensor:
        return torch.tensor([self.first, 0.0]).double().expand(len(counts), 1, 2)


@pytest.mark.parametrize(
    ("before", "after", "expected"), [(1.0, -1.0, 1.0), (-1.0, -1.0, 0.0), (1.0, 1.0, 0.0), (0.0, -1.0, 0.0)]
)
def test_a_change_is_asked_of_both_epochs(before: float, after: float, expected: float) -> None:
    """From concept 0 to 1: the old one must have won before, and the new one must win now."""
    unit, old, new = torch.tensor([0]), torch.tensor([0]), torch.tensor([1])
    assert agreement(_Fixed(before), _Fixed(after), unit, old, new, resamples=20).tolist() == [expected]


def test_copies_of_an_image_are_drawn_together() -> None:
    class Counting(_Fixed):
        def scores(self, counts: torch.Tensor) -> torch.Tensor:
            seen.append(counts)
            return super().scores(counts)

    seen: list[torch.Tensor] = []
    groups = ImageGroups.read([0, 0, 1, 1, 2, 2, 3, 3, 4, 4])
    unit = torch.tensor([0])
    agreement(Counting(1.0), _Fixed(-1.0), unit, unit, unit + 1, groups=groups, resamples=20)
    drawn = torch.cat(seen)
    assert torch.equal(drawn[:, ::2], drawn[:, 1::2])
    assert drawn.amax() > 1
