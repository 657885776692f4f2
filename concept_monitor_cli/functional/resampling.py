"""What would the scores be, had other images been drawn? The bootstrap over probing images.

The probing set is a sample. Drawing `N` of its `N` images again, with replacement, many times, shows how much
of what a detector says hangs on the sample: here for the question whether one concept beats another.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from concept_monitor_cli.errors import InputError

#: Resamples. A share of 0.98 is known to about 0.01.
RESAMPLES = 200


def image_counts(n_images: int, resamples: int = RESAMPLES, *, seed: int = 0) -> Iterator[Tensor]:
    """How often each image is drawn, resample by resample.

    Args:
        n_images: `N`, the size of the set and of every resample.
        resamples: how many.
        seed: the first resamples do not depend on how many are drawn.

    Yields:
        `(N,)` int64, with sum `N`.

    Example:
        >>> [int(counts.sum()) for counts in image_counts(5, 2)]
        [5, 5]
    """
    if n_images < 1 or resamples < 1:
        raise InputError(f"{resamples} resamples of {n_images} images: each must be at least 1")
    for number in range(resamples):
        generator = np.random.default_rng([seed, number])
        drawn = generator.integers(0, n_images, n_images)
        yield torch.from_numpy(np.bincount(drawn, minlength=n_images).astype(np.int64))


@torch.no_grad()
def resampled_top_images(order: Tensor, counts: Tensor, k: int) -> Tensor:
    """The `k` images of a resample that excite each unit most.

    An image that was drawn twice takes two ranks in a row, one that was not drawn takes none.

    Args:
        order: `(L, C)`, the `L` images that excite each unit most in the whole set, as `top_images` gives
            them; long enough to fill `k` ranks in this resample.
        counts: `(N,)`, how often each image was drawn.
        k: ranks; the size of the resample where that is less.

    Returns:
        `(k, C)` int64, image numbers of the whole set.

    Raises:
        InputError: `order` is too short for this resample.

    Example:
        >>> order = torch.tensor([[3], [0], [2]])
        >>> resampled_top_images(order, torch.tensor([1, 0, 1, 2]), 3).T.tolist()
        [[3, 3, 0]]
    """
    if order.ndim != 2 or counts.ndim != 1 or k < 1:
        raise InputError(f"order {tuple(order.shape)} and counts {tuple(counts.shape)}: need (L, C) and (N,)")
    k = min(k, int(counts.sum()))
    filled = counts[order].cumsum(0)
    if bool((filled[-1] < k).any()):
        raise InputError(f"the first {order.shape[0]} images do not fill {k} ranks of this resample")
    ranks = torch.arange(k, device=order.device).expand(order.shape[1], k).contiguous()
    # The first image at which more than r ranks are filled has rank r.
    place = torch.searchsorted(filled.T.contiguous(), ranks, right=True)
    return order.gather(0, place.T)
