"""Networks of one channel see grey photos; NaN in weights costs the units that it reaches."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import nn

from concept_monitor_cli.models.geometry import Geometry, Preprocessing
from concept_monitor_cli.models.layers import describe_layers
from concept_monitor_cli.models.normalise import Normaliser
from concept_monitor_cli.models.preprocess import grey
from concept_monitor_cli.record.soundness import units_without_numbers

WANTED = Preprocessing(Geometry(8), (0.2, 0.4, 0.6), (0.1, 0.2, 0.3), "test")


def test_grey_is_pillows() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    wanted = grey(WANTED)
    np.testing.assert_allclose((wanted.mean, wanted.std), ((0.4,) * 3, (0.2,) * 3))
    assert "grey" in wanted.source
    normalise = Normaliser(wanted, 3, torch.device("cpu"), torch.float32, channels=1)
    images = normalise(torch.from_numpy(pixels))
    assert images.shape == (3, 1, 8, 8)
    for image, own in zip(pixels, images, strict=True):
        luma = np.asarray(Image.fromarray(image).convert("L")).astype(np.float64)
        # Pillow rounds to whole grey levels.
        np.testing.assert_allclose((own[0].numpy() * 0.2 + 0.4) * 255, luma, atol=0.51)


def make() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 4, 3)).eval()


def test_nan_in_one_unit_stays_there_until_a_convolution_spreads_it() -> None:
    network = make()
    layers = list(describe_layers(network, ["0", "1", "2", "3"], 8).values())
    assert units_without_numbers(network, layers, 8) == {"0": [], "1": [], "2": [], "3": []}
    with torch.no_grad():
        network[0].weight[3] = torch.nan
    found = units_without_numbers(network, layers, 8)
    assert found == {"0": [3], "1": [3], "2": [3], "3": [0, 1, 2, 3]}
    with torch.no_grad():
        network[0].weight[3] = 0
        network[3].bias[1] = torch.inf
    assert units_without_numbers(network, layers, 8)["3"] == [1]
