"""Does the output hang on the places that a map points at? Deletion and insertion curves.

Petsiuk et al. 2018, "RISE". Pixels are taken out of the image, or put into a blurred one, in the order of the
map. Maps that know nothing of the network (random, the middle, edges) are judged in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

#: Images of a curve, the two ends among them.
STEPS = 32
#: Random orders that stand for chance, and draws of images for the interval of the gain.
RANDOM_ORDERS, BOOTSTRAP = 3, 1000
# Of the blur: standard deviation in pixels of an image of 224, and where its kernel is cut off.
_BLUR, _BLUR_SIDE, _CUT = 5.0, 224, 4.0


def pixel_order(attribution: Tensor, numbers: torch.Generator) -> Tensor:
    """The pixels from the largest value of a map to the smallest, `(h*w,)` int64, on the host.

    Ties are in random order.

    Args:
        attribution: `(h, w)`.
        numbers: random numbers, of the CPU.
    """
    values = attribution.flatten().cpu()
    shuffled = torch.randperm(len(values), generator=numbers)
    return shuffled[torch.argsort(values[shuffled], descending=True, stable=True)]


def replaced(image: Tensor, by: Tensor, order: Tensor, steps: int = STEPS) -> Tensor:
    """The image with ever more pixels of another one, `(steps, channels, h, w)`: from none to all.

    Args:
        image, by: `(channels, h, w)`.
        order: of `pixel_order`.
        steps: how many images.
    """
    count = len(order)
    place = torch.empty(count, dtype=torch.int64)
    place[order] = torch.arange(count)
    sizes = torch.linspace(0, count, steps).round().long()
    taken = (place[None, :] < sizes[:, None]).view(steps, 1, *image.shape[1:]).to(image.device)
    return torch.where(taken, by[None], image[None])


def area(curve: Tensor) -> float:
    """The mean height of a curve between its ends, by trapezoids."""
    return float(torch.trapezoid(curve.double(), dx=1 / (len(curve) - 1)))


def blurred(image: Tensor) -> Tensor:
    """A Gaussian blur of 5 pixels of 224, the image mirrored at its edges, `(channels, h, w)`."""
    side = image.shape[-1]
    spread = _BLUR * side / _BLUR_SIDE
    reach = min(max(1, math.ceil(_CUT * spread)), side - 1)
    x = torch.arange(-reach, reach + 1, dtype=image.dtype, device=image.device)
    kernel = torch.exp(-x.square() / (2 * spread**2))
    kernel = kernel / kernel.sum()
    padded = F.pad(image[:, None], (reach, reach, reach, reach), mode="reflect")
    rows = F.conv2d(padded, kernel.view(1, 1, 1, -1))
    return F.conv2d(rows, kernel.view(1, 1, -1, 1))[:, 0]


def centre_map(side: int) -> Tensor:
    """A Gaussian in the middle, of a quarter of the side, `(s, s)`."""
    x = (torch.arange(side, dtype=torch.float32) - (side - 1) / 2) / (side / 4)
    return torch.exp(-(x[:, None].square() + x[None, :].square()) / 2)


def edge_map(image: Tensor) -> Tensor:
    """Strength of the edges of an image by Sobel's operator, `(s, s)`, of `(channels, s, s)`."""
    grey = F.pad(image.mean(0)[None, None], (1, 1, 1, 1), mode="replicate")
    across = grey.new_tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])[None, None]
    return (F.conv2d(grey, across).square() + F.conv2d(grey, across.mT).square()).sqrt()[0, 0]


def areas(
    score: Callable[[Tensor], Tensor], image: Tensor, baseline: Tensor, order: Tensor
) -> tuple[Tensor, Tensor]:
    """Areas under the deletion and the insertion curve for each number that is scored.

    Args:
        score: images `(b, channels, s, s)` -> `(b, n)`.
        image: `(channels, s, s)`.
        baseline: the colour that stands for nothing, `(channels, 1, 1)`.
        order: of the pixels.

    Returns:
        Deletion (low is good) and insertion (high is good), `(n,)` float64 each, on the host.
    """
    with torch.no_grad():
        gone = score(replaced(image, baseline.expand_as(image), order)).cpu()
        come = score(replaced(blurred(image), image, order)).cpu()
    return tuple(  # type: ignore[return-value]
        torch.tensor([area(column) for column in curves.T], dtype=torch.float64) for curves in (gone, come)
    )


def gain(better: Tensor, numbers: torch.Generator) -> tuple[float, float, float]:
    """The mean of some differences, one for each image, and its 95 % interval by drawing images again.

    Args:
        better: `(N,)`, how much better than chance.
        numbers: random numbers, of the CPU.
    """
    better = better.cpu()
    drawn = torch.randint(len(better), (BOOTSTRAP, len(better)), generator=numbers)
    means = better.double()[drawn].mean(1)
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return float(better.double().mean()), low, high
