"""What would the scores be, had other images been drawn? The bootstrap over probing images.

The probing set is a sample. Drawing `N` of its `N` images again, with replacement, many times, shows how much
of what a detector says hangs on the sample: here for the question whether one concept beats another.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional.groups import ImageGroups

#: Resamples. A share of 0.98 is known to about 0.014.
RESAMPLES = 100


def reach(k: int, deviations: float = 10.0) -> int:
    """So many top images of a unit fill `k` ranks of a resample.

    Drawn with replacement, `n` images take `n` ranks with a standard deviation of about `sqrt(n)`.

    Args:
        k: ranks.
        deviations: how sure this is to be; at 10 no resample is ever short, at 4 one of some ten thousand.
    """
    return k + math.ceil(deviations * math.sqrt(k))


def image_counts(images: int | ImageGroups, resamples: Iterable[int], *, seed: int = 0) -> Tensor:
    """How often each image is drawn, in some of an endless row of resamples.

    Args:
        images: `N`, the size of the set and of every resample; or the groups of the `N` images: as many
            groups are drawn as there are, each with all its images.
        resamples: which ones, by number; a resample does not depend on which others are asked for.
        seed: of them all.

    Returns:
        `(R, N)` int64; every row with sum `N` where all groups are of one size.

    Example:
        >>> image_counts(5, range(2)).sum(1).tolist()
        [5, 5]
        >>> image_counts(ImageGroups.read([0, 0, 1, 1]), [0]).unfold(1, 2, 2).diff().abs().sum().item()
        0
    """
    if isinstance(images, int):
        if images < 1:
            raise InputError("no images to resample")
        images = ImageGroups.single(images)
    rows = []
    for number in resamples:
        drawn = np.random.default_rng([seed, number]).integers(0, images.n_groups, images.n_groups)
        rows.append(np.bincount(drawn, minlength=images.n_groups)[images.of])
    return torch.from_numpy(np.stack(rows).astype(np.int64))


@torch.no_grad()
def resampled_top_images(order: Tensor, counts: Tensor, k: int) -> Tensor:
    """The `k` images of a resample that excite each unit most, for several resamples.

    An image that was drawn twice takes two ranks in a row, one that was not drawn takes none.

    Args:
        order: `(L, C)`, the `L` images that excite each unit most in the whole set, as `top_images` gives
            them; long enough to fill `k` ranks in every resample.
        counts: `(R, N)`, how often each image was drawn.
        k: ranks, at most as many as images were drawn.

    Returns:
        `(k, R, C)` int64, image numbers of the whole set.

    Raises:
        InputError: `order` is too short for one of the resamples.

    Example:
        >>> order = torch.tensor([[3], [0], [2]])
        >>> resampled_top_images(order, torch.tensor([[1, 0, 1, 2]]), 3)[:, 0, 0].tolist()
        [3, 3, 0]
    """
    if order.ndim != 2 or counts.ndim != 2 or k < 1:
        raise InputError(f"order {tuple(order.shape)}, counts {tuple(counts.shape)}: need (L, C), (R, N)")
    lists = order.T.contiguous()
    # (R, C, L): how many ranks are taken up to each image
    filled = counts.int()[:, lists].cumsum(2, dtype=torch.int32).clamp_(max=k)
    if bool((filled[..., -1] < k).any()):
        raise InputError(f"the first {order.shape[0]} images do not fill {k} ranks of a resample")
    # The image of rank r comes after all those up to which no more than r ranks are taken.
    shape = (*filled.shape[:2], k + 1)
    rows = torch.arange(shape[0] * shape[1], device=order.device).view(*shape[:2], 1)
    taken = torch.bincount((filled + rows * (k + 1)).flatten(), minlength=math.prod(shape)).view(shape)
    place = taken[..., :k].cumsum(2)
    return lists.expand(len(counts), -1, -1).gather(2, place).permute(2, 0, 1)
