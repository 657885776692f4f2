"""Does another network have the same units? Twins are found on half of the images and judged on the others.

Widths and architectures may differ: only the activations on the same images count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from concept_monitor_cli.functional.groups import ImageGroups, Rotations
from concept_monitor_cli.monitor.comparison import Floats, correlations, match_units, paired_correlations

if TYPE_CHECKING:
    import pandas as pd

#: Held-out correlations of units with shuffled images that give the bar, at least.
_NULL_UNITS = 1000
_MOST_DRAWS = 40
#: A unit is universal above this quantile of them.
QUANTILE = 0.99
ALL = "all"


@dataclass(frozen=True)
class Universality:
    """Units of a layer beside their twins in another network.

    Attributes:
        twin: `(C,)`, the twin of each unit by the best assignment on the first half; -1 without one.
        matched: `(C,)`, their correlation on the first half, which chose them.
        held_out: `(C,)`, on the other half; NaN without a twin.
        best: `(C,)`, held-out correlation with the unit that is nearest on the first half, several units may
            have the same.
        shuffled: held-out correlations of twins where the images of the other network are permuted.
    """

    twin: NDArray[np.int64]
    matched: Floats
    held_out: Floats
    best: Floats
    shuffled: Floats

    @property
    def bar(self) -> float:
        """What a universal unit is above; NaN where nothing can be matched."""
        return float(np.quantile(self.shuffled, QUANTILE)) if len(self.shuffled) else float("nan")

    @property
    def universal(self) -> NDArray[np.bool_]:
        """`(C,)`."""
        found: NDArray[np.bool_] = np.nan_to_num(self.held_out, nan=-np.inf) > self.bar
        return found


def universality(
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    half: NDArray[np.bool_],
    usable: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    *,
    groups: ImageGroups | None = None,
    seed: int = 0,
) -> Universality:
    """Match the units of two layers on one half of the images, and judge the pairs on the other.

    Args:
        first: `(N, C)`, pooled activations of the one layer.
        second: `(N, D)`, of the other on the same images.
        half: `(N,)`, the images on which units are matched; no group of images in both halves.
        usable: units of either that can be matched.
        groups: of the images, which are permuted as a whole: copies of a photo are no further evidence. Every
            image for itself by default.
        seed: of the permutations.
    """
    chosen, twin, matched, held_out = _judged(first, second, half, usable)
    known = np.isfinite(chosen).any(1)
    nearest = np.nan_to_num(chosen, copy=False, nan=-np.inf).argmax(1)
    best = np.where(known, paired_correlations(first[~half], second[~half], nearest), np.nan)
    generator = np.random.default_rng(seed)
    draws = min(_MOST_DRAWS, -(-_NULL_UNITS // max(1, int(usable[0].sum()))))
    groups = ImageGroups.single(len(first)) if groups is None else groups
    orders = [Rotations.draw(groups, 1, 1, generator).sources(0, slice(0, 1))[:, 0] for _ in range(draws)]
    null = [_judged(first, second[order], half, usable)[3] for order in orders]
    shuffled = np.concatenate(null)
    return Universality(twin, matched, held_out, best, shuffled[np.isfinite(shuffled)])


def _judged(
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    half: NDArray[np.bool_],
    usable: tuple[NDArray[np.bool_], NDArray[np.bool_]],
) -> tuple[Floats, NDArray[np.int64], Floats, Floats]:
    """On the one half the correlations of all pairs, the twins and their correlations; these on the other."""
    chosen = _table(first[half], second[half], usable)
    twin, matched = match_units(chosen)
    judged = paired_correlations(first[~half], second[~half], twin.clip(0))
    return chosen, twin, matched, np.where(twin >= 0, judged, np.nan)


def _table(
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    usable: tuple[NDArray[np.bool_], NDArray[np.bool_]],
) -> Floats:
    table = correlations(lambda i, j: first[i:j], lambda i, j: second[i:j], len(first))
    table[~usable[0]] = np.nan
    table[:, ~usable[1]] = np.nan
    return table


def shares(found: Universality, categories: Sequence[str], interpretable: NDArray[np.bool_]) -> pd.DataFrame:
    """How many units are universal, of all and of each category.

    Args:
        found: of `universality`.
        categories: `C`, of the concepts of the units.
        interpretable: `(C,)`; the others count only among all.

    Returns:
        columns `category, units, universal, share, held_out, matched, best, chance, bar`: units are those
        with activations to match, the correlations medians over them.
    """
    import pandas as pd

    known = np.isfinite(found.best)
    names = np.array(categories, dtype=object)
    groups = {ALL: known}
    for name in sorted({str(name) for name in names[known & interpretable]}):
        groups[name] = known & interpretable & (names == name)
    rows = [
        {
            "category": name,
            "units": int(mask.sum()),
            "universal": int(found.universal[mask].sum()),
            "share": float(found.universal[mask].mean()) if mask.any() else np.nan,
            "held_out": _median(found.held_out[mask]),
            "matched": _median(found.matched[mask]),
            "best": _median(found.best[mask]),
            "chance": _median(found.shuffled),
            "bar": found.bar,
        }
        for name, mask in groups.items()
    ]
    return pd.DataFrame(rows)


def _median(values: Floats) -> float:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else float("nan")
