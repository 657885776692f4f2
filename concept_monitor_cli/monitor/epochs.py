"""Which of many epochs are looked at, where a picture has no more room or a measure takes long."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: Of layers of more units than this, what takes the third power of their number is asked of few epochs.
LARGE = 500
#: So many: the first, the last and an even choice in between.
MOST = 3


def evenly(values: Sequence[int], count: int) -> list[int]:
    """First, last and an even choice in between.

    Example:
        >>> evenly(range(60), 4)
        [0, 20, 39, 59]
    """
    if len(values) <= count:
        return list(values)
    return [values[i] for i in np.linspace(0, len(values) - 1, count).round().astype(int)]


def affordable(count: int, units: int, *, named: bool) -> list[int]:
    """The places of the epochs that get a measure which takes long: of a large layer `MOST`.

    Args:
        count: epochs of the layer.
        units: on which the time depends.
        named: whether the user named epochs: these then, however many.

    Example:
        >>> affordable(9, 2048, named=False), affordable(9, 64, named=False) == list(range(9))
        ([0, 4, 8], True)
    """
    return list(range(count)) if named or units <= LARGE else evenly(range(count), MOST)
