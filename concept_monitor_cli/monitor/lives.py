"""The life of every unit: when it is born, how often it changes, when it settles, how far it moves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from concept_monitor_cli.functional.self_similarity import UNCHANGED
from concept_monitor_cli.monitor.history import History
from concept_monitor_cli.monitor.own import Own

if TYPE_CHECKING:
    import pandas as pd

    from concept_monitor_cli.space import UnitVectors

# Units whose places at all epochs are held in double precision at a time.
_UNITS = 256


def unit_lives(
    history: History,
    placed: UnitVectors | None = None,
    confident: NDArray[np.bool_] | None = None,
    *,
    own: Own | None = None,
    drift_floors: tuple[float, float] = (np.nan, np.nan),
) -> pd.DataFrame:
    """A row per unit of one layer.

    The epochs are those of the run at which the layer was dissected. A unit is *dead* at an epoch where its
    activation is the same on every image; it has no concept there, and these epochs are passed over. A
    concept is a word with its category.

    Args:
        history: the layer.
        placed: its units in the space of words; without it `drift` and `path_length` are empty.
        confident: `(C, T)`, the epochs at which a unit took a new concept with confidence (`held_labels`);
            without it `confident_changes` is empty.
        own: which changes are the units' own; without it all are taken for that, and `self_similarity` is
            empty.
        drift_floors: what a random network and two halves of the images give for `drift`; see there.

    Returns:
        the rows of `units.csv`:

        - `final_concept`, `final_category`: of the last epoch; empty for a unit that is dead there;
        - `first_epoch`: the first epoch at which the unit has its final concept, even if it left it again;
        - `stable_from`: the first epoch from which it has its final concept at every epoch; concepts that
          come while its activations stay the same count as the one before;
        - `changes`: how often its concept differs from the one before, and its activations too
          (`monitor.own`);
        - `born`: the first epoch at which it is interpretable; empty if it never is;
        - `died`: the first epoch after the last one at which it is interpretable; empty for a unit that is
          interpretable at the end or never was. It may have been uninterpretable in between;
        - `drift`: cosine distance between its first and its last place in the space of words; 0 where its
          activations are the same at both;
        - `path_length`: sum of the cosine distances from each place to the next, at least as telling of noise
          as of learning: a unit that trembles has a long path and a small drift;
        - `confident_changes`: how often it took another concept with confidence, i.e. where drawing the
          probing images again would not undo the change;
        - `self_similarity`: the lowest correlation of its activations with those of the epoch before;
        - `label_changes`: how often its concept differs from the one before, whatever the reason;
        - `drift_floor_random`: mean distance between the places of this layer's units at the last epoch and
          those of a
          network with random weights: what unrelated units have; `drift_floor_halves`: mean distance of the
              two places
          that one unit gets from two halves of the images, at the last epoch: luck.
    """
    import pandas as pd

    epochs = history.epochs
    last = history.labels[:, -1]
    settled = history.live[:, -1]
    has_final = history.labels == last[:, None]
    # Walking back from the end over epochs that agree or at which the unit is dead.
    kept = history if own is None else own.history
    agrees = (kept.labels == kept.labels[:, -1:]) | ~history.live
    unbroken = np.logical_and.accumulate(agrees[:, ::-1], axis=1)[:, ::-1]
    stable = np.where(settled, _first(unbroken & history.live), -1)
    first = np.where(settled, _first(has_final), -1)
    born = _first(history.interpretable)
    final_birth = len(epochs) - 1 - _first(history.interpretable[:, ::-1])
    died = np.where((born >= 0) & ~history.interpretable[:, -1], final_birth + 1, -1)
    concepts, categories = history.concepts(last)
    drift, path = _distances(history, placed, own)
    return pd.DataFrame(
        {
            "layer": history.layer,
            "unit": history.units,
            "detector": history.detector,
            "final_concept": concepts,
            "first_epoch": _epochs(epochs, first),
            "stable_from": _epochs(epochs, stable),
            "changes": kept.changed.sum(axis=1),
            "born": _epochs(epochs, born),
            "died": _epochs(epochs, died),
            "drift": drift,
            "final_category": categories,
            "path_length": path,
            "confident_changes": pd.array(
                [pd.NA] * len(history.units) if confident is None else confident.sum(axis=1).tolist(),
                dtype="Int64",
            ),
            "self_similarity": _lowest(own, len(history.units)),
            "label_changes": history.changed.sum(axis=1),
            "drift_floor_random": drift_floors[0],
            "drift_floor_halves": drift_floors[1],
        }
    )


def _first(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Column of the first true value of every row, -1 where there is none."""
    return np.where(mask.any(axis=1), mask.argmax(axis=1), -1)


