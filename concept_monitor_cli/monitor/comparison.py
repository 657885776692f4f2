"""Two runs side by side: which unit of one is which of the other, and what has one that the other lacks?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.monitor.history import History

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
# Activations of images start to stop, (n, C).
Rows = Callable[[int, int], NDArray[np.float32]]

_BLOCK = 4096
# A tie between equally good assignments goes to the same unit number; far below any real difference.
_SAME_NUMBER = 1e-9


def correlations(first: Rows, second: Rows, n_images: int, *, block: int = _BLOCK) -> Floats:
    """Pearson's correlation of every unit of one layer with every unit of another over the same images.

        r[i, j] = sum_x (a_i(x) - mean a_i) (b_j(x) - mean b_j) / (N sd(a_i) sd(b_j))

    Two passes over the images in blocks: memory is one block of rows of each layer and the result.

    Args:
        first: reads rows of the first layer's pooled activations, `(n, C)`.
        second: likewise, `(n, D)`.
        n_images: `N`.
        block: images at a time.

    Returns:
        `(C, D)`, float64, between -1 and 1; NaN where a unit never changes or is not always a number.
    """
    spans = [(start, min(n_images, start + block)) for start in range(0, n_images, block)]
    means = []
    for rows in (first, second):
        total: Floats | float = 0.0
        for start, stop in spans:
            total = total + rows(start, stop).sum(axis=0, dtype=np.float64)
        means.append(np.asarray(total) / n_images)
    cross: Floats | None = None
    squares: list[Floats | float] = [0.0, 0.0]
    for start, stop in spans:
        a = rows_centred(first(start, stop), means[0])
        b = rows_centred(second(start, stop), means[1])
        product = a.T @ b
        cross = product if cross is None else np.add(cross, product, out=cross)
        squares = [squares[0] + (a * a).sum(axis=0), squares[1] + (b * b).sum(axis=0)]
    if cross is None:
        raise InputError("no images to correlate activations on")
    scales = [
        _scales(np.asarray(square), mean, n_images) for square, mean in zip(squares, means, strict=True)
    ]
    cross /= scales[0][:, None]
    cross /= scales[1][None, :]
    bounded: Floats = np.clip(cross, -1.0, 1.0, out=cross)
    return bounded


def paired_correlations(
    first: NDArray[np.float32], second: NDArray[np.float32], partner: NDArray[np.int64]
) -> Floats:
    """`correlations` of every unit of one layer with one unit of another, without the table of all pairs.

    Args:
        first: `(N, C)`.
        second: `(N, D)`, the same images.
        partner: `(C,)`, a unit of the second layer for each of the first.

    Returns:
        `(C,)`, as in the table.
    """
    n_images = len(first)
    found, scales = [], []
    for rows in (first, second):
        mean = np.asarray(rows.sum(axis=0, dtype=np.float64)) / n_images
        found.append(rows_centred(rows, mean))
        scales.append(_scales((found[-1] * found[-1]).sum(axis=0), mean, n_images))
    value = np.einsum("nc,nc->c", found[0], found[1][:, partner]) / scales[0] / scales[1][partner]
    bounded: Floats = np.clip(value, -1.0, 1.0)
    return bounded


def _scales(squares: Floats, mean: Floats, n_images: int) -> Floats:
    """Norms of centred units; NaN for a constant one, which leaves rounding errors of its mean, not zeros."""
    norm = np.sqrt(squares)
    return np.where(norm > 1e-6 * np.sqrt(n_images) * np.abs(mean), norm, np.nan)


def rows_centred(rows: NDArray[np.float32], mean: Floats) -> Floats:
    """Rows minus the mean, in double precision."""
    centred: Floats = rows.astype(np.float64) - mean
    return centred


def match_units(correlation: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Pair the units of two layers so that the sum of the correlations of the pairs is as high as can be.

    Args:
        correlation: `(C, D)`; NaN for units that cannot be matched (dead in one of the runs).

    Returns:
        for each unit of the first layer its twin in the second and their correlation; -1 and NaN for a unit
        without one: it or all that is left is dead, or the second layer has fewer units. Where assignments
        are equally good (units that do exactly the same), units keep their number.

    Source: optimal assignment as in Li et al. 2016, "Convergent learning".
    """
    from scipy.optimize import linear_sum_assignment

    count = len(correlation)
    twin = np.full(count, -1, dtype=np.int64)
    value = np.full(count, np.nan)
    known = ~np.isnan(correlation)
    rows, columns = np.flatnonzero(known.any(axis=1)), np.flatnonzero(known.any(axis=0))
    if not len(rows) or not len(columns):
        return twin, value
    gain = correlation[np.ix_(rows, columns)]
    _, mine, its = np.intersect1d(rows, columns, assume_unique=True, return_indices=True)
    gain[mine, its] += _SAME_NUMBER
    left, right = linear_sum_assignment(_reduced(gain))
    twin[rows[left]] = columns[right]
    value[rows[left]] = correlation[rows[left], columns[right]]
    return twin, value


def _reduced(gain: Floats) -> Floats:
    """Costs with the same best assignments, `(C, D)`: least costs of 0 leave the solver shorter ways.

    Of every line of the smaller side just one entry is taken, so a constant may be added to such a line.
    """
    cost = -gain
    if gain.shape[0] <= gain.shape[1]:
        cost -= cost.min(axis=1, keepdims=True)
    if gain.shape[0] >= gain.shape[1]:
        cost -= cost.min(axis=0)
    return cost


