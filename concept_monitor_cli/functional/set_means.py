"""The mean of numbers over a set of images, against random sets of as many images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from concept_monitor_cli.errors import InputError

#: With fewer images with (or without) a concept than this, random sets are drawn and counted.
COUNTED_BELOW = 30
#: So they are where that number over the kurtosis of the values is below this: few images make up the mean.
EVEN = 10
#: Random sets that are counted.
DRAWS = 10_000
# Numbers to hold at a time.
_CHUNK = 20_000_000


@dataclass(frozen=True)
class MeanTest:
    """The mean of numbers over a set of images, against random sets of as many images.

    Attributes:
        difference: `(K, M)`: mean over the images of concept m - mean over all, of column k.
        spread: `(K, M)`: standard deviation of that over random sets.
        p: `(K, M)`: two-sided; share of random sets that are as far away.
    """

    difference: Tensor
    spread: Tensor
    p: Tensor


@torch.no_grad()
def mean_test(values: Tensor, L: Tensor, *, draws: int = DRAWS, seed: int = 0) -> MeanTest:
    """Is the mean of some numbers over a concept's images further from the mean of all than by chance?

    Over all sets of `n` of `N` images, the mean has the mean of all, and with the variance `s^2` and the
    third central moment `m` of the numbers

        variance  s^2 (N - n) / ((N - 1) n)
        skewness  m (N - n) (N - 2n) / ((N - 1) (N - 2) n^2) / variance^1.5

    so that p is had in closed form, from the gamma law of this variance and skewness. Where `n` or `N - n` is
    below `COUNTED_BELOW`, or the numbers are too uneven for that (`EVEN`: a unit that fires on few images),
    random sets are drawn and counted: `p = (1 + sets as far away) / (1 + draws)`.

    Args:
        values: `(N, K)`, finite.
        L: `(N, M)`: 1, 0 or NaN.
        draws: random sets.
        seed: of these.

    Returns:
        `(K, M)` each, float64; NaN for a concept on no image or all of them; p is 1 where all values are
        equal.

    Raises:
        InputError: shapes that do not belong together.

    Source: moments of a mean without replacement, Cochran 1977, theorem 2.2, and Sukhatme 1944; the tail of
    the gamma law by Wilson & Hilferty 1931.

    Example:
        >>> values = torch.arange(100.0)[:, None]
        >>> float(mean_test(values, (values > 49).float()).p) < 1e-3
        True
    """
    check_images(values, L)
    values, L = values.double(), L.double()
    size = values.abs().amax(0).clamp_min(torch.finfo(torch.float64).tiny)
    values = values / size  # powers of very large or small numbers are no numbers
    values = values - values.mean(0)
    known, there = (~L.isnan()).double(), L.nan_to_num(0.0)
    total, count = known.sum(0), there.sum(0)
    mean, second, third, fourth = (values.T**power @ known / total for power in (1, 2, 3, 4))
    variance = (second - mean**2).clamp_min(0)
    third, fourth = (
        third - 3 * mean * second + 2 * mean**3,
        fourth - 4 * mean * third + 6 * mean**2 * second - 3 * mean**4,
    )
    difference = values.T @ there / count - mean
    spread = (variance * (total - count) / ((total - 1) * count)).sqrt()
    skewness = third * (total - count) * (total - 2 * count) / ((total - 1) * (total - 2) * count**2)
    p = _both_tails(difference / spread, skewness / spread**3)
    flat = variance.sqrt() <= 1e-12
    few = torch.minimum(count, total - count)
    wanted = (few > 0) & ((few < COUNTED_BELOW) | too_uneven(few, variance, fourth)) & ~flat
    sizes, swapped = few.tolist(), (count > few).tolist()
    for columns, rows in _alike(L, wanted.any(0)):
        units = torch.nonzero(wanted[:, columns].any(1))[:, 0]
        place = (units[:, None], torch.tensor(columns, device=units.device))
        sides = [(int(sizes[column]), swapped[column]) for column in columns]
        counted = counted_p_values(values[rows][:, units], difference[place], sides, draws, seed)
        p[place] = torch.where(wanted[place], counted, p[place])
    asked = (count > 0) & (count < total)
    p = torch.where(flat, 1.0, p)
    found = (difference * size[:, None], spread * size[:, None], p)
    return MeanTest(*(torch.where(asked, each, torch.nan) for each in found))


def check_images(values: Tensor, L: Tensor) -> None:
    """That numbers `(N, C)` and labels `(N, M)` are of the same images, two or more.

    Raises:
        InputError: they are not.
    """
    if values.ndim != 2 or L.ndim != 2 or len(values) != len(L) or len(values) < 2:
        raise InputError(
            f"values {tuple(values.shape)} and labels {tuple(L.shape)}: need (N, C) and (N, M), N at least 2"
        )


def too_uneven(few: Tensor, variance: Tensor, fourth: Tensor) -> Tensor:
    """Whether the mean over so few images hangs on single ones: `few / kurtosis` is below `EVEN`.

    Args:
        few: images of the smaller side.
        variance, fourth: second and fourth central moment of the numbers; all three broadcast.
    """
    return few * variance**2 < EVEN * fourth


def _both_tails(t: Tensor, skewness: Tensor) -> Tensor:
    """`P(|T| >= |t|)` of a gamma law of mean 0, variance 1 and this skewness; the normal one without any."""
    # The cube root of a gamma variable is nearly normal. With h = 0 both are the normal law.
    h = (skewness.abs() / 2).clamp_min(1e-9)

    def normal(x: Tensor) -> Tensor:
        return 3 / h * torch.expm1(torch.log1p((h * x).clamp_min(-1)) / 3) + h / 3

    upper, lower = normal(t.abs()), normal(-t.abs())
    return (torch.erfc(upper / math.sqrt(2)) + torch.erfc(-lower / math.sqrt(2))) / 2


def _alike(L: Tensor, chosen: Tensor) -> list[tuple[list[int], Tensor]]:
    """Chosen columns that are known on the same images, and these images."""
    known = (~L.isnan()).cpu().numpy()
    places: dict[bytes, list[int]] = {}
    for column in torch.nonzero(chosen)[:, 0].tolist():
        places.setdefault(np.packbits(known[:, column]).tobytes(), []).append(column)
    return [
        (columns, torch.from_numpy(np.flatnonzero(known[:, columns[0]])).to(L.device))
        for columns in places.values()
    ]


def counted_p_values(
    values: Tensor, difference: Tensor, sides: Sequence[tuple[int, bool]], draws: int, seed: int
) -> Tensor:
    """p-values `(K, B)` of differences `(K, B)` by random sets of the images `(n, K)`.

    A set is drawn of the smaller side: that of the images without the concept is as far away, times
    `(N - n) / n`. Smaller sets are the first images of larger ones.

    Args:
        values: `(n, K)`.
        difference: `(K, B)`.
        sides: for each of `B` concepts how many images the smaller side has, and whether it is that of the
            images without the concept.
        draws: random sets.
        seed: of these.

    Returns:
        `(1 + sets as far away) / (1 + draws)`, `(K, B)` float64.
    """
    total, n_values = values.shape
    centred = values - values.mean(0)
    sizes = sorted({size for size, _ in sides})
    scale = [size / (total - size) if swapped else 1.0 for size, swapped in sides]
    # Sums of the same numbers in another order differ in the last digits.
    seen = difference.abs() / difference.new_tensor(scale) * (1 - 1e-9)
    columns = {
        size: torch.tensor([place for place, side in enumerate(sides) if side[0] == size], device=seen.device)
        for size in sizes
    }
    farther = torch.zeros_like(difference)
    for sets in _random_sets(total, sizes[-1], draws, seed):
        sets = sets.to(values.device)
        step = max(1, _CHUNK // max(1, sets.numel()))
        for start in range(0, n_values, step):
            some = slice(start, start + step)
            drawn = centred[:, some][sets]  # (sets, size, k)
            sums, taken = drawn.new_zeros(len(drawn), drawn.shape[2]), 0
            for size, own in columns.items():
                sums, taken = sums + drawn[:, taken:size].sum(1), size
                away = (sums.abs() / size).sort(0).values.T.contiguous()
                nearer = torch.searchsorted(away, seen[some][:, own].contiguous())
                farther[some, own] += len(sets) - nearer
    return (1 + farther) / (1 + draws)


def random_sets(total: int, size: int, draws: int, *, seed: int = 0) -> Tensor:
    """`(draws, size)` places below `total`, on the host, each row without repeats and in a random order."""
    return torch.cat(list(_random_sets(total, size, draws, seed)))


def _random_sets(total: int, size: int, draws: int, seed: int) -> Iterator[Tensor]:
    """`random_sets` in blocks of rows."""
    generator = torch.Generator().manual_seed(seed)
    step = max(1, _CHUNK // max(1, total))
    for start in range(0, draws, step):
        yield torch.rand(min(step, draws - start), total, generator=generator).topk(size, dim=1).indices
