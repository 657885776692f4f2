"""Feature visualisation: the image that excites a unit most, found by gradient ascent.

A picture `x`, `(B, channels, s, s)` in [0, 1], is made of parameters in which neighbouring pixels are not
independent (Olah, Mordvintsev, Schubert 2017, "Feature Visualization", Distill), is warped anew at every
step, and climbs an objective. Everything that is drawn at random is drawn once for all pictures of a batch,
so a picture does not depend on those beside it.

`fourier`, colours and warps follow lucid (`optvis/param/spatial.py`, `optvis/param/color.py`,
`optvis/transform.py`); `maco` is Fel et al. 2023, "Unlocking Feature Visualization for Deeper Networks with
MAgnitude Constrained Optimization", constants of xplique.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Parameterisation = Literal["fourier", "maco", "pixel"]

#: Square root of the colours' covariance in ImageNet (lucid `color.py`): rows are RGB, columns components.
COLOURS = ((0.26, 0.09, 0.02), (0.27, 0.0, -0.05), (0.27, -0.09, 0.03))
#: The same in xplique's MaCo: rows are components, columns RGB.
MACO_COLOURS = ((0.5628, 0.5845, 0.5845), (0.1948, 0.0, -0.1948), (0.0433, -0.1082, 0.0649))
#: What the warped picture shows where it has no pixels.
OUTSIDE = 0.5
#: Steps in which silent ReLUs let through what could wake them (lucid `redirected_relu_grad.py`).
REDIRECTED_STEPS = 16
#: Step sizes: Adam for `fourier` and `pixel` (lucid), NAdam for `maco` (xplique).
RATES: dict[Parameterisation, float] = {"fourier": 0.05, "pixel": 0.05, "maco": 1.0}
#: Share of the picture that is not shown at each side of a `maco` one: warps leave a frame there.
MACO_FRAME = 0.05
#: Power above this frequency, in cycles per pixel, counts as high.
HIGH = 0.25

_START = 0.01
_FOURIER_SCALE = 4.0
# Pixels of a probing image are kept this far from 0 and 1 before the logit.
_LOGIT_EDGE = 0.02
# lucid's standard transforms in one: 5 of 26 angles are 0, the others lie in +-10 degrees.
_SHIFT, _SHIFT_SIDE = 6.0, 128
_SCALE = (0.9, 1.1)
_STRAIGHT = 5 / 26
_ANGLE = 10.0
# xplique's crops: where they lie, how their side shrinks over the steps, how much it varies, the noise.
_CROP_CENTRE = (0.5, 0.15)
_CROP_FIRST, _CROP_LAST = 0.5, 0.05
_CROP_VARIES, _CROP_LEAST = 0.05, 0.05
_CROP_NOISE = 0.08


def generator(seed: int, purpose: str) -> torch.Generator:
    """Random numbers for one purpose: others drawn from the same seed do not shift them."""
    mixed = seed & 0xFFFFFFFF
    for letter in purpose.encode():
        mixed = (mixed * 1_000_003 + letter + 1) & 0x7FFFFFFFFFFF
    return torch.Generator().manual_seed(mixed)


# -- parameterisations ---------------------------------------------------------------------------------------


def frequencies(side: int) -> Tensor:
    """Length of the frequency of every entry of `rfft2`, cycles per pixel, `(s, s//2+1)` float64."""
    rows = torch.fft.fftfreq(side, dtype=torch.float64)[:, None]
    columns = torch.fft.rfftfreq(side, dtype=torch.float64)[None, :]
    length: Tensor = (rows.square() + columns.square()).sqrt()
    return length


def colour_matrix(channels: int) -> Tensor:
    """`K`, `(channels, channels)` float64: `COLOURS` over its largest column norm; 1 for grey."""
    if channels == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    root = torch.tensor(COLOURS, dtype=torch.float64)
    scaled: Tensor = root / root.norm(dim=0).max()
    return scaled


def start(kind: Parameterisation, channels: int, side: int, seed: int) -> Tensor:
    """The parameters that all pictures start from, float32.

    Args:
        kind: the parameterisation.
        channels: of the picture: 3, or 1 for grey.
        side: of the picture, pixels.
        seed: of the draw.

    Returns:
        `fourier`: `(channels, s, s//2+1, 2)`, normal with standard deviation .01. `maco`: phases
        `(channels, s, s//2+1)`, standard normal. `pixel`: `(channels, s, s)`, as `fourier`.
    """
    shape: tuple[int, ...] = (channels, side, side // 2 + 1)
    if kind == "fourier":
        shape = (*shape, 2)
    elif kind == "pixel":
        shape = (channels, side, side)
    drawn = torch.randn(shape, generator=generator(seed, f"start of {kind}"))
    return drawn if kind == "maco" else drawn * _START


def fourier_image(theta: Tensor) -> Tensor:
    """The picture of Fourier coefficients in which every frequency is scaled by its wavelength.

    `t = irfft2(theta / max(f, 1/s), norm="ortho") / 4`, `x = sigmoid(K t)`.

    Args:
        theta: `(B, channels, s, s//2+1, 2)`, real and imaginary parts.

    Returns:
        `(B, channels, s, s)` in (0, 1), of the dtype of `theta`.
    """
    side = theta.shape[-3]
    scale = frequencies(side).clamp_min(1 / side).to(theta)
    spectrum = torch.view_as_complex(theta.contiguous()) / scale
    plane = torch.fft.irfft2(spectrum, s=(side, side), norm="ortho") / _FOURIER_SCALE
    return torch.sigmoid(torch.einsum("rc,bchw->brhw", colour_matrix(theta.shape[1]).to(plane), plane))


def pixel_image(theta: Tensor) -> Tensor:
    """The picture of parameters that are its pixels' logits: to compare with."""
    return torch.sigmoid(theta)


