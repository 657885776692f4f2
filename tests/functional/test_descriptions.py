"""Descriptions: against loops in plain float64, every text of small vocabularies, and chance."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.descriptions import (
    PhraseModel,
    beam_search,
    best_of_subsets,
    chosen_exemplars,
    description_scores,
    forced,
    log_mean,
)
from concept_monitor_cli.functional.groups import ImageGroups

SCALE = 20.0


def unit_rows(n: int, d: int, seed: int) -> Tensor:
    return normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)))


def said(images: Tensor, phrases: Tensor) -> list[list[float]]:
    """`p(d | x)` by the book: a softmax over phrases."""
    rows = []
    for image in images.double().tolist():
        cosines = [
            sum(a * b for a, b in zip(image, phrase, strict=True)) for phrase in phrases.double().tolist()
        ]
        raw = [math.exp(SCALE * cosine) for cosine in cosines]
        rows.append([value / sum(raw) for value in raw])
    return rows


def test_phrases_are_those_of_the_book() -> None:
    images, phrases = unit_rows(11, 5, 0), unit_rows(7, 5, 1)
    groups = ImageGroups.read([0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 7])
    model = PhraseModel.fit(images, phrases, SCALE, groups)
    p = said(images, phrases)
    for d in range(7):
        prior = 0.0
        for group in range(8):
            own = [p[i][d] for i in range(11) if groups.of[i] == group]
            prior += sum(own) / len(own) / 8
        assert model.log_prior[d].item() == pytest.approx(math.log(prior), abs=1e-5)
    sets = torch.tensor([[3, 4, 9], [10, -1, -1]])
    given = model.given(sets)
    for row, chosen in enumerate(([3, 4, 9], [10])):
        for d in range(7):
            mean = sum(math.log(p[i][d]) for i in chosen) / len(chosen)
            assert given[row, d].item() == pytest.approx(mean, abs=1e-5)
    assert bool(model.given(torch.tensor([[-1, -1]])).isnan().all())


def test_without_prior_the_likelihood_decides_and_with_it_what_is_rare() -> None:
    given, prior = torch.tensor([[-1.0, -2.0, -3.0]]), torch.tensor([-0.5, -4.0, -4.5])
    assert torch.equal(description_scores(given, prior, 0.0), given)
    assert description_scores(given, prior, 0.0).argmax() == 0
    assert description_scores(given, prior, 1.0).tolist() == [[-0.5, 2.0, 1.5]]
    with pytest.raises(InputError, match="0 or more"):
        description_scores(given, prior, -1.0)


def test_chance_is_the_best_of_random_sets_one_image_of_each_group() -> None:
    images, phrases = unit_rows(30, 6, 2), unit_rows(9, 6, 3)
    groups = ImageGroups.read(np.arange(30) // 2)
    model = PhraseModel.fit(images, phrases, SCALE, groups)
    found = model.best_of_chance(groups, [4, 6], 1.0, draws=300, seed=1)
    assert set(found) == {4, 6}
    # The same statistic over all sets that could be drawn has nearly the same mean.
    rng = np.random.default_rng(0)
    other = []
    for _ in range(300):
        chosen = [2 * g + int(rng.integers(2)) for g in rng.choice(15, 4, replace=False)]
        scores = model.given(torch.tensor([chosen])) - model.log_prior
        other.append(float(scores.max()))
    assert found[4].mean().item() == pytest.approx(np.mean(other), abs=4 * np.std(other) / 300**0.5)
    assert found[4].std() > found[6].std()  # a mean over more images varies less


def test_exemplars_are_exciting_and_one_of_each_group() -> None:
    top = torch.tensor([[5, 4, 0, 1, 2], [3, 2, -1, -1, -1]])
    values = torch.tensor([[9.0, 8.0, 7.0, 1.0, 0.0], [2.0, 0.0, 0.0, 0.0, 0.0]])
    groups = ImageGroups.read([0, 1, 2, 3, 4, 4])
    places = chosen_exemplars(top, values, torch.tensor([0.0, 0.0]), groups, 3)
    assert places.tolist() == [[0, 2, 3], [0, -1, -1]]


class Toy:
    """A captioner whose next token depends on the last two, by a table."""

    def __init__(self, vocabulary: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.table = torch.randn(vocabulary, vocabulary, vocabulary, generator=generator).log_softmax(2)

    def __call__(self, tokens: Tensor) -> Tensor:
        before = torch.cat([torch.zeros(len(tokens), 1, dtype=torch.int64), tokens[:, :-1]], 1)
        return self.table[before, tokens]

    def probability(self, text: tuple[int, ...]) -> float:
        """Of a text and its end, token by token: 0 starts, 1 ends."""
        total, before, last = 0.0, 0, 0
        for token in (*text, 1):
            total += float(self.table[before, last, token].double())
            before, last = last, token
        return total


@pytest.mark.parametrize("seed", range(4))
def test_a_beam_as_wide_as_everything_finds_the_best_of_all_texts(seed: int) -> None:
    toy, words = Toy(5, seed), (2, 3)  # 4 is never said
    every = {
        text: toy.probability(text) for length in range(4) for text in itertools.product(words, repeat=length)
    }
    found = beam_search(toy, 0, 1, beams=40, tokens=3, never=(4,))
    best = sorted(every.items(), key=lambda each: -each[1])
    assert [text for text, _ in found] == [text for text, _ in best][: len(found)]
    assert len(found) == len(every)
    for text, score in found:
        assert score == pytest.approx(every[text], abs=1e-5)
    narrow = beam_search(toy, 0, 1, beams=2, tokens=3, never=(4,))
    assert len(narrow) == 2
    assert narrow[0][1] <= found[0][1] + 1e-12
    scores = forced(toy, 0, 1, list(every))
    assert scores.tolist() == pytest.approx(list(every.values()), abs=1e-5)


def test_chance_of_a_captioner_takes_the_prior_from_other_images() -> None:
    generator = torch.Generator().manual_seed(0)
    log_p = torch.randn(12, 20, generator=generator).log_softmax(1).double()
    own = torch.rand(12, 20, generator=generator) < 0.3
    own[:, 0] = True
    found = best_of_subsets(log_p, own, 4, 0.2, draws=50, seed=3)
    replay = torch.Generator().manual_seed(3)
    for r in range(50):
        chosen = torch.randint(12, (4,), generator=replay).tolist()
        others = [b for b in range(12) if b not in chosen]
        best = -math.inf
        for d in range(20):
            if any(own[b, d] for b in chosen):
                given = sum(float(log_p[b, d]) for b in chosen) / 4
                prior = math.log(sum(math.exp(float(log_p[b, d])) for b in others) / len(others))
                best = max(best, given - 0.2 * prior)
        assert found[r].item() == pytest.approx(best, abs=1e-9)
    assert log_mean(log_p).exp().tolist() == pytest.approx(log_p.exp().mean(0).tolist())
    with pytest.raises(InputError, match="prior"):
        best_of_subsets(log_p, own, 12, 0.2)
