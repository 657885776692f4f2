"""Is a unit still itself? Its activations at one time beside those at another, on the same images."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from concept_monitor_cli.errors import InputError

Floats = NDArray[np.float64]

#: A unit whose activations correlate with its earlier ones at least like this has not changed: what is new
#: differs by less than 4.5 % of its standard deviation (`sqrt(1 - r^2)`).
UNCHANGED = 0.999


class SelfCorrelation:
    """Pearson's correlation of units with themselves between two of several epochs, on the same images.

        r[k] = sum_x (a_k(x) - mean a_k) (b_k(x) - mean b_k) / (N sd(a_k) sd(b_k))

    Every epoch is read and centred once and then held, `8 T N C` bytes: layers that are larger than the
    memory are asked in blocks of units.

    Args:
        epochs: of each epoch the activations `(N, C)`, of the same images and units.

    Raises:
        InputError: there are no images, or layers of other sizes.

    Example:
        >>> first = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 5.0]], dtype=np.float32)
        >>> SelfCorrelation([first, 3 - 2 * first])(0, 1, [0]).round(6).tolist()
        [-1.0]
    """

    def __init__(self, epochs: Iterable[NDArray[np.float32]]) -> None:
        self._centred: list[Floats] = []
        self._norms: list[Floats] = []
        for activations in epochs:
            if not len(activations):
                raise InputError("no images to correlate activations on")
            rows = np.array(activations.T, dtype=np.float64, order="C")
            if self._centred and rows.shape != self._centred[0].shape:
                sizes = f"{self._centred[0].shape[::-1]} and {rows.shape[::-1]}"
                raise InputError(f"layers of {sizes} activations cannot be paired")
            mean = rows.mean(axis=1, keepdims=True)
            rows -= mean
            norm = np.sqrt(np.einsum("un,un->u", rows, rows))
            # A constant unit leaves rounding errors of its mean, not zeros.
            alive = norm > 1e-6 * np.sqrt(rows.shape[1]) * np.abs(mean[:, 0])
            self._centred.append(rows)
            self._norms.append(np.where(alive, norm, np.nan))

    def __call__(self, earlier: int, later: int, units: NDArray[np.int64] | list[int]) -> Floats:
        """Of some units between two epochs.

        Args:
            earlier: which of the epochs.
            later: likewise.
            units: `(n,)`, columns of the activations.

        Returns:
            `(n,)`, between -1 and 1; NaN for a unit that never changes, or is not always a number, in either.
        """
        products = np.einsum("un,un->u", self._centred[earlier][units], self._centred[later][units])
        found: Floats = products / self._norms[earlier][units] / self._norms[later][units]
        return np.clip(found, -1.0, 1.0, out=found)
