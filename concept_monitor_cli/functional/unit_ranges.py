"""Ranges of a unit's activation: exact k-means of its values, and where each range is.

A unit may say one thing where it is highly active and another where it is little active. So its values are
divided into a few ranges, and each range has a mask, as the highest values have in Network Dissection.

The published division is that of seeded k-means, and of each cluster only what lies strictly between its
smallest and its largest value: what interpolation puts between two clusters belongs to none. Here the
division is the best one (in one dimension dynamic programming finds it), and ranges are half-open intervals
whose ends meet in the middle between two means: every value is in exactly one.

Source: La Rosa, Gilpin and Capobianco, "Towards a fuller understanding of neurons with clustered
compositional explanations", NeurIPS 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from concept_monitor_cli.functional.dissection import IntArray, UnitMasks
from concept_monitor_cli.functional.dissection.masks import edge_dtype, interpolated
from concept_monitor_cli.functional.dissection.thresholds import comparable

#: Ranges of a unit: the publication's.
RANGES = 5
#: Values that the division is made of: of more distinct ones, the bins of a histogram that many.
BINS = 1024

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Cut:
    """How the values of one unit are divided into ranges.

    Attributes:
        low: smallest value in a range.
        high: largest value.
        rectified: whether the unit is never below 0 and at 0 somewhere: 0 is in no range then.
        edges: `(K + 1,)` float32: range `r` holds the values from `edges[r]` to before `edges[r + 1]`; the
            first is -inf (0 for a rectified unit, which itself is left out) and the last +inf.
        means: `(K,)` of the values of each range.
        counts: `(K,)` values in each range.
        mean: of all values, those in no range among them.
        spread: standard deviation of all values.
    """

    low: float
    high: float
    rectified: bool
    edges: NDArray[np.float32]
    means: Floats
    counts: IntArray
    mean: float
    spread: float

    @property
    def weights(self) -> Floats:
        """How far the mean of each range is from that of all values, in standard deviations: `(K,)`."""
        if self.spread == 0:
            return np.zeros(len(self.means))
        return (self.means - self.mean) / self.spread


def best_clusters(values: Floats, counts: IntArray, spreads: Floats, k: int) -> IntArray:
    """The division of weighted points on a line into at most `k` runs with the least sum of squares.

    Dynamic programming over the last run's start: with `c(i, j)` the squared distances of the points `i` to
    `j` from their mean, `D[m, j] = min_i D[m - 1, i - 1] + c(i, j)`.

    Args:
        values: `(n,)` means of the points, ascending.
        counts: `(n,)` values in each.
        spreads: `(n,)` sums of squares of each about its mean: 0 where a point is one value.
        k: runs.

    Returns:
        the first point of each run, `(min(k, n),)`; the first is 0. Of equal divisions that with the lowest
        starts.
    """
    n = len(values)
    k = min(k, n)
    weight = counts.astype(np.float64)
    centred = values - np.average(values, weights=weight)
    total, first, second = (
        np.concatenate([[0.0], np.cumsum(each)])
        for each in (weight, weight * centred, weight * centred**2 + spreads)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        # cost[i, j]: of the run from i to before j.
        inside = (first[None, :] - first[:, None]) ** 2 / (total[None, :] - total[:, None])
        cost = np.maximum((second[None, :] - second[:, None]) - inside, 0)
    cost[np.tri(n + 1, dtype=bool)] = np.inf
    best = cost[0]
    starts = np.zeros((k, n + 1), dtype=np.int64)
    for run in range(1, k):
        sums = best[:, None] + cost
        starts[run] = sums.argmin(axis=0)
        best = sums[starts[run], np.arange(n + 1)]
    found = np.zeros(k, dtype=np.int64)
    stop = n
    for run in range(k - 1, -1, -1):
        found[run] = starts[run, stop]
        stop = found[run]
    return found


def cut_ranges(values: NDArray[np.float32], k: int = RANGES, bins: int = BINS) -> Cut | None:
    """Divide a unit's values into ranges: exact k-means.

    Of up to `bins` distinct values the division is exact; of more, exact among divisions at the edges of as
    many bins of equal width, with what each bin adds to the sum of squares counted exactly.

    Args:
        values: of all positions on all images, finite.
        k: ranges.
        bins: see above.

    Returns:
        `None` for a unit with fewer than two distinct values. Fewer ranges than `k` where there are fewer
        distinct values.
    """
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
    if low == high:
        return None
    mean, spread = (float(each) for each in (values.mean(dtype=np.float64), values.std(dtype=np.float64)))
    rectified = low == 0
    own = values[values > 0] if rectified else values
    points, counts, spreads = _points(own, bins)
    starts = best_clusters(points, counts, spreads, k)
    sizes = np.add.reduceat(counts, starts)
    means = np.add.reduceat(counts * points, starts) / sizes
    middle = ((means[:-1] + means[1:]) / 2).astype(np.float32)
    # Between the last point of a run and the first of the next, rounding or not.
    last, first = points[starts[1:] - 1].astype(np.float32), points[starts[1:]].astype(np.float32)
    inner = np.clip(middle, np.nextafter(last, np.float32(np.inf)), first)
    edges = np.concatenate([[0 if rectified else -np.inf], inner, [np.inf]]).astype(np.float32)
    place = np.searchsorted(inner, own, side="right")
    counted = np.bincount(place, minlength=len(means)).astype(np.int64)
    means = np.bincount(place, weights=own.astype(np.float64)) / counted
    return Cut(float(own.min()), high, rectified, edges, means, counted, mean, spread)


def _points(values: NDArray[np.float32], bins: int) -> tuple[Floats, IntArray, Floats]:
    """Distinct values, or the means of the bins of a histogram: means, counts and sums of squares."""
    distinct, counts = np.unique(values, return_counts=True)
    numbers = distinct.astype(np.float64)
    if len(distinct) <= bins:
        return numbers, counts.astype(np.int64), np.zeros(len(distinct))
    along = (numbers - numbers[0]) / (numbers[-1] - numbers[0])
    place = np.minimum((along * bins).astype(np.int64), bins - 1)
    sizes = np.bincount(place, weights=counts, minlength=bins)
    used = sizes > 0
    means = np.bincount(place, weights=counts * numbers, minlength=bins)[used] / sizes[used]
    away = numbers - means[(np.cumsum(used) - 1)[place]]
    spreads: Floats = np.bincount(place, weights=counts * away**2, minlength=bins)[used].astype(np.float64)
    return means, sizes[used].astype(np.int64), spreads


def range_masks(
    maps: torch.Tensor,
    cuts: Sequence[Cut | None],
    size: tuple[int, int],
    *,
    ranges: int = RANGES,
    block: int = 128,
) -> UnitMasks:
    """Where each range of each unit is, on maps upsampled as for `unit_masks`.

    Range `r` of unit `c` has number `c * ranges + r` in the masks. A pixel is in the range that its
    interpolated value, rounded to float32, lies in; a pixel of a map with NaN, and one of a rectified unit
    whose value is 0, is in none.

    Args:
        maps: `(B, C, h, w)`.
        cuts: of each unit; nothing of a unit without is in a range.
        size: (height, width) of the label masks.
        ranges: most that a unit has.
        block: maps computed at a time, which bounds memory.

    Raises:
        ValueError: another number of units.
    """
    if maps.ndim != 4 or len(cuts) != maps.shape[1]:
        raise ValueError(f"expected maps (B, {len(cuts)}, h, w), not {tuple(maps.shape)}")
    pixels = size[0] * size[1]
    inner, floor = torch.full((len(cuts), ranges - 1), torch.inf), torch.full((len(cuts),), torch.inf)
    for unit, cut in enumerate(cuts):
        if cut is not None:
            inner[unit, : len(cut.edges) - 2] = torch.from_numpy(cut.edges[1:-1])
            floor[unit] = 0 if cut.rectified else -torch.inf
    flat = comparable(maps).flatten(0, 1).cpu()
    unit_of = torch.arange(len(cuts)).repeat(len(maps))
    high = flat.flatten(1).amax(1)  # NaN is passed on
    pairs = torch.nonzero(high > floor[unit_of])[:, 0]
    masks, starts, stops = [], [], []
    for chunk in torch.split(pairs, block):
        values = interpolated(flat[chunk], size).flatten(1)
        own = inner[unit_of[chunk]]
        level = torch.zeros(values.shape, dtype=torch.int8)
        for edge in range(ranges - 1):
            level += values >= own[:, edge, None]
        level[values <= floor[unit_of[chunk], None]] = -1
        number, start, stop = _level_runs(level.numpy())
        row, place = np.divmod(number, 128)
        masks.append(chunk.numpy()[row] * ranges + place)
        starts.append(start)
        stops.append(stop)
    nothing = np.zeros(0, dtype=np.int64)
    mask, start, stop = (np.concatenate([nothing, *each]) for each in (masks, starts, stops))
    found, first = np.unique(mask, return_index=True)
    image, which = np.divmod(found, len(cuts) * ranges)
    edges: NDArray[Any] = np.stack([start, stop], axis=1).ravel().astype(edge_dtype(pixels))
    return UnitMasks(
        n_images=len(maps),
        n_units=len(cuts) * ranges,
        size=size,
        image=image.astype(np.int32),
        unit=which.astype(np.int32),
        offsets=(2 * np.append(first, len(mask))).astype(np.int64),
        edges=edges,
    )


def _level_runs(level: NDArray[np.int8]) -> tuple[IntArray, IntArray, IntArray]:
    """Runs of equal levels, sorted by map, level and start: `map * 128 + level`, first and past pixel."""
    maps, pixels = level.shape
    change = np.ones((maps, pixels), dtype=bool)
    np.not_equal(level[:, 1:], level[:, :-1], out=change[:, 1:])
    at = np.flatnonzero(change)
    stop = np.append(at[1:], maps * pixels)
    row, start = np.divmod(at, pixels)
    own = level.ravel()[at].astype(np.int64)
    kept = own >= 0
    number, start, stop = (row * 128 + own)[kept], start[kept], (stop - row * pixels)[kept]
    order = np.argsort(number, kind="stable")
    return number[order], start[order], stop[order]
