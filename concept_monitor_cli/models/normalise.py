"""From pixels to what a network is shown: normalised, and in the order of colours that it was trained on.

Everything that feeds images to a network under study goes through one of the two classes here. Images
themselves, and pictures that are made of noise, stay red first.
"""

from __future__ import annotations

import torch
from torch import Tensor

from concept_monitor_cli.models.geometry import Channels, Preprocessing

#: ITU-R 601, as Pillow makes grey images of coloured ones.
LUMA = (0.299, 0.587, 0.114)


class Normaliser:
    """uint8 pixels to normalised floats (B, 3, S, S), or grey (B, 1, S, S), in channels-last memory.

    Writes into one buffer again and again: fresh memory would cost more in page faults than the arithmetic
    does. The arithmetic runs over whole rows of pixels, with mean and std repeated, so that it vectorises:
    together 20 times as fast as the plain expression.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        batch: int,
        device: torch.device,
        dtype: torch.dtype,
        channels: int = 3,
    ) -> None:
        size = preprocessing.geometry.size
        mean = torch.tensor(preprocessing.mean, dtype=torch.float64)
        std = torch.tensor(preprocessing.std, dtype=torch.float64)
        self._scale = (1 / (255 * std)).repeat(size).to(device, torch.float32)
        self._shift = (-mean / std).repeat(size).to(device, torch.float32)
        self._buffer = torch.empty(batch, size, size * 3, device=device)
        self._dtype = dtype
        # Mean and std of a grey network are the same for all three, so grey can be made after them.
        self._luma = torch.tensor(LUMA, device=device).view(1, 3, 1, 1) if channels == 1 else None
        self._order: Channels = preprocessing.channels

    def __call__(self, pixels: Tensor) -> Tensor:
        """The images of a batch, uint8 `(B, S, S, 3)` on the device; the next call writes over them."""
        size = pixels.shape[1]
        rows = self._buffer[: len(pixels)]
        rows.copy_(pixels.view(len(pixels), size, size * 3)).mul_(self._scale).add_(self._shift)
        images = rows.view(len(pixels), size, size, 3).permute(0, 3, 1, 2)
        if self._luma is not None:
            images = (images * self._luma).sum(1, keepdim=True)
        return in_order(images, self._order).to(self._dtype)


class ImageNormaliser:
    """Images in [0, 1], red first, to what a network is shown, inside the autograd graph.

    Args:
        preprocessing: mean, standard deviation, order of colours.
        channels: of the network's images: 3, or 1 for grey ones (see `grey_images`).
        device: where the images are.

    Attributes:
        mean: `(channels, 1, 1)` float32, the colour that stands for nothing: red first, in [0, 1].
    """

    def __init__(self, preprocessing: Preprocessing, channels: int, device: torch.device | str) -> None:
        self.mean, self._std = (
            torch.tensor(values[:channels], dtype=torch.float32, device=device)[:, None, None]
            for values in (preprocessing.mean, preprocessing.std)
        )
        self._order: Channels = preprocessing.channels

    def __call__(self, images: Tensor) -> Tensor:
        """`(..., channels, s, s)` in [0, 1] -> the same shape, as the network wants it."""
        return in_order((images - self.mean) / self._std, self._order)


def in_order(images: Tensor, order: Channels) -> Tensor:
    """Images `(..., channels, s, s)` that are red first, in an order of colours."""
    return images.flip(-3) if order == "bgr" else images


def grey_images(images: Tensor) -> Tensor:
    """Grey images `(..., 1, s, s)` of coloured ones `(..., 3, s, s)`, red first."""
    return (images * torch.tensor(LUMA, device=images.device)[:, None, None]).sum(-3, keepdim=True)
