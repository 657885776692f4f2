"""Divergences between moments and running statistics, against plain loops."""

from __future__ import annotations

import math

import pytest
import torch

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.input_evidence import (
    Contrast,
    layer_contrast,
    layer_divergence,
    network_divergence,
    place_between,
    share_nearer,
    share_of_wins,
)


def slow_layer(means, squares, running_mean, running_variance, eps, counts):
    """The same, number by number."""
    total = 0.0
    for channel in range(len(running_mean)):
        drawn = sum(counts)
        mean = sum(c * float(m[channel]) for c, m in zip(counts, means, strict=True)) / drawn
        square = sum(c * float(s[channel]) for c, s in zip(counts, squares, strict=True)) / drawn
        variance = max(square - mean**2, 0.0) + eps
        known = float(running_variance[channel]) + eps
        shift = (mean - float(running_mean[channel])) ** 2
        total += 0.5 * (math.log(known / variance) + (variance + shift) / known - 1)
    return total / len(running_mean)


@pytest.mark.parametrize(("images", "channels"), [(1, 1), (5, 3), (9, 1)])
def test_a_layers_divergence_is_that_of_plain_loops(images: int, channels: int) -> None:
    generator = torch.Generator().manual_seed(images)
    values = torch.randn(images, channels, 6, generator=generator, dtype=torch.float64)
    means, squares = values.mean(2), values.square().mean(2)
    running_mean = torch.randn(channels, generator=generator, dtype=torch.float64)
    running_variance = torch.rand(channels, generator=generator, dtype=torch.float64)
    running_variance[0] = 0  # a channel that was dead in the training
    counts = torch.randint(1, 4, (3, images), generator=generator)
    found = layer_divergence(means, squares, running_mean, running_variance, eps=1e-3, counts=counts)
    for row, drawn in enumerate(counts.tolist()):
        wanted = slow_layer(means, squares, running_mean, running_variance, 1e-3, drawn)
        assert float(found[row]) == pytest.approx(wanted, rel=1e-9)


def test_equal_moments_have_no_divergence_and_dead_channels_none() -> None:
    means = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    squares = torch.tensor([[2.0, 0.0], [10.0, 0.0]])
    found = layer_divergence(means, squares, torch.tensor([2.0, 0.0]), torch.tensor([2.0, 0.0]), eps=1e-5)
    assert float(found[0]) == pytest.approx(0, abs=1e-9)


def test_a_network_is_the_median_of_its_layers() -> None:
    layers = [torch.tensor([4.0, 1.0]), torch.tensor([1.0, 9.0]), torch.tensor([2.0, 3.0])]
    assert network_divergence(layers).tolist() == [2.0, 3.0]
    assert network_divergence(layers[:2]).tolist() == [2.5, 5.0]


def test_a_tie_is_no_win_and_a_factor_must_be_reached() -> None:
    ones = torch.ones(4)
    assert share_of_wins(ones, ones) == 0
    assert share_of_wins(ones, torch.tensor([1.1, 1.3, 2.0, 0.5]), factor=1.2) == 0.5


def test_shapes_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(InputError):
        layer_divergence(torch.ones(2, 3), torch.ones(2, 3), torch.ones(2), torch.ones(2), eps=0)
    with pytest.raises(InputError):
        network_divergence([])
    with pytest.raises(InputError):
        share_of_wins(torch.ones(2), torch.ones(3))
    with pytest.raises(InputError):
        layer_contrast((torch.ones(1, 3),) * 2, (torch.ones(1, 3),) * 2, torch.ones(3), torch.ones(3), eps=0)
    with pytest.raises(InputError):
        share_nearer([])
    with pytest.raises(InputError):
        place_between([])


def moments(values):
    """Of `(N, C, P)` values."""
    return values.mean(2), values.square().mean(2)


