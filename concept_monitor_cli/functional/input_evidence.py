"""How far is what a batch-normalised network sees from what it was trained on?

A layer of batch normalisation keeps the mean and the variance of its input over the images of the training.
Shown other images in the same way (normalisation, channel order, size), the network's layers see inputs of
about the same mean and variance; shown in another way, they do not. The distance is the Kullback-Leibler
divergence between two Gaussians, per channel; a layer's is the mean over its channels, a network's the median
over its layers.

Two networks of the same weights, of which one is the trained one, are told apart by the layers in which they
differ: `layer_contrast`, `share_nearer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.resampling import image_counts


def gaussian_divergence(
    mean: Tensor, variance: Tensor, running_mean: Tensor, running_variance: Tensor
) -> Tensor:
    """Kullback-Leibler divergence of N(mean, variance) from N(running_mean, running_variance), in nats.

    `(ln(rv / v) + (v + (m - rm)^2) / rv - 1) / 2`, element by element.

    Args:
        mean: `m`, of any shape.
        variance: `v`, positive.
        running_mean: `rm`; the four broadcast.
        running_variance: `rv`, positive.

    Returns:
        At least 0, float64; 0 where the two are equal.

    Example:
        >>> zero, one = torch.zeros(1), torch.ones(1)
        >>> gaussian_divergence(one, one, zero, one).item()
        0.5
    """
    variance, running_variance = variance.double(), running_variance.double()
    ratio = variance / running_variance
    shift = (mean.double() - running_mean.double()).square() / running_variance
    return 0.5 * (ratio + shift - 1 - ratio.log())


def layer_divergence(
    means: Tensor,
    squares: Tensor,
    running_mean: Tensor,
    running_variance: Tensor,
    *,
    eps: float,
    counts: Tensor | None = None,
) -> Tensor:
    """A layer's divergence from its running statistics, for the images and for resamples of them.

    Args:
        means: `(N, C)`, for each image the mean of each channel of the layer's input.
        squares: `(N, C)`, the mean of its square.
        running_mean: `(C,)`.
        running_variance: `(C,)`.
        eps: added to both variances, as the layer itself does: a channel that is dead in the images and was
            dead in the training has divergence 0.
        counts: `(R, N)`, how often each image is drawn in each resample; `None` for every image once.

    Returns:
        `(R,)` float64, the mean over the channels.

    Raises:
        InputError: shapes that do not belong together.

    Example:
        >>> means, squares = torch.tensor([[1.0], [3.0]]), torch.tensor([[2.0], [10.0]])
        >>> float(layer_divergence(means, squares, torch.tensor([2.0]), torch.tensor([2.0]), eps=0.0))
        0.0
    """
    if means.ndim != 2 or means.shape != squares.shape or not len(means):
        raise InputError(f"moments {tuple(means.shape)}, {tuple(squares.shape)}: need (N, C) twice")
    if running_mean.shape != means.shape[1:] or running_variance.shape != means.shape[1:]:
        raise InputError(f"{running_mean.numel()} running means for {means.shape[1]} channels")
    if counts is None:
        counts = means.new_ones(1, len(means))
    if counts.ndim != 2 or counts.shape[1] != len(means):
        raise InputError(f"counts {tuple(counts.shape)} for {len(means)} images")
    weights = counts.double() / counts.double().sum(1, keepdim=True)
    mean = weights @ means.double()
    # Rounding may leave a constant channel a variance just below zero.
    variance = (weights @ squares.double() - mean.square()).clamp_min(0)
    return gaussian_divergence(mean, variance + eps, running_mean, running_variance.double() + eps).mean(1)


def network_divergence(layers: Sequence[Tensor]) -> Tensor:
    """A network's divergence: the median over its layers.

    Args:
        layers: for each layer `(R,)`, as `layer_divergence` gives it.

    Returns:
        `(R,)` float64. Of an even number of layers, the mean of the two in the middle.

    Raises:
        InputError: there are no layers.

    Example:
        >>> network_divergence([torch.tensor([1.0]), torch.tensor([5.0]), torch.tensor([2.0])]).item()
        2.0
    """
    if not layers:
        raise InputError("no layers with running statistics")
    return torch.quantile(torch.stack([layer.double() for layer in layers]), 0.5, dim=0)


def share_of_wins(less: Tensor, more: Tensor, *, factor: float = 1.0) -> float:
    """In how many resamples one divergence is below another by a factor.

    Args:
        less: `(R,)`.
        more: `(R,)`, of the same resamples.
        factor: at least 1; `less` wins where `less * factor < more`.

    Returns:
        A share, 0 to 1. A tie is no win.

    Raises:
        InputError: of different numbers of resamples, or of none.

    Example:
        >>> share_of_wins(torch.tensor([1.0, 2.0]), torch.tensor([1.5, 2.0]))
        0.5
    """
    if less.shape != more.shape or less.ndim != 1 or not len(less):
        raise InputError(f"resamples {tuple(less.shape)}, {tuple(more.shape)}: need the same")
    return float((less.double() * factor < more.double()).double().mean())


@dataclass(frozen=True)
class Contrast:
    """How a layer's running statistics lie between what it sees in two networks of the same weights.

    All three are squared distances, less what the choice of the photos adds to them, and relative to the
    distance of the nearer network.

    Attributes:
        excess: by how much the first network is farther from the running statistics than the other, halved.
        difference: between the two networks.
        noise: what the choice of the photos added to `difference`; it is taken off there.
    """

    excess: float
    difference: float
    noise: float

    @property
    def told(self) -> bool:
        """Whether the two networks differ in this layer by more than the choice of the photos makes them."""
        return self.difference > self.noise


def layer_contrast(
    one: tuple[Tensor, Tensor],
    other: tuple[Tensor, Tensor],
    running_mean: Tensor,
    running_variance: Tensor,
    *,
    eps: float,
) -> Contrast | None:
    """Compare what a layer sees of the same photos in two networks with what it remembers.

    Each channel has two coordinates, `(m - rm) / sqrt(rv)` and `ln(v / rv) / sqrt(2)`: half the sum of their
    squares is the divergence of `gaussian_divergence` to the second order. Per photo they are linearised at
    the mean over all photos, so that their variance says how much the choice of the photos adds to a squared
    length. Deep layers have few positions, and without taking that off the noisier network seems farther.

    Args:
        one: means and mean squares `(N, C)` per photo and channel in the first network.
        other: likewise in the other one.
        running_mean: `(C,)`.
        running_variance: `(C,)`.
        eps: added to all variances; the same for both networks.

    Returns:
        The contrast; None where the two see the same.

    Raises:
        InputError: of other shapes, or of fewer than two photos.

    Example:
        >>> near = (torch.tensor([[0.9], [1.1]]), torch.tensor([[2.0], [2.0]]))
        >>> far = (torch.tensor([[2.9], [3.1]]), torch.tensor([[10.0], [10.0]]))
        >>> found = layer_contrast(far, near, torch.tensor([1.0]), torch.tensor([1.0]), eps=0.0)
        >>> found.excess > 0
        True
    """
    shapes = {tuple(each.shape) for each in (*one, *other)}
    if len(shapes) != 1 or one[0].ndim != 2 or len(one[0]) < 2:
        raise InputError(f"moments {sorted(shapes)}: need (N, C) four times, of two photos at least")
    if running_mean.shape != one[0].shape[1:] or running_variance.shape != one[0].shape[1:]:
        raise InputError(f"{running_mean.numel()} running means for {one[0].shape[1]} channels")
    first, second = (
        _coordinates(*each, running_mean, running_variance.double() + eps, eps) for each in (one, other)
    )
    between = second - first
    lengths = [float(each.mean(0).square().mean()) for each in (first, second, between)]
    noises = [float(each.var(0).mean()) / len(each) for each in (first, second, between)]
    if lengths[2] < 1e-7:
        return None
    least = max(min(lengths[:2]), 1e-12)
    near, far, difference = (length - noise for length, noise in zip(lengths, noises, strict=True))
    return Contrast((near - far) / 2 / least, difference / least, noises[2] / least)


def _coordinates(means: Tensor, squares: Tensor, running_mean: Tensor, known: Tensor, eps: float) -> Tensor:
    """`(N, 2C)`: per photo, where the channels' means and variances lie from the running ones."""
    means, squares = means.double(), squares.double()
    mean = means.mean(0)
    variance = (squares.mean(0) - mean.square()).clamp_min(0) + eps
    each = squares - 2 * mean * means + mean.square() + eps
    spread = (variance / known).log() + each / variance - 1
    return torch.cat([(means - running_mean.double()) / known.sqrt(), spread / 2**0.5], 1)


