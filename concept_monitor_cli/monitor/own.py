"""Which changes of label are a unit's own?

A similarity that weighs a concept against the other units of the layer gives a unit another label when the
others change, though the unit does the same as before. So a unit is compared with itself by its activations
too: a label that comes while they stay the same is not reported as a change of the unit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from concept_monitor_cli.functional.self_similarity import UNCHANGED
from concept_monitor_cli.monitor.history import History

Floats = NDArray[np.float64]
# (column before, column after, rows of the units) -> correlation of their activations; NaN where one is dead.
SelfSimilarity = Callable[[int, int, NDArray[np.int64]], Floats]


@dataclass(frozen=True)
class Own:
    """The labels of the units of a layer without changes that are not their own.

    Attributes:
        history: the labels; where a unit does what it did when it got its label, that label.
        self_similarity: `(C, T)`, correlation of a unit's activations with those of the epoch before; NaN at
            the first epoch, and where the unit is dead at either.
        since_first: `(C,)`, the same of the last epoch at which the unit is live with the first one.
    """

    history: History
    self_similarity: Floats
    since_first: Floats

    @classmethod
    def together(cls, parts: Sequence[Own], history: History) -> Own:
        """Of a whole layer, from those of its units in blocks; `history` is that of the layer."""
        labels = np.concatenate([part.history.labels for part in parts])
        return cls(
            replace(history, labels=labels),
            np.concatenate([part.self_similarity for part in parts]),
            np.concatenate([part.since_first for part in parts]),
        )


def own_changes(history: History, similarity: SelfSimilarity) -> Own:
    """Follow what units do over the epochs, beside what they are called.

    A new label counts where the unit's activations correlate by less than `UNCHANGED` with those of the last
    epoch at which it had the label that it holds. So a unit that changes a little at every epoch is not
    passed over.

    Args:
        history: the labels.
        similarity: of every unit with itself, at two epochs.
    """
    labels = history.labels
    own = labels.copy()
    holds = np.full(len(labels), -1, dtype=np.int64)
    since = np.full(len(labels), -1, dtype=np.int64)
    for t in range(labels.shape[1]):
        now = labels[:, t]
        for earlier in np.unique(since[(now >= 0) & (holds >= 0) & (now != holds)]).tolist():
            rows = np.flatnonzero((since == earlier) & (now >= 0) & (holds >= 0) & (now != holds))
            kept = rows[similarity(earlier, t, rows) >= UNCHANGED]
            own[kept, t] = holds[kept]
        taken = own[:, t] >= 0
        holds = np.where(taken, own[:, t], holds)
        since = np.where(taken & (now == holds), t, since)
    every = np.arange(len(labels))
    steps = [similarity(t - 1, t, every) for t in range(1, labels.shape[1])]
    before = np.full((len(labels), 1), np.nan)
    return Own(
        replace(history, labels=own),
        np.concatenate([before, *(step[:, None] for step in steps)], axis=1),
        _since_first(history, similarity),
    )


def _since_first(history: History, similarity: SelfSimilarity) -> Floats:
    live = history.live
    first = np.where(live.any(axis=1), live.argmax(axis=1), -1)
    last = live.shape[1] - 1 - live[:, ::-1].argmax(axis=1)
    found = np.full(len(live), np.nan)
    for one, other in sorted({(int(a), int(b)) for a, b in zip(first, last, strict=True) if 0 <= a < b}):
        rows = np.flatnonzero((first == one) & (last == other))
        found[rows] = similarity(one, other, rows)
    return found
