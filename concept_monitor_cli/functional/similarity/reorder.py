"""Rank reorder: does the concept put the unit's top images into the unit's own order? (CLIP-Dissect, 3.2)

The literal computation sorts a matrix of top images by concepts twice for every unit. Here every concept
ranks all images once; for a unit, the ranks of its top images carry their positions in the low bits of one
whole number, and sorting those numbers gives the re-ordered activations without a single argsort.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional._blocks import (
    grain,
    ordered_bits,
    run_blocks,
    sort_rows_,
    spans,
    width_for,
)
from concept_monitor_cli.functional.similarity.activations import ConceptActivations, as_activations
from concept_monitor_cli.functional.topk import top_images

TOP_FRACTION = 0.05
POWER = 3.0
SCALE_POWER = 0.5
#: `mean(P[top, m])` is not taken smaller than this; the published code gives NaN for a negative mean.
MIN_MEAN = 1e-3

_LOW = 0xFFFF_FFFF


def _mean_power(difference: Tensor, power: float) -> Tensor:
    """Mean of `abs(difference) ** power` over the last axis."""
    if power == 3.0:
        total: Tensor = torch.linalg.vecdot(difference * difference, difference.abs())
        return total / difference.shape[-1]
    return difference.abs_().pow_(power).mean(-1)


def random_order_error(values: Tensor, *, power: float = POWER) -> Tensor:
    """The error that random orders give: the expectation of `mean(abs(q[perm] - q)^power)` over all orders.

    In a random order any of the `n` values stands in any place, so it is the mean of `abs(q_i - q_j)^power`
    over all pairs, `i = j` among them. The published code takes the mean of five random orders instead.

    Args:
        values: `(C, n)`, a unit's top activations.
        power: the exponent.

    Returns:
        `(C,)` of the type of `values`.
    """
    n = values.shape[1]
    if power != 3.0:
        total = torch.zeros(values.shape[0], dtype=values.dtype, device=values.device)
        for column in range(n):
            total += (values - values[:, column : column + 1]).abs_().pow_(power).mean(1)
        return total / n
    # sum_{i<j} (q_j - q_i)^3 of rising values, from running sums; away from the mean no digits are lost.
    rising = values.sort(1).values
    rising = rising - rising.mean(1, keepdim=True)
    before = torch.arange(n, dtype=values.dtype, device=values.device)
    sums = [(rising**each).cumsum(1) - rising**each for each in (1, 2, 3)]
    cubes = before * rising**3 - 3 * rising**2 * sums[0] + 3 * rising * sums[1] - sums[2]
    return (2 * cubes.sum(1) / n**2).clamp_min(0)


def _ranks(values: Tensor, run_rows: int) -> Tensor:
    """Rank of every value in its row, int32; equal values rank by their column. `values` is `(rows, n)`."""
    n = values.shape[1]
    column = torch.arange(n, dtype=torch.int64, device=values.device)
    ranks = torch.empty(values.shape, dtype=torch.int32, device=values.device)
    rising = torch.arange(n, dtype=torch.int32, device=values.device)
    for rows in spans(values.shape[0], run_rows):
        keys = sort_rows_((ordered_bits(values[rows]).long() << 32) | column)
        ranks[rows] = torch.empty_like(ranks[rows]).scatter_(1, keys & _LOW, rising.expand(keys.shape[0], -1))
    return ranks


def _key_type(bits: int) -> torch.dtype:
    """The smallest type that holds a rank and a position (2^20 images, 5 % of them: more than 31 bits)."""
    return torch.int32 if bits <= 31 else torch.int64


@torch.no_grad()
def rank_reorder_from_top(
    P: Tensor | ConceptActivations,
    top_indices: Tensor,
    top_values: Tensor,
    *,
    p: float = POWER,
    scale_p: float = SCALE_POWER,
    min_mean: float = MIN_MEAN,
) -> Tensor:
    """`rank_reorder` from the top images and activations `(n, C)` that `top_images` gives; `(C, M)`."""
    activations = as_activations(P)
    if top_indices.shape != top_values.shape or top_indices.ndim != 2 or 0 in top_indices.shape:
        shapes = f"{tuple(top_indices.shape)} and {tuple(top_values.shape)}"
        raise InputError(f"top images and activations of shapes {shapes}: need (n, C) twice")
    device, m, n_images = activations.device, activations.n_concepts, activations.n_images
    top = top_indices.to(device).T.contiguous()
    units, n = top.shape

    # The score does not change when a unit's activations are shifted or scaled: [0, 1] keeps the cubes in
    # float32.
    wide = torch.float32 if device.type == "mps" else torch.float64
    falling = top_values.to(device, wide).T
    low, high = falling.amin(1, keepdim=True), falling.amax(1, keepdim=True)
    span = high - low
    falling = (falling - low) / torch.where(span == 0, torch.ones_like(span), span)
    rising = falling.flip(1)
    baseline = random_order_error(rising, power=p)
    # All orders of equal activations are the same one: no better and no worse than a random order.
    tied = span[:, 0] == 0
    baseline = torch.where(tied, torch.ones_like(baseline), baseline).float()[:, None]
    falling, rising = falling.float().contiguous(), rising.float().contiguous()

    bits = max(1, (n - 1).bit_length())
    key_type = _key_type((n_images - 1).bit_length() + bits)
    place = torch.arange(n, dtype=key_type, device=device)
    result = torch.empty(units, m, device=device)
    width = min(m, width_for(n_images, device, item_bytes=16))
    buffer = grain(device)
    few = max(1, min(width, buffer // n))  # concepts, and units, in an inner buffer
    together = max(1, buffer // (n * few))
    first = (torch.arange(together, dtype=key_type, device=device) * n)[:, None, None]

    def compare(concepts: slice) -> None:
        values = activations.block(concepts)
        mean = functional.embedding_bag(top, values, mode="mean").clamp_min_(min_mean)
        ranks = _ranks(values.T.contiguous(), max(1, buffer // n_images))
        del values
        keys = (ranks.to(key_type) << bits).T.contiguous()  # images first: a unit's top images are whole rows
        error = torch.empty(units, keys.shape[1], device=device)
        for own in spans(units, together):
            count = own.stop - own.start
            rows = top[own].reshape(-1)
            for some in spans(keys.shape[1], few):
                packed = keys[:, some].index_select(0, rows).view(count, n, -1)
                packed = (packed.transpose(1, 2) | place).contiguous()
                order = (sort_rows_(packed) & ((1 << bits) - 1)).add_(first[:count])
                moved = falling[own].view(-1).index_select(0, order.view(-1)).view(order.shape)
                error[own, some] = _mean_power(moved.sub_(rising[own, None, :]), p)
        ratio = torch.where(tied[:, None], torch.ones_like(error), error / baseline)
        result[:, concepts] = -ratio / mean**scale_p

    run_blocks(compare, spans(m, width), device)
    return result


@torch.no_grad()
def rank_reorder(
    P: Tensor | ConceptActivations,
    Q: Tensor,
    *,
    top_fraction: float = TOP_FRACTION,
    p: float = POWER,
    scale_p: float = SCALE_POWER,
    min_mean: float = MIN_MEAN,
) -> Tensor:
    """Rank reorder: minus the error of a unit's activations when put in the concept's order.

    Over the top `n = int(N * top_fraction)` images of unit k (at least one), with `q` its activations there
    and `q'` the same values re-ordered by the ranks of `P[:, m]`:

        sim[k, m] = - mean(abs(q' - q)^p) / mean(abs(q'' - q)^p) / mean(P[top, m])^scale_p

    where `q''` is `q` in a random order, and the mean is its expectation over all orders.

    What the formula leaves open, and what is done here:

    - equal values of `P` rank by their image index, the lower image lower;
    - where `q` is constant every order is the same and the ratio is taken as 1: no better than chance;
    - `mean(P[top, m])` below `min_mean` counts as `min_mean`. The published code gives NaN for a negative
      mean. With CLIP (cosines of 0.1 to 0.4) this never happens; with an encoder whose cosines lie around 0
      it puts the concepts that the images do not show far below the others.

    Args:
        P: concept activations `(N, M)`, or `ConceptActivations` of any size.
        Q: pooled activations of the layer `(N, C)`.
        top_fraction: share of the images that counts.
        p: exponent of the error.
        scale_p: exponent of the mean concept activation.
        min_mean: see above.

    Returns:
        `(C, M)` float32, at most 0, higher is better; finite where the activations are.

    Source: CLIP-Dissect, eq. 2 and A.1; divisor and scale from the published code.

    Example:
        >>> P = torch.stack([torch.linspace(0.1, 0.4, 100), torch.linspace(0.4, 0.1, 100)], dim=1)
        >>> rank_reorder(P, torch.linspace(0, 5, 100)[:, None]).argmax(dim=1).tolist()
        [0]
    """
    activations = as_activations(P, Q.shape[0])
    indices, values = top_images(Q, max(1, int(Q.shape[0] * top_fraction)))
    return rank_reorder_from_top(
        activations,
        indices,
        values,
        p=p,
        scale_p=scale_p,
        min_mean=min_mean,
    )