def _standardised(values: Tensor) -> Tensor:
    """Zero mean and unit standard deviation over everything but the first axis."""
    flat = values.flatten(1)
    mean, spread = flat.mean(1), flat.std(1, correction=0)
    shape = (-1, *([1] * (values.ndim - 1)))
    return (values - mean.view(shape)) / spread.clamp_min(torch.finfo(values.dtype).tiny).view(shape)


def _maco_colours(channels: int, like: Tensor) -> Tensor:
    if channels == 1:
        return like.new_ones(1, 1)
    return torch.tensor(MACO_COLOURS, dtype=like.dtype, device=like.device)


def maco_image(phase: Tensor, magnitude: Tensor) -> Tensor:
    """The picture of phases, with the magnitudes of natural images.

    `t = irfft2(r exp(i phase))` with `phase` standardised per picture, `t` standardised, `x = sigmoid(t K2)`.

    Args:
        phase: `(B, channels, s, s//2+1)`.
        magnitude: `r`, `(channels, s, s//2+1)`, of `natural_magnitude`.

    Returns:
        `(B, channels, s, s)` in (0, 1).
    """
    side = phase.shape[-2]
    spectrum = torch.polar(magnitude.to(phase).expand_as(phase), _standardised(phase))
    plane = _standardised(torch.fft.irfft2(spectrum, s=(side, side)))
    colours = _maco_colours(phase.shape[1], plane)
    return torch.sigmoid(torch.einsum("cr,bchw->brhw", colours, plane))


def natural_magnitude(batches: Iterator[Tensor]) -> Tensor:
    """`r` of `maco`: the mean magnitude spectrum of images in the space in which it is used.

    `mean(abs(rfft2(logit(clip(x, .02, .98)) K2^-1)))`: measured in RGB, as xplique does, it would be that of
    another space.

    Args:
        batches: images `(b, channels, s, s)` in [0, 1].

    Returns:
        `(channels, s, s//2+1)` float32.

    Raises:
        ValueError: no image.
    """
    total, count = None, 0
    for images in batches:
        logits = torch.logit(images.double().clamp(_LOGIT_EDGE, 1 - _LOGIT_EDGE))
        inverse = torch.linalg.inv(_maco_colours(images.shape[1], logits))
        plane = torch.einsum("rc,brhw->bchw", inverse, logits)
        found = torch.fft.rfft2(plane).abs().sum(0)
        total = found if total is None else total + found
        count += len(images)
    if total is None:
        raise ValueError("no image to take the spectrum from")
    mean: Tensor = (total / count).float()
    return mean


