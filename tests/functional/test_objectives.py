"""Objectives of pictures beside the same written with loops, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from concept_monitor_cli.functional import objectives as O
from concept_monitor_cli.functional import pictures as P


def maps(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(first: list[float], second: list[float]) -> float:
    def dot(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    return dot(first, second) / math.sqrt(dot(first, first) * dot(second, second))


def test_the_energy_of_a_layer() -> None:
    found = O.layer_energy(maps(3, 4, 2, 5))
    for picture, value in zip(maps(3, 4, 2, 5), found, strict=True):
        total = sum(v * v for channel in picture.tolist() for row in channel for v in row)
        assert value.item() == pytest.approx(total / 40, rel=1e-12)


def test_caricatures_are_loud_and_alike() -> None:
    pictures, images = maps(4, 3, 2, 2), maps(4, 3, 2, 2, seed=1)
    pictures[1] = -images[1] + 0.1 * pictures[1]  # a negative cosine counts as .1
    pictures[2] = 3 * images[2]
    alike, climbed = O.resemblance(pictures, images), O.caricature(pictures, images)
    for number in range(4):
        a, b = pictures[number].flatten().tolist(), images[number].flatten().tolist()
        assert alike[number].item() == pytest.approx(cosine(a, b), rel=1e-12)
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        assert climbed[number].item() == pytest.approx(dot * max(0.1, cosine(a, b)), rel=1e-12)
    assert alike[2].item() == pytest.approx(1)
    assert climbed[1] < 0


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_cosines_of_gram_matrices(scale: float) -> None:
    own = maps(2, 3, 4, 2, 3)
    own[1, 2] = own[1, 0].flip(2)  # the same texture somewhere else
    found = O.gram_cosines(own * scale)
    for group in range(2):
        grams = []
        for picture in own[group]:
            flat = picture.flatten(1).tolist()
            grams.append([sum(x * y for x, y in zip(a, b, strict=True)) for a in flat for b in flat])
        for i in range(3):
            for j in range(3):
                assert found[group, i, j].item() == pytest.approx(cosine(grams[i], grams[j]), rel=1e-9)
    assert found[1, 0, 2].item() == pytest.approx(1)
    # In float32 loud and quiet layers are as far apart.
    assert torch.allclose(O.gram_cosines((own * scale).float()).double(), found, atol=1e-5)


def test_pictures_of_silent_layers_have_finite_slopes() -> None:
    silent = torch.zeros(1, 2, 3, 2, 2, requires_grad=True)
    (slope,) = torch.autograd.grad(O.gram_cosines(silent).sum(), silent)
    assert slope.isfinite().all()


def test_a_group_climbs_u_less_likeness() -> None:
    u, cosines = maps(2, 3), maps(2, 3, 3, seed=1)
    found = O.diverse(u, cosines, 0.7)
    for group in range(2):
        for i in range(3):
            likeness = sum(cosines[group, i, j].item() for j in range(3) if j != i)
            assert found[group, i].item() == pytest.approx(u[group, i].item() - 0.7 * likeness / 3)
    assert torch.equal(O.diverse(u, cosines, 0.0), u)


def test_how_far_apart_vectors_are() -> None:
    rows = maps(4, 5)
    found = O.apart(rows)
    for i in range(4):
        distances = [1 - cosine(rows[i].tolist(), rows[j].tolist()) for j in range(4) if j != i]
        assert found[i].item() == pytest.approx(sum(distances) / 3)
    assert O.apart(rows[:1]).isnan().all()
    assert torch.allclose(O.apart(rows[:1].expand(3, -1)), torch.zeros(3, dtype=torch.float64), atol=1e-12)


# -- crops ---------------------------------------------------------------------------------------------------


def test_a_crop_is_a_square_of_the_picture_enlarged() -> None:
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    numbers = P.generator(0, "crops")
    matrix = P.draw_crop(8, 0.5, numbers)
    x, y, varied = torch.randn(3, generator=P.generator(0, "crops"), dtype=torch.float64).tolist()
    taken = min(max(0.5 + 0.05 * varied, 0.05), 1.0)
    found = P.warp(images, matrix)
    # The middle of the crop is read about the drawn centre.
    for row in range(8):
        for column in range(8):
            from_x = (column - 3.5) * taken + 0.15 * 8 * x + 3.5
            from_y = (row - 3.5) * taken + 0.15 * 8 * y + 3.5
            total = torch.zeros(2, 3, dtype=torch.float64)
            for at_y in (math.floor(from_y), math.floor(from_y) + 1):
                for at_x in (math.floor(from_x), math.floor(from_x) + 1):
                    inside = 0 <= at_y < 8 and 0 <= at_x < 8
                    value = images[:, :, at_y, at_x] if inside else torch.full((2, 3), 0.5).double()
                    total += value * (1 - abs(from_x - at_x)) * (1 - abs(from_y - at_y))
            assert torch.allclose(found[:, :, row, column], total, atol=1e-12)


def test_crops_shrink_and_are_drawn_as_xplique_draws_them() -> None:
    steps = list(P.Climb(side=32, steps=40, crops=60, seed=3).cropped())
    assert [len(crops) for crops in steps] == [60] * 40
    sides = torch.tensor([[matrix[0, 0] for matrix, _ in crops] for crops in steps])
    expected = torch.linspace(0.5, 0.05, 40)
    assert (sides.mean(1) - expected).abs()[:-6].max() < 0.03  # the last ones are cut off below
    assert sides.min() == pytest.approx(0.05)
    centres = torch.stack([matrix[:, 2] for crops in steps for matrix, _ in crops]) / 32
    assert centres.std().item() == pytest.approx(0.15, abs=0.01)
    noise = torch.stack([noise for crops in steps[:2] for _, noise in crops])
    assert noise.shape == (120, 3, 32, 32)
    assert noise.std().item() == pytest.approx(0.08, rel=0.01)


def test_the_slope_over_crops_is_the_mean_of_their_slopes() -> None:
    climb = P.Climb(side=12, steps=1, crops=3, smooth=0.3, rate=1.0)
    weights = maps(1, 3, 12, 12).float()

    def score(images: Tensor) -> Tensor:
        return (images * weights).square().sum((1, 2, 3))

    theta = P.start("fourier", 3, 12, 0)[None].requires_grad_()
    images = P.fourier_image(theta)
    (crops,) = climb.cropped()
    seen = [score(P.warp(images, matrix) + noise) for matrix, noise in crops]
    value = torch.stack(seen).mean(0) - 0.3 * P.total_variation(images)
    (slope,) = torch.autograd.grad(value.sum(), theta)
    # Adam's first step is the sign of the slope.
    moved = P.ascend(score, climb, 1).theta - theta.detach()
    large = slope.abs() > 1e-6
    assert large.sum() > 100
    assert torch.equal(moved[large].sign(), slope[large].sign())
