from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.groups import ImageGroups
from concept_monitor_cli.functional.resampling import image_counts, resampled_top_images
from concept_monitor_cli.functional.similarity import cos, soft_wpmi
from concept_monitor_cli.functional.topk import top_images
from concept_monitor_cli.monitor.confidence import (
    CONFIDENCE,
    Words,
    agreement,
    beats,
    concept_columns,
    confident_changes,
    held_labels,
)
from concept_monitor_cli.monitor.history import histories

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
    images, texts, Q = _world(80, 9, 6)
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


def test_dead_units_have_no_say_in_the_prior() -> None:
    images, texts, Q = _world(80, 9, 6)
    dead = torch.zeros(80, 3)
    counts = image_counts(80, range(3))
    concepts = torch.arange(9)
    alone, among = (Words.of(images, texts).rescorer(SOFT, q, concepts) for q in (Q, torch.cat([dead, Q], 1)))
    torch.testing.assert_close(among.scores(counts)[:, 3:], alone.scores(counts), atol=1e-4, rtol=0)


def test_agreement_does_not_depend_on_how_resamples_are_batched() -> None:
    images, texts, Q = _world(60, 5, 8)
    words = Words.of(images, texts)
    before, after = (words.rescorer(SOFT, q, torch.arange(5)) for q in (Q, Q.flip(1)))
    units, old, new = torch.arange(8), torch.arange(8) % 5, (torch.arange(8) + 2) % 5
    together = agreement(before, after, units, old, new, resamples=20)
    before.batch = 3
    np.testing.assert_array_equal(agreement(before, after, units, old, new, resamples=20), together)


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
    agreeing = beats(first, image_counts(first.n_images, range(100), seed=1), units, old, new)
    agreeing &= beats(second, image_counts(second.n_images, range(100), seed=2), units, new, old)
    share = agreeing.double().mean(0)
    assert float((share >= CONFIDENCE).sum()) / Q.shape[1] < 0.05


def test_a_real_change_is_found() -> None:
    images, texts, _ = _world(300, 10, 1)
    generator = torch.Generator().manual_seed(2)
    noise = 0.1 * torch.randn(300, 10, generator=generator)
    before, after = images @ texts.T + noise, images @ texts.roll(1, 0).T + noise
    words = Words.of(images, texts)
    first, second = (words.rescorer(SOFT, q, torch.arange(10)) for q in (before, after))
    units = torch.arange(10)
    share = agreement(first, second, units, units, units.roll(1))
    assert (share >= CONFIDENCE).mean() >= 0.9


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


class _Fixed:
    """A rescorer whose concept 0 scores `first` and whose concept 1 scores 0, in every resample."""

    n_images, batch = 10, 7

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
    share = agreement(_Fixed(before), _Fixed(after), unit, old, new, resamples=20)
    assert share.tolist() == [expected]


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
