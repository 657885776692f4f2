"""Divergences between moments and running statistics, against plain loops."""

from __future__ import annotations

import math

import pytest
import torch

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.input_evidence import (
    layer_divergence,
    network_divergence,
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
