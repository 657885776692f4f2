"""Pictures beside the same formulas in plain float64 loops, and what the ascent must not do."""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from concept_monitor_cli.functional import pictures as P
from concept_monitor_cli.functional.rectifiers import redirected


def numbers(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def inverse_of_half(half: list[list[complex]], side: int) -> list[list[float]]:
    """The real image of half a spectrum, by the sum that defines it (no scaling)."""
    image = [[0.0] * side for _ in range(side)]
    for y in range(side):
        for x in range(side):
            total = 0.0
            for v in range(side):
                for u in range(side):
                    # The other half is the conjugate of this one, mirrored. `irfft` takes of entries that
                    # are their own mirror image along the last axis only what a real image can have.
                    if u <= side // 2:
                        value = half[v][u]
                    else:
                        value = half[-v % side][side - u].conjugate()
                    total += (value * cmath.exp(2j * math.pi * (v * y + u * x) / side)).real
            image[y][x] = total
    return image


def frequency(place: int, side: int) -> float:
    return (place if place < (side + 1) // 2 else place - side) / side


@pytest.mark.parametrize("side", [5, 6])
def test_fourier_image_is_its_formula(side: int) -> None:
    theta = torch.randn(1, 3, side, side // 2 + 1, 2, generator=numbers(1), dtype=torch.float64) * 3
    planes = []
    for channel in theta[0].tolist():
        half = []
        for v in range(side):
            row = []
            for u in range(side // 2 + 1):
                f = math.sqrt(frequency(v, side) ** 2 + (u / side) ** 2)
                row.append(complex(*channel[v][u]) / max(f, 1 / side))
            half.append(row)
        # norm="ortho" divides by sqrt(s * s)
        planes.append([[value / side / 4 for value in row] for row in inverse_of_half(half, side)])
    root = [[0.26, 0.09, 0.02], [0.27, 0.0, -0.05], [0.27, -0.09, 0.03]]
    largest = max(math.sqrt(sum(row[c] ** 2 for row in root)) for c in range(3))
    found = P.fourier_image(theta)[0]
    for rgb in range(3):
        for y in range(side):
            for x in range(side):
                mixed = sum(root[rgb][c] / largest * planes[c][y][x] for c in range(3))
                assert found[rgb, y, x].item() == pytest.approx(sigmoid(mixed), abs=1e-12)


@pytest.mark.parametrize("side", [5, 8])
def test_maco_image_is_its_formula(side: int) -> None:
    phase = torch.randn(2, 3, side, side // 2 + 1, generator=numbers(2), dtype=torch.float64) * 4 + 1
    magnitude = torch.rand(3, side, side // 2 + 1, generator=numbers(3), dtype=torch.float64) + 0.1
    found = P.maco_image(phase, magnitude)
    colours = [[0.5628, 0.5845, 0.5845], [0.1948, 0.0, -0.1948], [0.0433, -0.1082, 0.0649]]
    for picture in range(2):
        angles = phase[picture].numpy()
        angles = (angles - angles.mean()) / angles.std()
        planes = []
        for c in range(3):
            half = [
                [magnitude[c, v, u].item() * cmath.exp(1j * angles[c, v, u]) for u in range(side // 2 + 1)]
                for v in range(side)
            ]
            planes.append(inverse_of_half(half, side))
        plane = np.array(planes)
        plane = (plane - plane.mean()) / plane.std()
        for rgb in range(3):
            mixed = sum(colours[c][rgb] * plane[c] for c in range(3))
            expected = 1 / (1 + np.exp(-mixed))
            np.testing.assert_allclose(found[picture, rgb].numpy(), expected, atol=1e-12)


def test_maco_keeps_the_magnitudes_but_for_the_columns_that_are_their_own_mirror() -> None:
    side = 8
    magnitude = torch.rand(1, side, side // 2 + 1, generator=numbers(4), dtype=torch.float64) + 0.1
    phase = torch.randn(1, 1, side, side // 2 + 1, generator=numbers(5), dtype=torch.float64)
    plane = torch.logit(P.maco_image(phase, magnitude))[0]
    share = torch.fft.rfft2(plane).abs() / magnitude
    inner = share[:, :, 1:-1]
    assert torch.allclose(inner, inner.mean(), rtol=1e-9, atol=0)
    assert not torch.allclose(share[:, :, 0], inner.mean(), rtol=1e-3, atol=0)


def test_the_spectrum_of_images_is_measured_in_the_space_where_it_is_used() -> None:
    images = torch.rand(5, 3, 6, 6, generator=numbers(6), dtype=torch.float64)
    inverse = np.linalg.inv(np.array(P.MACO_COLOURS))
    total = np.zeros((3, 6, 4))
    for image in images.numpy():
        clipped = np.clip(image, 0.02, 0.98)
        logits = np.log(clipped / (1 - clipped))
        for c in range(3):
            total[c] += np.abs(np.fft.rfft2(sum(logits[rgb] * inverse[rgb, c] for rgb in range(3))))
    found = P.natural_magnitude(iter([images[:2], images[2:]]))
    np.testing.assert_allclose(found.numpy(), total / 5, rtol=1e-5)
    # What one picture has of phases of its own comes back from it: the space is the same one.
    plane = torch.einsum("cr,chw->rhw", torch.tensor(P.MACO_COLOURS, dtype=torch.float64), images[0])
    again = P.natural_magnitude(iter([torch.sigmoid(plane)[None]]))
    np.testing.assert_allclose(again.numpy(), torch.fft.rfft2(images[0]).abs().numpy(), rtol=1e-4, atol=1e-5)


def test_the_spectrum_of_no_images_is_refused() -> None:
    with pytest.raises(ValueError, match="no image"):
        P.natural_magnitude(iter([]))


def test_power_of_the_start_falls_with_the_frequency() -> None:
    side = 64
    theta = torch.stack([P.start("fourier", 1, side, seed) for seed in range(20)]).double()
    plane = torch.logit(P.fourier_image(theta))
    size = torch.fft.rfft2(plane).abs().square().mean((0, 1)).sqrt()
    f = P.frequencies(side)
    inside = (f >= 2 / side) & (f < 0.5)
    inside[:, 0] = inside[:, -1] = False
    slope = np.polyfit(f[inside].log().numpy(), size[inside].log().numpy(), 1)[0]
    assert slope == pytest.approx(-1, abs=0.05)


def test_grey_pictures_have_no_colours_to_mix() -> None:
    assert P.colour_matrix(1).tolist() == [[1.0]]
    theta = P.start("fourier", 1, 8, 0)[None]
    assert P.fourier_image(theta).shape == (1, 1, 8, 8)
    magnitude = P.natural_magnitude(iter([torch.rand(2, 1, 8, 8, generator=numbers(0))]))
    assert P.maco_image(P.start("maco", 1, 8, 0)[None], magnitude).shape == (1, 1, 8, 8)


@pytest.mark.parametrize("side", [8, 7])
def test_whole_pixel_warps_are_exact(side: int) -> None:
    images = torch.rand(2, 3, side, side, generator=numbers(7), dtype=torch.float64)
    still = torch.tensor([[1.0, 0, 0], [0, 1, 0]], dtype=torch.float64)
    assert torch.allclose(P.warp(images, still), images, atol=1e-12)
    moved = P.warp(images, torch.tensor([[1.0, 0, 2], [0, 1, -1]], dtype=torch.float64))
    assert torch.allclose(moved[:, :, 1:, :-2], images[:, :, :-1, 2:], atol=1e-12)
    assert torch.allclose(moved[:, :, 0], torch.tensor(0.5, dtype=torch.float64), atol=1e-12)
    turned = P.warp(images, torch.tensor([[0.0, -1, 0], [1, 0, 0]], dtype=torch.float64))
    assert torch.allclose(turned, torch.rot90(images, 1, (2, 3)), atol=1e-12) or torch.allclose(
        turned, torch.rot90(images, -1, (2, 3)), atol=1e-12
    )


def test_warps_are_bilinear_between_pixels() -> None:
    side = 6
    image = torch.rand(side, side, generator=numbers(8), dtype=torch.float64)
    matrix = P.draw_warp(side, numbers(3))
    found = P.warp(image[None, None], matrix)[0, 0]
    for y in range(side):
        for x in range(side):
            right, down = x - (side - 1) / 2, y - (side - 1) / 2
            from_x, from_y = (
                (row[0] * right + row[1] * down + row[2]) + (side - 1) / 2 for row in matrix.tolist()
            )
            total = 0.0
            for at_y in (math.floor(from_y), math.floor(from_y) + 1):
                for at_x in (math.floor(from_x), math.floor(from_x) + 1):
                    inside = 0 <= at_y < side and 0 <= at_x < side
                    value = image[at_y, at_x].item() if inside else 0.5
                    total += value * (1 - abs(from_x - at_x)) * (1 - abs(from_y - at_y))
            assert found[y, x].item() == pytest.approx(total, abs=1e-12)


def test_warps_are_drawn_as_lucid_draws_them() -> None:
    drawn = torch.stack(P.Climb(side=128, seed=5).warps("warps", 4000))
    zoom = 1 / torch.linalg.det(drawn[:, :, :2]).sqrt()
    turn = torch.rad2deg(torch.atan2(drawn[:, 1, 0], drawn[:, 0, 0]))
    assert 0.9 <= zoom.min() < 0.905
    assert 1.095 < zoom.max() <= 1.1
    assert (turn.abs() < 1e-9).double().mean().item() == pytest.approx(5 / 26, abs=0.02)
    assert 9.8 < turn.abs().max() <= 10
    assert 5.9 < drawn[:, :, 2].abs().max() <= 6
    # Of a picture half as large, half as many pixels.
    assert torch.allclose(
        torch.stack(P.Climb(side=64, seed=5).warps("warps", 9))[:, :, 2], drawn[:9, :, 2] / 2
    )


def test_objectives_by_hand() -> None:
    maps = torch.arange(2 * 2 * 3 * 3, dtype=torch.float64).view(2, 2, 3, 3) - 7
    units = torch.tensor([1, 0])
    assert P.at_centre(maps, units).tolist() == [maps[0, 1, 1, 1], maps[1, 0, 1, 1]]
    assert P.of_own(maps.mean((2, 3)), units).tolist() == [maps[0, 1].mean(), maps[1, 0].mean()]
    u = P.above_mean(torch.tensor([3.0, 1.0]), torch.tensor([1.0, 1.0]), torch.tensor([2.0, 1.0]))
    assert u[0] == 2
    assert u[1].isnan()
    assert P.blends((0, 0.25, 1), torch.tensor([1.0] * 3), torch.tensor([5.0] * 3)).tolist() == [1, 2, 5]


def test_high_frequencies_of_stripes() -> None:
    x = torch.arange(16, dtype=torch.float64)
    slow, fast = torch.cos(2 * math.pi * x / 8), torch.cos(math.pi * x)
    images = torch.stack([slow, fast, slow + fast, torch.full((16,), 0.3, dtype=torch.float64)])
    found = P.high_frequency(images[:, None, None, :].expand(4, 1, 16, 16))
    # A cosine at the highest frequency has twice the power of another one.
    assert found[:3].tolist() == pytest.approx([0, 1, 2 / 3], abs=1e-9)
    assert found[3].isnan()


def test_total_variation_by_hand() -> None:
    image = torch.tensor([[[[0.0, 1.0], [3.0, 1.0]]]])
    assert P.total_variation(image).tolist() == [(3 + 0) / 2 + (1 + 2) / 2]


def test_maco_pictures_are_shown_without_their_frame() -> None:
    images = torch.rand(1, 3, 40, 40)
    assert torch.equal(P.shown(images, "maco"), images[:, :, 2:38, 2:38])
    assert P.shown(images, "fourier") is images


# -- ascent --------------------------------------------------------------------------------------------------


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU()).eval()
    with torch.no_grad():  # every unit fires on grey
        model[2].bias += 0.2 - model[:3](torch.zeros(1, 3, 8, 8)).mean((0, 2, 3))
    return model


def score_of(model: nn.Module, units: list[int]) -> Callable[[Tensor], Tensor]:
    chosen = torch.tensor(units)

    def score(images: Tensor) -> Tensor:
        return P.of_own(model(images * 4 - 2).mean((2, 3)), chosen)

    return score


@pytest.mark.parametrize("kind", ["fourier", "maco", "pixel"])
def test_an_ascent_climbs(kind: P.Parameterisation) -> None:
    model = network()
    magnitude = P.natural_magnitude(iter([torch.rand(4, 3, 16, 16, generator=numbers(1))]))
    score = score_of(model, [0, 3, 5])
    begin = P.ascend(score, P.Climb(kind, side=16, steps=0), 3, magnitude=magnitude)
    end = P.ascend(score, P.Climb(kind, side=16, steps=40), 3, magnitude=magnitude)
    with torch.no_grad():
        factor = 1.1 if kind == "maco" else 1.3  # phases alone have less room
        assert (score(end.images) > factor * score(begin.images)).all()
    assert 0 <= end.images.min() <= end.images.max() <= 1


def test_the_slope_of_an_objective_is_that_of_finite_differences() -> None:
    model = network().double()
    theta = P.start("fourier", 3, 10, 3).double()[None] * 30
    matrix = P.draw_warp(10, numbers(1))

    def value(at: Tensor) -> Tensor:
        return score_of(model, [2])(P.warp(P.fourier_image(at), matrix))

    at = theta.clone().requires_grad_()
    (slope,) = torch.autograd.grad(value(at).sum(), at)
    for place in [(0, 0, 1, 1, 0), (0, 1, 4, 2, 1), (0, 2, 9, 5, 0)]:
        step = torch.zeros_like(theta)
        step[place] = 1e-5
        expected = (value(theta + step) - value(theta - step)).item() / 2e-5
        assert slope[place].item() == pytest.approx(expected, rel=1e-4, abs=1e-9)


def test_a_picture_does_not_depend_on_those_beside_it() -> None:
    model = network()
    climb = P.Climb(side=16, steps=12, seed=4)
    one = P.ascend(score_of(model, [3, 0, 1, 5]), climb, 4)
    other = P.ascend(score_of(model, [2, 4, 5, 3]), climb, 4)
    assert torch.equal(one.images[0], other.images[3])
    assert torch.equal(one.images[3], other.images[2])
    double = network().double()
    alone = P.ascend(score_of(double, [5]), climb, 1, theta=P.start("fourier", 3, 16, 4)[None].double())
    beside = P.ascend(
        score_of(double, [3, 0, 5]),
        climb,
        3,
        theta=P.start("fourier", 3, 16, 4).double().expand(3, -1, -1, -1, -1),
    )
    assert torch.allclose(alone.images[0], beside.images[2], atol=1e-10)


def test_another_seed_gives_another_picture() -> None:
    score = score_of(network(), [3])
    first, second = (P.ascend(score, P.Climb(side=16, steps=12, seed=seed), 1).images for seed in (0, 1))
    assert (first - second).abs().max() > 0.05


def test_a_planted_silent_unit_takes_off_only_with_redirected_gradients() -> None:
    model = network()
    with torch.no_grad():
        model[2].bias[3] -= 0.3  # silent on grey, and within reach of an image
    score = score_of(model, [3, 0])
    climb = P.Climb(side=16, steps=60)
    without = P.ascend(score, climb, 2)
    woken = P.ascend(score, climb, 2, redirect=redirected)
    assert without.silent.tolist() == woken.silent.tolist() == [True, False]
    with torch.no_grad():
        assert score(without.images)[0] == 0
        assert score(woken.images)[0] > 0.1
    # The other one was never silent, and is as without.
    assert torch.equal(woken.images[1], without.images[1])


def test_smoother_pictures_by_total_variation() -> None:
    score = score_of(network(), [3])
    plain, smooth = (
        P.ascend(score, P.Climb("pixel", side=16, steps=30, smooth=weight), 1).images
        for weight in (0.0, 20.0)
    )
    assert P.total_variation(smooth) < 0.5 * P.total_variation(plain)