def slow_contrast(one, other, running_mean, running_variance, eps):
    """The same over all pairs of different photos, whose products have no noise of their own."""
    photos, channels = one[0].shape

    def coordinates(means, squares, photo):
        found = []
        for c in range(channels):
            known = float(running_variance[c]) + eps
            mean = sum(float(each[c]) for each in means) / photos
            variance = sum(float(each[c]) for each in squares) / photos - mean**2 + eps
            m, s = float(means[photo][c]), float(squares[photo][c])
            own = s - 2 * mean * m + mean**2 + eps
            found.append((m - float(running_mean[c])) / known**0.5)
            found.append((math.log(variance / known) + own / variance - 1) / 2**0.5)
        return found

    near, far = ([coordinates(*each, n) for n in range(photos)] for each in (one, other))
    apart = [[b - a for a, b in zip(*each, strict=True)] for each in zip(near, far, strict=True)]

    def crossed(vectors):
        pairs = [(i, j) for i in range(photos) for j in range(photos) if i != j]
        products = [sum(a * b for a, b in zip(vectors[i], vectors[j], strict=True)) for i, j in pairs]
        return sum(products) / len(pairs) / (2 * channels)

    def plain(vectors):
        mean = [sum(each) / photos for each in zip(*vectors, strict=True)]
        return sum(value**2 for value in mean) / (2 * channels)

    least = min(plain(near), plain(far))
    difference = crossed(apart)
    return (
        (crossed(near) - crossed(far)) / 2 / least,
        difference / least,
        (plain(apart) - difference) / least,
    )


@pytest.mark.parametrize(("photos", "channels"), [(2, 1), (5, 3)])
def test_a_contrast_is_that_of_plain_loops_over_pairs_of_photos(photos: int, channels: int) -> None:
    generator = torch.Generator().manual_seed(photos)
    one, other = (torch.randn(photos, channels, 6, generator=generator, dtype=torch.float64) for _ in "ab")
    running = torch.randn(channels, generator=generator), 0.5 + torch.rand(channels, generator=generator)
    found = layer_contrast(moments(one), moments(other), *running, eps=1e-3)
    assert found is not None
    wanted = slow_contrast(moments(one), moments(other), *running, 1e-3)
    assert (found.excess, found.difference, found.noise) == pytest.approx(wanted, rel=1e-6)
    assert layer_contrast(moments(one), moments(one), *running, eps=1e-3) is None


def test_noise_of_the_photos_is_no_distance() -> None:
    """Two networks that see the same but for noise: neither is nearer on average, and few layers are told."""
    generator = torch.Generator().manual_seed(0)
    running = torch.zeros(20), torch.full((20,), 9.0)
    excesses, told = [], 0
    for _ in range(60):
        shift = 0.3 * torch.randn(16, 20, 1, generator=generator)
        one, other = (shift + torch.randn(16, 20, 4, generator=generator) * 3 for _ in "ab")
        contrast = layer_contrast(moments(one.double()), moments(other.double()), *running, eps=0)
        assert contrast is not None
        excesses.append(contrast.excess)
        told += contrast.told
    mean, deviation = torch.tensor(excesses).mean(), torch.tensor(excesses).std()
    assert abs(float(mean)) < 3 * float(deviation) / 60**0.5
    assert told <= 6


def test_where_statistics_lie_between_two_networks() -> None:
    running = torch.zeros(4), torch.ones(4)
    generator = torch.Generator().manual_seed(1)
    true = torch.randn(64, 4, 50, generator=generator).double()
    wrong = true + 0.5
    to_wrong, to_true = (
        layer_contrast(moments(a), moments(b), *running, eps=0) for a, b in ((true, wrong), (wrong, true))
    )
    assert to_wrong is not None
    assert to_true is not None
    assert place_between([to_wrong]) == pytest.approx(0, abs=0.05)
    assert place_between([to_true]) == pytest.approx(1, abs=0.05)
    assert share_nearer([to_wrong] * 5) == 0
    assert share_nearer([to_true] * 5) == 1
    mixed = [Contrast(1.0, 1.0, 0.0), Contrast(-1.0, 1.0, 0.0)]
    assert 0.2 < share_nearer(mixed) < 0.3  # both draws are of the first: a quarter
    assert place_between(mixed) == 0.5