def _epochs(epochs: NDArray[np.int64], columns: NDArray[np.int64]) -> pd.arrays.IntegerArray:
    """Epochs of some columns, `NA` for -1."""
    import pandas as pd

    return pd.arrays.IntegerArray(epochs[columns.clip(0)].astype(np.int64), columns < 0)


def _lowest(own: Own | None, count: int) -> NDArray[np.float64]:
    """The lowest self-similarity of every unit; NaN where there is none."""
    if own is None:
        return np.full(count, np.nan)
    known = np.where(np.isnan(own.self_similarity), np.inf, own.self_similarity).min(axis=1)
    lowest: NDArray[np.float64] = np.where(np.isinf(known), np.nan, known)
    return lowest


def mean_distance(first: UnitVectors, second: UnitVectors) -> float:
    """Mean cosine distance between the units of the same number of two layers; NaN where they share none."""
    a, b = (dict(zip(placed.units["unit"], placed.vectors, strict=True)) for placed in (first, second))
    shared = sorted(a.keys() & b.keys())
    if not shared:
        return float("nan")
    directions = [np.stack([of[unit] for unit in shared]).astype(np.float64) for of in (a, b)]
    one, other = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in directions)
    return float(_cosine_distance(one, other).mean())


def _distances(
    history: History, placed: UnitVectors | None, own: Own | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Drift and length of the path of every unit; NaN for a unit that has no place at any epoch."""
    count = len(history.units)
    drift, path = np.full(count, np.nan), np.full(count, np.nan)
    if placed is None or not len(placed.units):
        return drift, path
    unit = np.searchsorted(history.units, placed.units["unit"].to_numpy(dtype=np.int64))
    order = np.lexsort((placed.units["epoch"].to_numpy(dtype=np.int64), unit))
    unit = unit[order]
    column = np.searchsorted(history.epochs, placed.units["epoch"].to_numpy(dtype=np.int64))[order]
    starts = np.flatnonzero(np.concatenate([[True], unit[1:] != unit[:-1]]))
    stops = np.concatenate([starts[1:], [len(unit)]])
    # In blocks of units: all places in double precision would take several times the memory of the table.
    for some in range(0, len(starts), _UNITS):
        first, last = starts[some : some + _UNITS], stops[some : some + _UNITS] - 1
        rows = slice(int(first[0]), int(last[-1]) + 1)
        directions = placed.vectors[order[rows]].astype(np.float64)
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        present, units, columns = unit[first], unit[rows], column[rows]
        drift[present] = _cosine_distance(directions[first - rows.start], directions[last - rows.start])
        steps = _cosine_distance(directions[:-1], directions[1:])
        steps = np.where(units[1:] == units[:-1], steps, 0.0)
        if own is not None:
            same = own.self_similarity[units[1:], columns[1:]] >= UNCHANGED
            # Over epochs at which a unit was dead nothing is known.
            steps = np.where(same & (columns[1:] == columns[:-1] + 1), 0.0, steps)
            drift[present] = np.where(own.since_first[present] >= UNCHANGED, 0.0, drift[present])
        path[present] = np.bincount(units[1:], weights=steps, minlength=count)[present]
    return drift, path


def _cosine_distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    # Half the squared distance of unit vectors: exactly 0 for equal ones, where 1 - a.b leaves 1e-16.
    distance: NDArray[np.float64] = 0.5 * ((a - b) ** 2).sum(axis=1)
    return distance