def image_of(kind: Parameterisation, theta: Tensor, magnitude: Tensor | None = None) -> Tensor:
    """The pictures of some parameters; see the three functions above."""
    if kind == "maco":
        if magnitude is None:
            raise ValueError("maco needs the magnitudes of natural images")
        return maco_image(theta, magnitude)
    return fourier_image(theta) if kind == "fourier" else pixel_image(theta)


# -- warps ---------------------------------------------------------------------------------------------------


def draw_warp(side: int, numbers: torch.Generator, wider: float = 1.0) -> Tensor:
    """A random shift, scale and rotation: lucid's `standard_transforms` in one.

    Args:
        side: of the picture, pixels. Shifts are lucid's for 128 pixels, and grow with the side.
        numbers: random numbers.
        wider: times as far shifted and turned.

    Returns:
        `(2, 3)` float64: where a place of the result, `(x, y, 1)` in pixels from the centre, is read from.
    """
    shift_x, shift_y, scale, straight, angle = torch.rand(5, generator=numbers, dtype=torch.float64).tolist()
    reach = wider * _SHIFT * side / _SHIFT_SIDE
    low, high = _SCALE
    zoom = low + (high - low) * scale
    turn = 0.0 if straight < _STRAIGHT else math.radians(wider * _ANGLE * (2 * angle - 1))
    cosine, sine = math.cos(turn) / zoom, math.sin(turn) / zoom
    return torch.tensor(
        [[cosine, -sine, reach * (2 * shift_x - 1)], [sine, cosine, reach * (2 * shift_y - 1)]],
        dtype=torch.float64,
    )


def warp(images: Tensor, matrix: Tensor) -> Tensor:
    """The images read at other places, bilinearly; `OUTSIDE` where there is no image.

    Args:
        images: `(B, channels, s, s)`.
        matrix: of `draw_warp`, the same for all images.

    Returns:
        `(B, channels, s, s)`.
    """
    side = images.shape[-1]
    scaled = matrix.clone()
    scaled[:, 2] *= 2 / side  # `grid_sample` counts from -1 to 1
    grid = F.affine_grid(scaled[None].to(images), [1, 1, side, side], align_corners=False)
    grid = grid.expand(len(images), -1, -1, -1)
    return F.grid_sample(images - OUTSIDE, grid, align_corners=False, padding_mode="zeros") + OUTSIDE


def draw_crop(side: int, share: float, numbers: torch.Generator) -> Tensor:
    """A random square of the picture, enlarged to its size, as a matrix for `warp` (xplique `maco.py`).

    Args:
        side: of the picture, pixels.
        share: how much of the side the square takes on average.
        numbers: random numbers.

    Returns:
        `(2, 3)` float64. The centre is normal about the middle with a standard deviation of .15 of the side,
        the side normal with .05, within .05 and 1.
    """
    x, y, varied = torch.randn(3, generator=numbers, dtype=torch.float64).tolist()
    middle, spread = _CROP_CENTRE
    taken = min(max(share + _CROP_VARIES * varied, _CROP_LEAST), 1.0)
    reach = side * spread
    begin = side * (middle - 0.5)
    return torch.tensor(
        [[taken, 0.0, begin + reach * x], [0.0, taken, begin + reach * y]], dtype=torch.float64
    )


# -- objectives ----------------------------------------------------------------------------------------------


