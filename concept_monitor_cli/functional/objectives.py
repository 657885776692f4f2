"""What a picture can climb besides a unit: a whole layer, what a layer says of an image, variety.

The objectives of Olah, Mordvintsev, Schubert 2017, "Feature Visualization", Distill, as lucid has them in
`optvis/objectives.py`. Maps `A` are `(B, C, h, w)`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# The least that a cosine counts in a caricature (lucid `dot_compare`).
_LEAST = 0.1


def layer_energy(maps: Tensor) -> Tensor:
    """The mean of `A^2` over channels and positions, `(B,)`: how loud a whole layer is (DeepDream).

    Args:
        maps: `(B, C, h, w)`.
    """
    return maps.square().mean((1, 2, 3))


def resemblance(maps: Tensor, of_images: Tensor) -> Tensor:
    """The cosine of what a layer says of pictures and of images, over all its values, `(B,)`.

    Args:
        maps: `(B, C, h, w)`, of the pictures.
        of_images: `(B, C, h, w)`, of an image for each.
    """
    return F.cosine_similarity(maps.flatten(1), of_images.flatten(1), dim=1)


def caricature(maps: Tensor, of_images: Tensor) -> Tensor:
    """`(A(x) . A(img)) max(.1, cos(A(x), A(img)))` over the whole layer, `(B,)`.

    The picture that says what the image says to the layer, only louder.

    Args:
        maps: `(B, C, h, w)`, of the pictures.
        of_images: `(B, C, h, w)`, of an image for each.
    """
    alike = resemblance(maps, of_images).clamp_min(_LEAST)
    return (maps * of_images).flatten(1).sum(1) * alike


def gram_cosines(maps: Tensor) -> Tensor:
    """How alike pictures of one group are in style: the cosines of their Gram matrices.

    `gram_i = F_i F_i'`, `C x C`, of the maps as `F`, `C x (h w)`. Where the channels vary together says what
    textures there are, but not where.

    Args:
        maps: `(G, n, C, h, w)`: n pictures of each of G groups.

    Returns:
        `(G, n, n)`, in the graph.
    """
    flat = maps.flatten(3)
    # Scaled first: sums of fourth powers of loud layers would leave the range of float32.
    flat = flat / flat.detach().norm(dim=(2, 3), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
    grams = F.normalize((flat @ flat.transpose(2, 3)).flatten(2), dim=2)
    return grams @ grams.transpose(1, 2)


def diverse(u: Tensor, cosines: Tensor, weight: float = 1.0) -> Tensor:
    """What each of n pictures of a unit climbs: `u_i - weight * sum_{j != i} cosines_ij / n`.

    Of a group the sum is `sum_i u_i - weight * sum_{i != j} cosines_ij / n`.

    Args:
        u: `(G, n)`, how far above its photos each picture excites the unit.
        cosines: `(G, n, n)`, of `gram_cosines`.
        weight: of the second term.

    Returns:
        `(G, n)`.
    """
    count = u.shape[1]
    itself = torch.eye(count, dtype=torch.bool, device=u.device)
    return u - weight * cosines.masked_fill(itself, 0).sum(2) / count


def apart(vectors: Tensor) -> Tensor:
    """How far each vector is from the others, the mean of `1 - cos`, `(n,)` float64; NaN for a single one.

    Args:
        vectors: `(n, D)`.
    """
    rows = F.normalize(vectors.double(), dim=1)
    count = len(rows)
    if count < 2:
        return torch.full((count,), torch.nan, dtype=torch.float64)
    distances = (1 - rows @ rows.T).fill_diagonal_(0)
    return distances.sum(1) / (count - 1)
