"""Which comparisons of two concepts can the test of changes ask of each epoch? All are known beforehand.

A unit's label is compared with the concept that it holds, at the epoch at which it had that last, and at its
own (`confidence.held_labels`). So of every epoch it is asked whether the label that a unit has there beats
another one that the same unit has at another epoch. That lets each epoch be scored once for every draw of the
images; of the scores nothing is kept but a bit for each comparison and draw.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from concept_monitor_cli.monitor.history import History

# Set bits of a byte: NumPy counts them from version 2 on only.
_BITS = np.array([bin(byte).count("1") for byte in range(256)], dtype=np.uint8)


@dataclass(frozen=True)
class Rivals:
    """What can be asked of one epoch: does a unit's label there beat another concept?

    Attributes:
        rows: `(n,)`, rows of the history.
        labels: `(n,)`, of another epoch, never that of this one; each pair of row and label once, sorted.
    """

    rows: NDArray[np.int64]
    labels: NDArray[np.int64]


def rivals(history: History) -> list[Rivals]:
    """For every epoch the comparisons that the test of changes can ask of it.

    At epoch `t` a unit may hold any concept that it had before; the last epoch at which it had it is `e`.
    Then `e` is asked whether that concept beats the new one there, and `t` the other way round.

    Args:
        history: the labels.
    """
    units, epochs = history.labels.shape
    n_names = max(1, len(history.names))
    last = np.full((units, n_names), -1, dtype=np.int32)
    found: list[list[NDArray[np.int64]]] = [[] for _ in range(epochs)]
    for t in range(epochs):
        now = history.labels[:, t]
        live = np.flatnonzero(now >= 0)
        place, label = np.nonzero(last[live] >= 0)
        row = live[place]
        another = label != now[row]
        row, label = row[another], label[another]
        found[t].append(row * n_names + label)
        since, forward = last[row, label], row * n_names + now[row]
        order = np.argsort(since, kind="stable")
        at, starts = np.unique(since[order], return_index=True)
        for e, keys in zip(at.tolist(), np.split(forward[order], starts[1:]), strict=False):
            found[e].append(keys)
        last[live, now[live]] = t
    distinct = [np.unique(np.concatenate(keys)) for keys in found]
    return [Rivals(keys // n_names, keys % n_names) for keys in distinct]


#: (column, rows of the units, labels) -> (n, bytes) uint8: a bit for every draw of the images, set where the
#: label of a unit at that epoch beats another one.
Wins = Callable[[int, NDArray[np.int64], NDArray[np.int64]], NDArray[np.uint8]]


class Scored:
    """The test of changes on epochs that were scored beforehand, each once.

    Args:
        questions: of each column of a history what can be asked of it; see `rivals`.
        wins: answers all of them that are asked of one epoch.
        n_names: labels of the history.
        resamples: how many draws.
        advance: told of every epoch that is scored.
    """

    def __init__(
        self,
        questions: Mapping[int, Rivals],
        wins: Wins,
        n_names: int,
        resamples: int,
        advance: Callable[[int], object] = lambda n: None,
    ) -> None:
        self._resamples, self._n_names = resamples, n_names
        self._known = {}
        for column, asked in questions.items():
            self._known[column] = (
                asked.rows * n_names + asked.labels,
                wins(column, asked.rows, asked.labels),
            )
            advance(1)

    def agreement(
        self,
        earlier: int,
        later: int,
        rows: NDArray[np.int64],
        old: NDArray[np.int64],
        new: NDArray[np.int64],
    ) -> NDArray[np.float64]:
        """Share of the draws in which the old label wins at the earlier epoch and the new one at the later.

        Args:
            earlier: column of the history at which each unit has its old label.
            later: column at which it has the new one.
            rows: `(n,)`, rows of the history.
            old: `(n,)`, labels.
            new: `(n,)`, labels.
        """
        return share(self._wins(earlier, rows, new), self._wins(later, rows, old), self._resamples)

    def _wins(self, column: int, rows: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.uint8]:
        keys, bits = self._known[column]
        return bits[np.searchsorted(keys, rows * self._n_names + labels)]


def share(first: NDArray[np.uint8], second: NDArray[np.uint8], resamples: int) -> NDArray[np.float64]:
    """Share of the draws that two rows of bits have in common, `(n,)`."""
    agreeing: NDArray[np.float64] = _BITS[first & second].sum(axis=1, dtype=np.int64) / resamples
    return agreeing
