"""Both ways of normalising, beside plain arithmetic on one number at a time."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import concept_monitor_cli
from concept_monitor_cli.models.geometry import Channels, Geometry, Preprocessing
from concept_monitor_cli.models.normalise import LUMA, ImageNormaliser, Normaliser, grey_images

SIDE = 5
RED_FIRST = Preprocessing(Geometry(SIDE), (0.2, 0.4, 0.6), (0.1, 0.25, 0.5), "test")
CPU = torch.device("cpu")


def slowly(pixels: np.ndarray, wanted: Preprocessing) -> np.ndarray:
    """`(B, S, S, 3)` to `(B, 3, S, S)`, number by number."""
    places = {"rgb": (0, 1, 2), "bgr": (2, 1, 0)}[wanted.channels]
    out = np.zeros((len(pixels), 3, SIDE, SIDE))
    for image, row, column, colour in np.ndindex(pixels.shape):
        value = float(pixels[image, row, column, colour]) / 255
        out[image, places[colour], row, column] = (value - wanted.mean[colour]) / wanted.std[colour]
    return out


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_both_are_the_plain_arithmetic(order: Channels) -> None:
    wanted = replace(RED_FIRST, channels=order)
    pixels = np.random.default_rng(0).integers(0, 256, (4, SIDE, SIDE, 3), dtype=np.uint8)
    expected = slowly(pixels, wanted)
    fast = Normaliser(wanted, 3, CPU, torch.float32)
    batches = [fast(torch.from_numpy(pixels[rows])).clone() for rows in (slice(0, 3), slice(3, 4))]
    np.testing.assert_allclose(torch.cat(batches).numpy(), expected, atol=1e-5)
    assert batches[0].is_contiguous(memory_format=torch.channels_last)
    images = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255).requires_grad_()
    shown = ImageNormaliser(wanted, 3, CPU)
    np.testing.assert_allclose(shown(images).detach().numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(shown(images[0]).detach().numpy(), expected[0], atol=1e-5)
    # What the network says of its first channel is said of the image's red, or of its blue.
    (slope,) = torch.autograd.grad(shown(images)[:, 0].sum(), images)
    first = 0 if order == "rgb" else 2
    assert torch.allclose(slope[:, first], torch.tensor(1 / wanted.std[first]))
    assert int((slope != 0).any(3).any(2).any(0).sum()) == 1
    # The colour that stands for nothing is red first, as images are.
    assert shown.mean.flatten().tolist() == pytest.approx(list(RED_FIRST.mean))


def test_grey_images_are_the_weighted_sum() -> None:
    images = torch.rand(2, 3, SIDE, SIDE)
    grey = grey_images(images)
    assert grey.shape == (2, 1, SIDE, SIDE)
    expected = sum(LUMA[k] * float(images[1, k, 2, 3]) for k in range(3))
    assert float(grey[1, 0, 2, 3]) == pytest.approx(expected, abs=1e-6)
    assert torch.equal(grey_images(images[1]), grey[1])


def test_keys_of_red_first_are_those_from_before_there_was_an_order() -> None:
    assert RED_FIRST.colour_key == {"mean": [0.2, 0.4, 0.6], "std": [0.1, 0.25, 0.5]}
    swapped = replace(RED_FIRST, channels="bgr")
    assert swapped.colour_key == {**RED_FIRST.colour_key, "channels": "bgr"}
    assert swapped.to_json()["channels"] == "bgr"
    assert "channels" not in RED_FIRST.to_json()


@pytest.mark.parametrize("folder", ["record", "lenses", "evaluation", "stories", "library"])
def test_no_other_place_normalises_for_a_network(folder: str) -> None:
    """A mean and a deviation without the order of colours show some networks wrong colours, in silence."""
    files = sorted((Path(concept_monitor_cli.__file__).parent / folder).rglob("*.py"))
    assert files
    alone = re.compile(r"preprocessing\.(mean|std)\b")
    assert [file.name for file in files if alone.search(file.read_text("utf-8"))] == []
