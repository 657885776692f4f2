"""Compiled loops over ranks of images, for a processor. Importing this file imports numba: see `_kernels`."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
#: Ranks and numbers of images: 16 bits where they fit, as a concept's ranks then stay in the first cache.
Whole = NDArray[np.uint16] | NDArray[np.int32]
Words = NDArray[np.uint64]

_PAIRS, _FOURS, _BYTES, _ADD = (
    np.uint64(each)
    for each in (0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F, 0x0101010101010101)
)
# Without a sign, as an index that cannot be negative is used as it is.
_1, _2, _4, _6, _56, _63 = (np.uint64(each) for each in (1, 2, 4, 6, 56, 63))
#: Sets that are ranked by a concept one after the other, while its ranks are in the cache.
_SETS = 16


@numba.njit(inline="always")
def _ones(x: np.uint64) -> np.uint64:
    """How many bits are set; the compiler makes one instruction of it."""
    x = x - ((x >> _1) & _PAIRS)
    x = (x & _FOURS) + ((x >> _2) & _FOURS)
    x = (x + (x >> _4)) & _BYTES
    return (x * _ADD) >> _56


@numba.njit(inline="always")
def _rank_within(ranks: Whole, images: Whole, words: Words, below: Words, own: Words, places: Whole) -> None:
    """The rank of each image among some images, from their ranks among all: without sorting.

    Every rank sets its bit; a rank within the set is how many bits are set below it.

    Args:
        ranks: `(N,)`, of all images, no two equal.
        images: `(n,)`, the set.
        words: `(N / 64,)`, room for the bits.
        below: the same, room for how many are set in the words before.
        own: `(n,)`, room for the ranks of the set's images among all.
        places: `(n,)`, written.
    """
    words[:] = np.uint64(0)
    for j in range(images.shape[0]):
        rank = np.uint64(ranks[images[j]])
        own[j] = rank
        words[rank >> _6] |= _1 << (rank & _63)
    total = np.uint64(0)
    for w in range(words.shape[0]):
        below[w] = total
        total += _ones(words[w])
    for j in range(images.shape[0]):
        rank = own[j]
        places[j] = below[rank >> _6] + _ones(words[rank >> _6] & ((_1 << (rank & _63)) - _1))


# A sum may be taken in any order, or it could not be taken eight numbers at a time; in 64 bits the order is
# lost when the sum is rounded to 32.
@numba.njit(nogil=True, fastmath={"contract", "reassoc", "nsz"}, error_model="numpy")
def order_errors(ranks: Whole, top: Whole, falling: Floats, rising: Floats, error: Floats) -> None:
    """`error[k, m] = mean_j abs(rising[k, r_j] - falling[k, j]) ** 3`, `r_j` the rank of image `top[k, j]`.

    Its rank by concept `m` among the images `top[k]`.

    Args:
        ranks: `(M, N)`, of all images by every concept, none equal.
        top: `(C, n)`, the images of a unit.
        falling: `(C, n)`, its activations there, highest first.
        rising: `(C, n)`, the same, lowest first.
        error: `(C, M)`, written; the sums are in float64.
    """
    units, n = top.shape
    words = np.empty((ranks.shape[1] + 63) // 64, np.uint64)
    below, own, places = np.empty(len(words), np.uint64), np.empty(n, np.uint64), np.empty(n, ranks.dtype)
    moved = np.empty(n, np.float32)
    for m in range(ranks.shape[0]):
        for k in range(units):
            _rank_within(ranks[m], top[k], words, below, own, places)
            values, given = rising[k], falling[k]
            for j in range(n):
                moved[j] = values[places[j]]
            total = np.float64(0.0)
            for j in range(n):
                away = np.float64(abs(moved[j] - given[j]))
                total += away * away * away
            error[k, m] = np.float32(total / n)


@numba.njit(nogil=True, fastmath={"contract"}, error_model="numpy")
def shared_order_errors(
    ranks: Whole, sets: Whole, seen_as: Whole, falling: Floats, rising: Floats, error: Floats
) -> None:
    """`order_errors` of units that share their images: a set is ranked once for all of its units.

    Each unit has an order of its own. The units of a set are computed side by side, in float32: of `n` terms
    that are not negative, added up in the order of the set, so `n * 6e-8` of the sum is the most that
    rounding changes.

    Args:
        ranks: `(M, N)`, of all images by every concept, none equal.
        sets: `(G, n)`, images.
        seen_as: `(n, L)`, which of its top images, 0 to `n - 1`, the image at a place of the set is to each
            of the `L` units of a set; the same in every set.
        falling: `(G, n, L)`, the activations of the units of each set, highest first.
        rising: `(G, n, L)`, the same, lowest first.
        error: `(G, L, M)`, written.
    """
    n_sets, n, units = falling.shape
    concepts = ranks.shape[0]
    words = np.empty((ranks.shape[1] + 63) // 64, np.uint64)
    below, own = np.empty(len(words), np.uint64), np.empty(n, np.uint64)
    places = np.empty((min(n_sets, _SETS), concepts, n), ranks.dtype)
    given, total = np.empty((n, units), np.float32), np.empty(units, np.float32)
    fours = n - n % 4
    for first in range(0, n_sets, _SETS):
        count = min(_SETS, n_sets - first)
        for m in range(concepts):
            for g in range(count):
                _rank_within(ranks[m], sets[first + g], words, below, own, places[g, m])
        for g in range(count):
            values, whole = rising[first + g], falling[first + g]
            for j in range(n):
                for k in range(units):
                    given[j, k] = whole[seen_as[j, k], k]
            for m in range(concepts):
                place = places[g, m]
                total[:] = np.float32(0.0)
                # Four images at a time: a total is read and written once for them.
                for j in range(0, fours, 4):
                    new0, new1 = values[place[j]], values[place[j + 1]]
                    new2, new3 = values[place[j + 2]], values[place[j + 3]]
                    old0, old1, old2, old3 = given[j], given[j + 1], given[j + 2], given[j + 3]
                    for k in range(units):
                        away = abs(new0[k] - old0[k])
                        cubes = away * away * away
                        away = abs(new1[k] - old1[k])
                        cubes += away * away * away
                        away = abs(new2[k] - old2[k])
                        cubes += away * away * away
                        away = abs(new3[k] - old3[k])
                        cubes += away * away * away
                        total[k] += cubes
                for j in range(fours, n):
                    new0, old0 = values[place[j]], given[j]
                    for k in range(units):
                        away = abs(new0[k] - old0[k])
                        total[k] += away * away * away
                for k in range(units):
                    error[first + g, k, m] = total[k] / np.float32(n)
