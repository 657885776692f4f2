"""Where in an image does a network's output come from? Maps of one number per place, raw and signed.

`A`, `(B, C, h, w)`, is what a layer put out, `G = d y_c / d A` the gradient of the logit (never of the
probability). Maps by layers are not cut at 0 and not scaled: that is for whoever shows them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from concept_monitor_cli.errors import InputError

LayerMethod = Literal["grad-cam", "grad-cam++", "hires-cam", "layer-cam", "xgrad-cam"]
PixelMethod = Literal["gradient", "gradient-x-input", "smooth", "integrated", "guided", "guided-grad-cam"]

#: Midpoints of `integrated`, noisy copies of `smooth`, and their noise as a share of the image's range
#: (Smilkov et al. 2017).
PATH_STEPS, COPIES, NOISE = 32, 25, 0.15


def grad_cam(A: Tensor, G: Tensor) -> Tensor:
    """`sum_k mean(G_k) A_k`, `(B, h, w)`: Selvaraju et al. 2017, before the ReLU."""
    return (G.mean((2, 3), keepdim=True) * A).sum(1)


def grad_cam_plus_plus(A: Tensor, G: Tensor) -> Tensor:
    """Weights `sum_ij ReLU(G) / (2 + G sum A_k)` where G is not 0: Chattopadhay et al. 2018.

    `G^2` is divided out, so that no epsilon stands against it. It takes `exp(y)` for the output and so
    depends on the scale of the logits.

    Raises:
        InputError: activations below 0, for which the weights mean nothing.
    """
    if bool((A < 0).any()):
        raise InputError(
            "grad-cam++ is for activations of at least 0, and this layer has others",
            where="--method grad-cam++",
            hint="choose a layer behind its ReLU, or grad-cam",
        )
    # Where G is not above 0 the ReLU makes the weight 0.
    positive = G.clamp_min(0)
    share = positive / (2 + positive * A.sum((2, 3), keepdim=True))
    return (share.sum((2, 3), keepdim=True) * A).sum(1)


def hires_cam(A: Tensor, G: Tensor) -> Tensor:
    """`sum_k G A`, `(B, h, w)`: Draelos and Carin 2020."""
    return (G * A).sum(1)


def layer_cam(A: Tensor, G: Tensor) -> Tensor:
    """`sum_k ReLU(G) A`, `(B, h, w)`: Jiang et al. 2021."""
    return (G.clamp_min(0) * A).sum(1)


def xgrad_cam(A: Tensor, G: Tensor) -> Tensor:
    """Weights `sum G A / sum A`, `(B, h, w)`: Fu et al. 2020; 0 for units whose activations add up to 0."""
    total = A.sum((2, 3), keepdim=True)
    weight = (G * A).sum((2, 3), keepdim=True) / torch.where(total == 0, torch.inf, total)
    return (weight * A).sum(1)


LAYER_METHODS: dict[LayerMethod, Callable[[Tensor, Tensor], Tensor]] = {
    "grad-cam": grad_cam,
    "grad-cam++": grad_cam_plus_plus,
    "hires-cam": hires_cam,
    "layer-cam": layer_cam,
    "xgrad-cam": xgrad_cam,
}


def enlarged(maps: Tensor, height: int, width: int) -> Tensor:
    """Maps `(B, h, w)` at another size, bilinearly."""
    return F.interpolate(maps[:, None], (height, width), mode="bilinear", align_corners=False)[:, 0]


def image_gradient(score: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """`d score / d x` of every image, `(B, channels, s, s)`.

    Args:
        score: images -> one number each, `(B,)`, in the graph.
        images: `(B, channels, s, s)`.
    """
    with torch.inference_mode(mode=False), torch.enable_grad():
        leaf = images.detach().clone().requires_grad_()
        found: Tensor = torch.autograd.grad(score(leaf).sum(), leaf)[0]
    return found


def gradient_times_input(score: Callable[[Tensor], Tensor], image: Tensor, baseline: Tensor) -> Tensor:
    """`G (x - baseline)`, summed over channels, `(s, s)`.

    Args:
        score: as for `image_gradient`.
        image: `(channels, s, s)`.
        baseline: the colour that counts as nothing, `(channels, 1, 1)`.
    """
    return (image_gradient(score, image[None])[0] * (image - baseline)).sum(0)


def smooth_gradient(
    score: Callable[[Tensor], Tensor], image: Tensor, numbers: torch.Generator, copies: int = COPIES
) -> Tensor:
    """The mean gradient over noisy copies of an image, summed over channels, `(s, s)`.

    Args:
        score: as for `image_gradient`.
        image: `(channels, s, s)`.
        numbers: random numbers, of the CPU.
        copies: how many.
    """
    spread = NOISE * (image.max() - image.min())
    noise = torch.randn((copies, *image.shape), generator=numbers, dtype=image.dtype).to(image.device)
    return image_gradient(score, image + spread * noise).mean(0).sum(0)


def integrated_gradient(
    score: Callable[[Tensor], Tensor], image: Tensor, baseline: Tensor, steps: int = PATH_STEPS
) -> tuple[Tensor, float]:
    """Gradients along the straight way from one colour to the image: Sundararajan et al. 2017.

    Args:
        score: as for `image_gradient`.
        image: `(channels, s, s)`.
        baseline: `(channels, 1, 1)`.
        steps: midpoints of the way.

    Returns:
        The map, `(s, s)`; and how far its sum is from `y(image) - y(baseline)`, as a share of that: 0 where
        the way is fine enough, NaN where nothing changes.
    """
    share = (torch.arange(steps, dtype=image.dtype, device=image.device) + 0.5) / steps
    start = baseline.expand_as(image)
    way = start + share[:, None, None, None] * (image - start)
    found = (image_gradient(score, way).mean(0) * (image - start)).sum(0)
    with torch.no_grad():
        ends = score(torch.stack([image, start]))
    change = float(ends[0] - ends[1])
    error = abs(float(found.sum()) - change) / abs(change) if change else float("nan")
    return found, error


def peak(attribution: Tensor) -> tuple[float, float]:
    """Where a map is largest, `(x, y)` as shares of width and height; the middle of places that tie.

    NaN for a constant map, which has no largest place.
    """
    if bool((attribution == attribution.flatten()[0]).all()):
        return float("nan"), float("nan")
    places = (attribution == attribution.max()).nonzero().double().mean(0)
    height, width = attribution.shape
    return (float(places[1]) + 0.5) / width, (float(places[0]) + 0.5) / height


def map_cosine(first: Tensor, second: Tensor) -> float:
    """The cosine of two maps as vectors; NaN where one is 0 everywhere."""
    a, b = first.flatten().double(), second.flatten().double()
    length = a.norm() * b.norm()
    return float(a @ b / length) if float(length) else float("nan")
