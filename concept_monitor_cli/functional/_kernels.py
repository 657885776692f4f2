"""Compiled loops over the rows of `P`, for a processor. Importing this file imports numba.

Compiled anew in every process, in a second or two: numba's own cache on disk fails where it finds no folder
to write to, or a full one. To compile `np.empty` and `min` takes as long as a third of the loops themselves:
so arrays to work in are given, and extremes are found by comparison. A call does as much as it can: between
calls, threads wait for each other.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

# `2 ** f` for `-1/2 <= f <= 1/2`: the polynomial through seven Chebyshev nodes, 3e-9 from it.
_C0, _C1, _C2, _C3, _C4, _C5, _C6 = (
    np.float32(c)
    for c in (1.0, 0.693147207, 0.240226509, 5.55032723e-2, 9.61805668e-3, 1.34004282e-3, 1.54614447e-4)
)
# Below it a power of two has no room in the exponent; its power is used instead, 1.2e-38.
_LOWEST = np.float32(-126.0)
_HALF = np.float32(0.5)
_BIAS, _MANTISSA = np.int32(127), np.int32(23)
_SIGN, _NOT_SIGN = np.int32(31), np.int32(0x7FFF_FFFF)


@numba.njit(inline="always")
def _exp2(x: np.float32) -> np.float32:
    """`2 ** x` for `x < 127`, to 1e-7 of it."""
    x = _LOWEST if x < _LOWEST else x
    whole = np.floor(x + _HALF)
    f = x - whole
    power = (((((_C6 * f + _C5) * f + _C4) * f + _C3) * f + _C2) * f + _C1) * f + _C0
    return power * np.int32((np.int32(whole) + _BIAS) << _MANTISSA).view(np.float32)


@numba.njit(inline="always")
def _ordered(x: np.float32) -> np.int32:
    """A whole number; they are in the order of the floats, and their extremes are found faster."""
    bits = np.float32(x).view(np.int32)
    return np.int32(bits ^ (np.int32(bits >> _SIGN) & _NOT_SIGN))


@numba.njit(inline="always")
def _float(ordered: np.int32) -> np.float32:
    """The float that `_ordered` was of."""
    return np.int32(ordered ^ ((ordered >> _SIGN) & _NOT_SIGN)).view(np.float32)


# A sum may be taken in any order, or it could not be taken eight numbers at a time.
@numba.njit(nogil=True, fastmath={"contract", "reassoc", "nsz"}, error_model="numpy")
def add_up(
    source: Floats,
    first: int,
    width: int,
    rows: Integers,
    scale: np.float32,
    total: Floats,
    low: Floats,
    high: Floats,
) -> None:
    """Take further columns into running sums of powers and their bounds, each `(n,)`.

    After all of them, `low[i] = min_m x[m]`, `high[i] = max_m x[m]` and `total[i] = sum_m 2 ** (x[m] -
    high[i])` of `x = scale * source[rows[i]]`.

    Args:
        source: C-contiguous; columns `first` to `first + width` are read.
        first: see there.
        width: see there.
        rows: `(n,)`.
        scale: see above.
        total: starts as 0.
        low: starts as infinity.
        high: starts as minus infinity.
    """
    for i in range(rows.shape[0]):
        row = source[rows[i], first : first + width]
        least, most = _ordered(row[0]), _ordered(row[0])
        for m in range(width):
            place = _ordered(row[m])
            least = place if place < least else least
            most = place if place > most else most
        one, other = scale * _float(least), scale * _float(most)
        if one > other:  # of a negative scale
            one, other = other, one
        above = other if other > high[i] else high[i]
        sum_ = np.float32(0.0)
        for m in range(width):
            sum_ += _exp2(scale * row[m] - above)
        total[i] = total[i] * _exp2(high[i] - above) + sum_
        low[i] = one if one < low[i] else low[i]
        high[i] = above


@numba.njit(nogil=True, fastmath={"contract"}, error_model="numpy")
def multiply_in(
    products: Floats,
    source: Floats,
    first: int,
    rows: Integers,
    shift: Floats,
    scale: np.float32,
    starts: Integers,
    slots: Integers,
    rest: Floats,
    ratio: Floats,
    s: Floats,
) -> None:
    """`products[slot] *= rest + ratio * s[i]` for every place where row `i` is wanted.

    With `s[i] = 2 ** (shift[i] + scale * source[rows[i]])`, made once.

    Args:
        products: `(n_slots, width)`, changed.
        source: C-contiguous; columns `first` to `first + width` are read.
        first: see there.
        rows: `(n,)`.
        shift: `(n,)`.
        scale: see above.
        starts: `(n + 1,)`, row `i` is wanted at the places `starts[i]` to `starts[i + 1]`.
        slots: the product that a place belongs to.
        rest: of a place.
        ratio: of a place.
        s: `(width,)`, to work in.
    """
    width = products.shape[1]
    for i in range(rows.shape[0]):
        row, plus = source[rows[i], first : first + width], shift[i]
        for m in range(width):
            s[m] = _exp2(plus + scale * row[m])
        for place in range(starts[i], starts[i + 1]):
            product = products[slots[place]]
            add, times = rest[place], ratio[place]
            for m in range(width):
                product[m] *= add + times * s[m]


@numba.njit(nogil=True, fastmath={"contract"}, error_model="numpy")
def multiply_up(
    products: Floats,
    source: Floats,
    first: int,
    rows: Integers,
    shift: Floats,
    scale: np.float32,
    ends: Integers,
    images: Integers,
    rest: Floats,
    ratio: Floats,
    s: Floats,
) -> None:
    """The products of `multiply_in`, to the last digit, product by product: for more products than images.

    Each product is written once, where `multiply_in` comes back to it for every factor. Four factors are
    taken at a time, in their order, so that the product is read and written once for all four.

    Args:
        products: `(n_slots, width)`, changed.
        source: C-contiguous; columns `first` to `first + width` are read.
        first: see there.
        rows: `(n,)`.
        shift: `(n,)`.
        scale: see `multiply_in`.
        ends: `(n_slots,)`, the factors of a product end there, and those of the next one begin.
        images: of a factor, from 0 to `n`; those of a product in ascending order.
        rest: of a factor.
        ratio: of a factor.
        s: `(n, columns)`, to work in: so many columns of the softmax are made at a time.
    """
    width, n = products.shape[1], rows.shape[0]
    for start in range(0, width, s.shape[1]):
        wide = s.shape[1] if start + s.shape[1] < width else width - start
        for i in range(n):
            row, plus = source[rows[i], first + start : first + start + wide], shift[i]
            for m in range(wide):
                s[i, m] = _exp2(plus + scale * row[m])
        place = 0
        for slot in range(products.shape[0]):
            product = products[slot, start : start + wide]
            while place + 4 <= ends[slot]:
                s0, add0, times0 = s[images[place]], rest[place], ratio[place]
                s1, add1, times1 = s[images[place + 1]], rest[place + 1], ratio[place + 1]
                s2, add2, times2 = s[images[place + 2]], rest[place + 2], ratio[place + 2]
                s3, add3, times3 = s[images[place + 3]], rest[place + 3], ratio[place + 3]
                for m in range(wide):
                    half = product[m] * (add0 + times0 * s0[m]) * (add1 + times1 * s1[m])
                    product[m] = half * (add2 + times2 * s2[m]) * (add3 + times3 * s3[m])
                place += 4
            while place < ends[slot]:
                own, add, times = s[images[place]], rest[place], ratio[place]
                for m in range(wide):
                    product[m] *= add + times * own[m]
                place += 1


def compile_products() -> None:
    """Compile `multiply_in` and `multiply_up` for the arrays that they are called with."""
    whole, line, table = numba.int64, numba.float32[::1], numba.float32[:, ::1]
    places = numba.int64[::1]
    given = (table, table, whole, places, line, numba.float32, places, places, line, line)
    multiply_in.compile((*given, line))
    multiply_up.compile((*given, table))