def share_nearer(contrasts: Sequence[Contrast], *, resamples: int = 1000, seed: int = 0) -> float:
    """In how many resamples of the layers the running statistics are nearer to the other network.

    Args:
        contrasts: of the layers that tell the two networks apart.
        resamples: how many; the layers are drawn with replacement.
        seed: of the resamples.

    Returns:
        A share, 0 (always nearer to the first) to 1 (always nearer to the other).

    Raises:
        InputError: there are no layers.

    Example:
        >>> share_nearer([Contrast(1.0, 1.0, 0.0), Contrast(2.0, 3.0, 0.0)])
        1.0
    """
    if not contrasts:
        raise InputError("no layer tells the two networks apart")
    excess = torch.tensor([each.excess for each in contrasts], dtype=torch.float64)
    counts = image_counts(len(contrasts), range(resamples), seed=seed).double()
    return float((counts @ excess > 0).double().mean())


def place_between(contrasts: Sequence[Contrast]) -> float:
    """Where the running statistics lie on the way from the first network (0) to the other one (1).

    Args:
        contrasts: of the layers that tell the two networks apart.

    Returns:
        Below 0 or above 1 where they lie beyond one of the two, as the photos are not the training's.

    Raises:
        InputError: there are no layers.

    Example:
        >>> place_between([Contrast(0.5, 1.0, 0.0)])
        1.0
    """
    if not contrasts:
        raise InputError("no layer tells the two networks apart")
    return 0.5 + sum(each.excess for each in contrasts) / sum(each.difference for each in contrasts)
