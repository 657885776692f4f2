"""How far is what a batch-normalised network sees from what it was trained on?

A layer of batch normalisation keeps the mean and the variance of its input over the images of the training.
Shown other images in the same way (normalisation, channel order, size), the network's layers see inputs of
about the same mean and variance; shown in another way, they do not. The distance is the Kullback-Leibler
divergence between two Gaussians, per channel; a layer's is the mean over its channels, a network's the median
over its layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from concept_monitor_cli.errors import InputError


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