def chance_correlation(
    first: Rows,
    second: Rows,
    n_images: int,
    usable: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    *,
    seed: int = 0,
) -> float:
    """Median correlation of matched units where the images of one layer are permuted: what luck gives.

    The best of many assignments is well above 0 for layers that have nothing to do with each other. One
    permutation of all images keeps what the units of either layer have in common among themselves.

    Args:
        first: reads rows of the first layer's activations.
        second: likewise.
        n_images: `N`.
        usable: units of either that can be matched.
        seed: of the permutation.

    Returns:
        NaN where nothing can be matched.
    """
    order = np.random.default_rng(seed).permutation(n_images)
    rows = np.concatenate(
        [second(start, min(n_images, start + _BLOCK)) for start in range(0, n_images, _BLOCK)]
    )
    table = correlations(first, lambda start, stop: rows[order[start:stop]], n_images)
    table[~usable[0]] = np.nan
    table[:, ~usable[1]] = np.nan
    value = match_units(table)[1]
    return float(np.nanmedian(value)) if np.isfinite(value).any() else float("nan")


@dataclass(frozen=True)
class Final:
    """The labels of a layer at one epoch.

    Attributes:
        units: `(C,)`.
        concepts: `C`; `""` for a dead unit.
        categories: `C`.
        interpretable: `(C,)`.
    """

    units: NDArray[np.int64]
    concepts: tuple[str, ...]
    categories: tuple[str, ...]
    interpretable: NDArray[np.bool_]

    @classmethod
    def of(cls, history: History, column: int = -1) -> Final:
        """One column of a history."""
        concepts, categories = history.concepts(history.labels[:, column])
        return cls(history.units, tuple(concepts), tuple(categories), history.interpretable[:, column])


def matches(
    layer: str, detector: str, first: Final, second: Final, twin: NDArray[np.int64], correlation: Floats
) -> pd.DataFrame:
    """A row per pair of matched units, and per unit without a twin on either side: the rows of `matches.csv`.

    `same` says whether both have the same concept of the same category.
    """
    import pandas as pd

    lonely = np.setdiff1d(np.arange(len(second.units)), twin)
    a = np.concatenate([np.arange(len(first.units)), np.full(len(lonely), -1)])
    b = np.concatenate([twin, lonely])

    def column(values: Sequence[str], rows: NDArray[np.int64]) -> list[str]:
        return [values[row] if row >= 0 else "" for row in rows.tolist()]

    def flags(final: Final, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        flagged: NDArray[np.bool_] = np.where(rows >= 0, final.interpretable[rows.clip(0)], False)
        return flagged

    frame = pd.DataFrame(
        {
            "layer": layer,
            "detector": detector,
            "unit_a": pd.arrays.IntegerArray(first.units[a.clip(0)].astype(np.int64), a < 0),
            "unit_b": pd.arrays.IntegerArray(second.units[b.clip(0)].astype(np.int64), b < 0),
            "correlation": np.concatenate([correlation, np.full(len(lonely), np.nan)]),
            "concept_a": column(first.concepts, a),
            "category_a": column(first.categories, a),
            "concept_b": column(second.concepts, b),
            "category_b": column(second.categories, b),
            "interpretable_a": flags(first, a),
            "interpretable_b": flags(second, b),
        }
    )
    equal = (frame["concept_a"] == frame["concept_b"]) & (frame["category_a"] == frame["category_b"])
    return frame.assign(same=equal & (a >= 0) & (b >= 0))


def concept_counts(layer: str, detector: str, first: Final, second: Final) -> pd.DataFrame:
    """Interpretable units per concept in both runs: the rows of `comparison.csv`."""
    import pandas as pd

    counts = []
    for final in (first, second):
        frame = pd.DataFrame({"concept": final.concepts, "category": final.categories})
        counts.append(frame[final.interpretable].groupby(["concept", "category"]).size())
    both = pd.concat(counts, axis=1, keys=["units_a", "units_b"]).fillna(0).astype(int)
    both.index.names = ["concept", "category"]
    return both.reset_index().assign(layer=layer, detector=detector)


def class_counts(history: History, classes: Sequence[str]) -> pd.DataFrame:
    """Units whose concept is one of some words, per epoch.

    Args:
        history: one layer.
        classes: the words; case and underscores do not matter.

    Returns:
        columns `epoch`, `layer`, `detector`, `class`, `units`, `interpretable`; a row per epoch and word.
    """
    import pandas as pd

    own = np.array([class_key(name.concept) for name in history.names] or [""], dtype=object)
    rows = []
    for word in classes:
        of_class = np.isin(history.labels, np.flatnonzero(own == class_key(word)))
        rows.append(
            pd.DataFrame(
                {
                    "epoch": history.epochs,
                    "layer": history.layer,
                    "detector": history.detector,
                    "class": word,
                    "units": of_class.sum(axis=0),
                    "interpretable": (of_class & history.interpretable).sum(axis=0),
                }
            )
        )
    return pd.concat(rows, ignore_index=True)


def class_key(word: str) -> str:
    """A word in the form in which classes and concepts are compared."""
    return " ".join(word.replace("_", " ").casefold().split())


def check_classes(classes: Sequence[str], known: Iterable[str]) -> list[str]:
    """Classes that no concept of the run is called: nothing can be counted for them.

    Raises:
        InputError: that is all of them.
    """
    keys = {class_key(word) for word in known}
    missing = [word for word in classes if class_key(word) not in keys]
    if classes and len(missing) == len(classes):
        raise InputError(
            f"no unit has a concept called {missing[0]!r}",
            where="--classes",
            hint="write classes as the concepts of the run are called (see tables/concepts.parquet)",
        )
    return missing
