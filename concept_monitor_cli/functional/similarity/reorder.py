"""Rank reorder: does the concept put the unit's top images into the unit's own order? (CLIP-Dissect, 3.2)

The literal computation sorts a matrix of top images by concepts twice for every unit. Here every concept
ranks all images once. Where it pays, compiled loops count how many of a unit's top images a concept ranks
below each of them, without sorting; else the ranks of the top images carry their positions in the low bits of
one whole number, and sorting those numbers gives the re-ordered activations without a single argsort.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.functional._blocks import (
    grain,
    on_cpu,
    ordered_bits,
    run_blocks,
    sort_rows_,
    spans,
    width_for,
    worth_compiling,
)
from concept_monitor_cli.functional.similarity.activations import ConceptActivations, as_activations
from concept_monitor_cli.functional.topk import check_images, top_images

TOP_FRACTION = 0.05
POWER = 3.0
SCALE_POWER = 0.5
#: `mean(P[top, m])` is not taken smaller than this; the published code gives NaN for a negative mean.
MIN_MEAN = 1e-3

_LOW = 0xFFFF_FFFF
# Bytes of a block's activations and ranks in the compiled loops, and the fewest and most concepts of a block.
_COMPILED_BYTES, _NARROW, _WIDE = 16 << 20, 32, 256


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


def row_ranks(values: Tensor, run_rows: int) -> Tensor:
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


@dataclass(frozen=True)
class UnitOrders:
    """The activations of some units at their top images, as their errors are computed from them.

    The score does not change when a unit's activations are shifted or scaled: [0, 1] keeps the cubes in
    float32.

    Attributes:
        falling: `(C, n)` float32, between 0 and 1, highest first.
        rising: `(C, n)`, the same, lowest first.
        baseline: `(C, 1)`, the error of random orders; 1 where `tied`.
        tied: `(C,)`, units whose activations are all equal.
    """

    falling: Tensor
    rising: Tensor
    baseline: Tensor
    tied: Tensor

    @classmethod
    def of(cls, values: Tensor, power: float = POWER) -> UnitOrders:
        """From the activations at the top images, `(n, C)`, highest first."""
        wide = torch.float32 if values.device.type == "mps" else torch.float64
        falling = values.to(wide).T
        low, high = falling.amin(1, keepdim=True), falling.amax(1, keepdim=True)
        span = high - low
        falling = (falling - low) / torch.where(span == 0, torch.ones_like(span), span)
        rising = falling.flip(1)
        baseline = random_order_error(rising, power=power)
        # All orders of equal activations are the same one: no better and no worse than a random order.
        tied = span[:, 0] == 0
        baseline = torch.where(tied, torch.ones_like(baseline), baseline).float()[:, None]
        return cls(falling.float().contiguous(), rising.float().contiguous(), baseline, tied)

    def scores(self, error: Tensor, mean: Tensor, scale_p: float = SCALE_POWER) -> Tensor:
        """From the errors and the mean concept activations over the top images, `(C, m)` each."""
        ratio = torch.where(self.tied[:, None], torch.ones_like(error), error / self.baseline)
        return -ratio / mean**scale_p


@dataclass(frozen=True)
class Reordered:
    """Units that are looked at through equally many top images.

    Attributes:
        units: `(u,)`, which columns.
        images: `(n, u)`, their top images, one of each group, best first.
        values: `(n, u)`, their activations.
    """

    units: Tensor
    images: Tensor
    values: Tensor


@dataclass(frozen=True)
class _Part:
    """The same for the computation: `rows` of the result, `top` images `(u, n)`, activations in order."""

    rows: Tensor
    top: Tensor
    orders: UnitOrders


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
    if top_indices.shape != top_values.shape or top_indices.ndim != 2 or 0 in top_indices.shape:
        shapes = f"{tuple(top_indices.shape)} and {tuple(top_values.shape)}"
        raise InputError(f"top images and activations of shapes {shapes}: need (n, C) twice")
    every = Reordered(torch.arange(top_indices.shape[1]), top_indices, top_values)
    return rank_reorder_of(P, [every], p=p, scale_p=scale_p, min_mean=min_mean)


@torch.no_grad()
def rank_reorder_of(
    P: Tensor | ConceptActivations,
    parts: Sequence[Reordered],
    *,
    p: float = POWER,
    scale_p: float = SCALE_POWER,
    min_mean: float = MIN_MEAN,
) -> Tensor:
    """`rank_reorder` of units that are looked at through different numbers of top images, `(C, M)`.

    Every concept ranks the images once for all of them. The parts have all `C` units between them.

    Raises:
        InputError: a top image that is none of `P`.
    """
    activations = as_activations(P)
    device, m = activations.device, activations.n_concepts
    if on_cpu(device):  # to look costs an accelerator a wait, and there every operation looks itself
        check_images([part.images for part in parts], activations.n_images)
    given = [
        _Part(
            part.units.to(device),
            part.images.to(device).T.contiguous(),
            UnitOrders.of(part.values.to(device), p),
        )
        for part in parts
    ]
    result = torch.empty(sum(len(part.top) for part in given), m, device=device)
    compiled = p == 3.0 and worth_compiling(sum(part.top.numel() for part in given) * m, device)
    # The loops count the ranks that are taken; an image that stands twice in a list takes two.
    if compiled and all(bool((part.top.sort(1).values.diff(dim=1) > 0).all()) for part in given):
        _compare_compiled(activations, given, scale_p, min_mean, result)
    else:
        _compare(activations, given, p, scale_p, min_mean, result)
    return result


def _compare(
    activations: ConceptActivations,
    parts: Sequence[_Part],
    p: float,
    scale_p: float,
    min_mean: float,
    result: Tensor,
) -> None:
    """Scores `(C, M)` in operations of torch."""
    device, m, n_images = activations.device, activations.n_concepts, activations.n_images

    def compare(concepts: slice) -> None:
        values = activations.block(concepts)
        ranks = row_ranks(values.T.contiguous(), max(1, grain(device) // n_images))
        for part in parts:
            error = _sorted_errors(ranks, part, p, width)
            mean = top_means(part.top, values, min_mean)
            result[part.rows, concepts] = part.orders.scores(error, mean, scale_p)

    width = min(m, width_for(n_images, device, item_bytes=16))
    run_blocks(compare, spans(m, width), device)


def _sorted_errors(ranks: Tensor, part: _Part, p: float, width: int) -> Tensor:
    """Errors `(u, m)` from the ranks of all images `(m, N)`, by sorting those of the top images."""
    device, top, n = ranks.device, part.top, part.top.shape[1]
    bits = max(1, (n - 1).bit_length())
    key_type = _key_type((ranks.shape[1] - 1).bit_length() + bits)
    place = torch.arange(n, dtype=key_type, device=device)
    buffer = grain(device)
    few = max(1, min(width, buffer // n))  # concepts, and units, in an inner buffer
    together = max(1, buffer // (n * few))
    first = (torch.arange(together, dtype=key_type, device=device) * n)[:, None, None]
    keys = (ranks.to(key_type) << bits).T.contiguous()  # images first: a unit's top images are whole rows
    error = torch.empty(len(top), keys.shape[1], device=device)
    for own in spans(len(top), together):
        count = own.stop - own.start
        rows = top[own].reshape(-1)
        for some in spans(keys.shape[1], few):
            packed = keys[:, some].index_select(0, rows).view(count, n, -1)
            packed = (packed.transpose(1, 2) | place).contiguous()
            order = (sort_rows_(packed) & ((1 << bits) - 1)).add_(first[:count])
            moved = part.orders.falling[own].view(-1).index_select(0, order.view(-1)).view(order.shape)
            error[own, some] = _mean_power(moved.sub_(part.orders.rising[own, None, :]), p)
    return error


def _compare_compiled(
    activations: ConceptActivations, parts: Sequence[_Part], scale_p: float, min_mean: float, result: Tensor
) -> None:
    """The same in compiled loops, for `p = 3`, a processor and lists without repeated images.

    Its errors are added up in float64 and the others in float32, so that the scores differ by about `1e-6` of
    their size.
    """
    from concept_monitor_cli.functional._rank_kernels import order_errors

    images = [narrow(part.top, activations.n_images) for part in parts]

    def compare(concepts: slice) -> None:
        values, ranks = block_and_ranks(activations, concepts)
        for part, top in zip(parts, images, strict=True):
            error = torch.empty(len(top), len(ranks))
            order_errors(ranks, top, part.orders.falling.numpy(), part.orders.rising.numpy(), error.numpy())
            mean = top_means(part.top, values, min_mean)
            result[part.rows, concepts] = part.orders.scores(error, mean, scale_p)

    run_blocks(compare, spans(activations.n_concepts, compiled_width(activations)), activations.device)


def compiled_width(activations: ConceptActivations) -> int:
    """How many concepts a block of the compiled loops takes, whatever the number of threads."""
    fitting = _COMPILED_BYTES // (8 * activations.n_images)
    return min(activations.n_concepts, max(_NARROW, min(_WIDE, fitting)))


def narrow(whole: Tensor, below: int) -> NDArray[np.uint16] | NDArray[np.int32]:
    """Whole numbers from 0 to less than `below`, in 16 bits where they fit, else in 32."""
    numbers = whole.numpy()
    return numbers.astype(np.uint16, "C") if below <= 1 << 16 else numbers.astype(np.int32, "C")


def block_and_ranks(
    activations: ConceptActivations, concepts: slice
) -> tuple[Tensor, NDArray[np.uint16] | NDArray[np.int32]]:
    """`P` of some concepts, `(N, m)`, and the rank of every image by each of them, `(m, N)`."""
    values = activations.block(concepts)
    n_images = len(values)
    ranks = row_ranks(values.T.contiguous(), max(1, grain(values.device) // n_images))
    return values, narrow(ranks, n_images)


def top_means(top: Tensor, values: Tensor, min_mean: float) -> Tensor:
    """Mean of `P[top, m]`, at least `min_mean`; `(C, n)`, `(N, m)` -> `(C, m)`."""
    return functional.embedding_bag(top, values, mode="mean").clamp_min_(min_mean)


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
