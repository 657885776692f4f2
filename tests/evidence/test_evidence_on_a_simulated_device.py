"""What layers of batch normalisation see, on a simulated device: as on the host, one wait a batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from concept_monitor_cli.models.batch_norm import input_moments, running_layers
from tests.simulated import DEVICE, simulated_device, waits


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5)
    ).eval()


def moments(images: Tensor, device: torch.device, *, matched: bool) -> list[tuple[Tensor, Tensor]]:
    model = network().to(device)
    with input_moments(model, running_layers(model), matched=matched) as read:
        return [(each.means, each.squares) for each in read(images.to(device))]


@pytest.mark.parametrize("matched", [False, True])
def test_moments_are_those_of_the_host(matched: bool) -> None:
    images = torch.randn(6, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    here = moments(images, torch.device("cpu"), matched=matched)
    with simulated_device() as counts:
        there = moments(images, DEVICE, matched=matched)
        waited, places = waits(counts), counts.most_common(9)
    torch.testing.assert_close(there, here)
    # What each of two layers remembers is looked up, mean and variance; then all is copied at once.
    assert waited == 2 * 2 + 1, places
