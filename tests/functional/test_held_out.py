"""Concepts of one half against the activations of the other, against loops and planted layers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional import held_out
from concept_monitor_cli.functional.held_out import held_out_auc, held_out_summary


def twin(Q: np.ndarray, P: np.ndarray, labels: list[int], share: float) -> tuple[list[float], list[float]]:
    """From the definition: every pair of an active and another image, unit by unit."""
    n, units = Q.shape

    def auc(unit: int, column: int) -> float:
        values = Q[:, unit]
        wanted = max(1, math.ceil(share * n - 1e-9))
        cutoff = sorted(values, reverse=True)[wanted - 1]
        on = [x for x in range(n) if values[x] >= cutoff and values[x] > min(values)]
        off = [x for x in range(n) if x not in on]
        wins = [
            1.0 if P[x, column] > P[y, column] else 0.5 if P[x, column] == P[y, column] else 0.0
            for x in on
            for y in off
        ]
        return float(np.mean(wins))

    usable = [labels[k] >= 0 and len(set(Q[:, k].tolist())) > 1 for k in range(units)]
    own, chance = [], []
    for k in range(units):
        if not usable[k]:
            own.append(math.nan)
            chance.append(math.nan)
            continue
        own.append(auc(k, labels[k]))
        others = [auc(k, labels[j]) for j in range(units) if usable[j] and labels[j] != labels[k]]
        chance.append(float(np.mean(others)) if others else math.nan)
    return own, chance


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("room", [1, 200, 1 << 22])
def test_equal_to_the_twin(seed: int, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out, "_VALUES", room)
    rng = np.random.default_rng(seed)
    Q = rng.normal(size=(40, 7)).round(1).astype(np.float32)
    P = rng.normal(size=(40, 5)).round(1).astype(np.float32)
    Q[:, 2] = 1.0  # dead on this half
    Q[:, 3] = np.maximum(Q[:, 3] - 2, 0)  # silent on most
    labels = [0, 1, 2, 1, -1, 4, 0]
    own, chance = held_out_auc(
        torch.from_numpy(Q), torch.from_numpy(P), torch.tensor(labels), share=(0.05, 0.2)[seed % 2]
    )
    expected = twin(Q, P, labels, (0.05, 0.2)[seed % 2])
    np.testing.assert_allclose(own.numpy(), expected[0], atol=1e-12)
    np.testing.assert_allclose(chance.numpy(), expected[1], atol=1e-12)


def layer(
    signal: float, *, images: int = 400, units: int = 40, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    presence = torch.randn(images, 30, generator=generator)
    labels = torch.randint(0, 30, (units,), generator=generator)
    activations = signal * presence[:, labels] + torch.randn(images, units, generator=generator)
    return activations, presence, labels


@pytest.mark.parametrize(
    ("signal", "word"), [(0.0, "no better than chance"), (0.1, "weakly"), (0.25, "somewhat"), (2.0, "well")]
)
def test_words_for_planted_layers(signal: float, word: str) -> None:
    own, chance = held_out_auc(*layer(signal))
    found = held_out_summary(own, chance, effective=40)
    assert found.word == word
    assert found.units == 40
    assert found.chance == pytest.approx(0.5, abs=0.02)


def test_labels_that_have_nothing_to_do_with_the_images_are_not_called_better() -> None:
    better = 0
    for seed in range(40):
        own, chance = held_out_auc(*layer(0.0, images=60, units=12, seed=seed))
        better += held_out_summary(own, chance, effective=12).word != "no better than chance"
    assert better <= 4


def test_units_that_do_the_same_are_one_piece_of_evidence() -> None:
    # One blind unit, many times over, with one lucky label.
    own, chance = torch.full((50,), 0.8), torch.full((50,), 0.5)
    own += 0.01 * torch.randn(50, generator=torch.Generator().manual_seed(0))
    assert held_out_summary(own, chance, effective=50).word == "well"
    assert held_out_summary(own, chance, effective=1.0).word == "not known"


def test_nothing_to_ask() -> None:
    Q, P, labels = layer(1.0)
    own, chance = held_out_auc(Q, P, torch.zeros_like(labels))
    assert chance.isnan().all()  # one concept for all: nothing to compare with
    assert held_out_summary(own, chance, effective=40).word == "not known"
    own, chance = held_out_auc(Q, P, torch.full_like(labels, -1))
    assert own.isnan().all()
    with pytest.raises(InputError):
        held_out_auc(Q, P, labels[:3])