def at_centre(maps: Tensor, units: Tensor) -> Tensor:
    """`A_k` at `(h//2, w//2)`, `(B,)`: picture b climbs its own unit.

    Args:
        maps: `(B, C, h, w)`.
        units: `(B,)` int64.
    """
    return of_own(maps[:, :, maps.shape[2] // 2, maps.shape[3] // 2], units)


def of_own(pooled: Tensor, units: Tensor) -> Tensor:
    """The pooled activation of each picture's own unit, `(B,)`, of `(B, C)`."""
    return pooled.gather(1, units[:, None])[:, 0]


def above_mean(activation: Tensor, mean: Tensor, maximum: Tensor) -> Tensor:
    """`u = (v - mean) / (max - mean)`: 0 at a unit's mean over the images, 1 at its best image.

    NaN where mean and maximum are equal: of a unit that says nothing.
    """
    return (activation - mean) / torch.where(maximum > mean, maximum - mean, torch.nan)


# -- ascent --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Climb:
    """How pictures are made.

    Attributes:
        kind: the parameterisation.
        side: of a picture, pixels.
        channels: 3, or 1 for grey.
        steps: of the ascent.
        seed: of the start and the warps.
        warped: whether each step sees the pictures warped anew.
        smooth: weight of total variation, which is taken off the objective; 0 for none.
        rate: step size; `None` for that of the parameterisation.
        wider: how much further than lucid's the warps shift and turn.
        crops: squares of the picture, enlarged and with noise, that each step sees in place of a warp; 0:
            none. Their side shrinks from .5 to .05 of the picture's over the steps (xplique's for `maco`).
    """

    kind: Parameterisation = "fourier"
    side: int = 96
    channels: int = 3
    steps: int = 128
    seed: int = 0
    warped: bool = True
    smooth: float = 0.0
    rate: float | None = None
    wider: float = 1.0
    crops: int = 0

    def cropped(self) -> Iterator[list[tuple[Tensor, Tensor]]]:
        """The crops of each step, with the noise `(channels, s, s)` of each."""
        numbers = generator(self.seed, "crops")
        shape = (self.channels, self.side, self.side)
        for share in torch.linspace(_CROP_FIRST, _CROP_LAST, self.steps).tolist():
            yield [
                (
                    draw_crop(self.side, share, numbers),
                    torch.randn(shape, generator=numbers) * _CROP_NOISE,
                )
                for _ in range(self.crops)
            ]

    def warps(self, purpose: str, count: int) -> list[Tensor]:
        """Some warps, the same for the same purpose and seed."""
        numbers = generator(self.seed, purpose)
        return [draw_warp(self.side, numbers, self.wider) for _ in range(count)]


@dataclass(frozen=True)
class Ascent:
    """Pictures that have been made.

    Attributes:
        images: `(B, channels, s, s)` in [0, 1].
        theta: their parameters.
        silent: `(B,)` bool: whether the start had no gradient at all.
    """

    images: Tensor
    theta: Tensor
    silent: Tensor


def ascend(
    score: Callable[[Tensor], Tensor],
    climb: Climb,
    count: int,
    *,
    magnitude: Tensor | None = None,
    redirect: Callable[[], AbstractContextManager[object]] = nullcontext,
    device: torch.device | str = "cpu",
    theta: Tensor | None = None,
    step_done: Callable[[], None] = lambda: None,
) -> Ascent:
    """Climbs an objective from one start, under one series of warps, for all pictures of a batch.

    Args:
        score: images `(B, channels, s, s)` in [0, 1] -> the objective of each, `(B,)`, in the graph.
        climb: how.
        count: `B`.
        magnitude: for `maco`.
        redirect: context of the first `REDIRECTED_STEPS` steps (`rectifiers.redirected`).
        device: where.
        theta: parameters to start from, `(B, ...)`; by default `start` for each.
        step_done: called after each step.

    Returns:
        The pictures, which do not depend on each other.
    """
    if theta is None:
        one = start(climb.kind, climb.channels, climb.side, climb.seed)
        theta = one.expand(count, *one.shape)
    theta = theta.to(device).clone().requires_grad_()
    rate = RATES[climb.kind] if climb.rate is None else climb.rate
    maker = torch.optim.NAdam if climb.kind == "maco" else torch.optim.Adam
    optimiser = maker([theta], lr=rate, maximize=True)

    def slope(matrix: Tensor) -> Tensor:
        images = image_of(climb.kind, theta, magnitude)
        value = score(warp(images, matrix) if climb.warped else images)
        if climb.smooth:
            value = value - climb.smooth * total_variation(images)
        found: Tensor = torch.autograd.grad(value.sum(), theta)[0]
        return found

    def slope_of_crops(crops: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """The mean over crops; one after another, so that memory holds what the network keeps of one."""
        images = image_of(climb.kind, theta, magnitude)
        leaf = images.detach().requires_grad_()
        pull = torch.zeros_like(leaf)
        for matrix, noise in crops:
            value = score(warp(leaf, matrix) + noise.to(leaf))
            pull += torch.autograd.grad(value.sum(), leaf)[0] / len(crops)
        if climb.smooth:
            pull -= climb.smooth * torch.autograd.grad(total_variation(leaf).sum(), leaf)[0]
        found: Tensor = torch.autograd.grad(images, theta, pull)[0]
        return found

    slopes: Iterator[Callable[[], Tensor]]
    if climb.crops:
        slopes = (partial(slope_of_crops, crops) for crops in climb.cropped())
    else:
        slopes = (partial(slope, matrix) for matrix in climb.warps("warps", climb.steps))
    with torch.inference_mode(mode=False), torch.enable_grad():
        silent = torch.zeros(count, dtype=torch.bool)
        for step, of_step in enumerate(slopes):
            if step == 0:
                silent = (of_step() == 0).flatten(1).all(1)
            with redirect() if step < REDIRECTED_STEPS else nullcontext():
                theta.grad = of_step()
            optimiser.step()
            step_done()
        with torch.no_grad():
            images = image_of(climb.kind, theta, magnitude)
    return Ascent(images, theta.detach(), silent)


# -- measures ------------------------------------------------------------------------------------------------


def total_variation(images: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels, down and across, `(B,)`."""
    down = (images[:, :, 1:] - images[:, :, :-1]).abs().mean((1, 2, 3))
    across = (images[:, :, :, 1:] - images[:, :, :, :-1]).abs().mean((1, 2, 3))
    return down + across


def high_frequency(images: Tensor) -> Tensor:
    """Share of the power of each image above a quarter cycle per pixel, `(B,)` float64.

    The mean of each channel counts as no power; an image of one colour has none, and NaN.

    Args:
        images: `(B, channels, s, s)`.
    """
    side = images.shape[-1]
    rows = torch.fft.fftfreq(side, dtype=torch.float64)
    length = (rows[:, None].square() + rows[None, :].square()).sqrt().to(images.device)
    centred = images.double() - images.double().mean((2, 3), keepdim=True)
    power = torch.fft.fft2(centred).abs().square().sum(1)
    total = power.sum((1, 2))
    share = power[:, length > HIGH].sum(1) / total
    # Rounding leaves a little power in an image of one colour.
    flat = centred.abs().amax((1, 2, 3)) < 1e-9
    return torch.where(flat, torch.nan, share)


def shown(images: Tensor, kind: Parameterisation) -> Tensor:
    """Pictures as they are to be looked at: without the frame that warps leave in `maco` ones.

    Args:
        images: `(B, channels, s, s)`.
        kind: how they were made.
    """
    if kind != "maco":
        return images
    edge = round(images.shape[-1] * MACO_FRAME)
    return images[:, :, edge : images.shape[-2] - edge, edge : images.shape[-1] - edge]


def blends(steps: Sequence[float], first: Tensor, second: Tensor) -> Tensor:
    """`(1 - t) u_j + t u_k` for each t, `(T,)`, of two `(T,)`: the way from one unit to another.

    In `u` (`above_mean`), since otherwise the louder unit decides.
    """
    share = first.new_tensor(list(steps))
    return (1 - share) * first + share * second
