"""How far detectors agree about the same units: the same top concept, and concepts of like meaning."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from concept_monitor_cli.run.tables import TABLES
from concept_monitor_cli.wording import sum_terms

if TYPE_CHECKING:
    import pandas as pd

_PLACE = ["epoch", "checkpoint", "layer"]
#: Two different words are near where so large a share of the pairs of different words are further apart.
_FAR = 0.95


def agreement(
    table: pd.DataFrame,
    embed: Callable[[Sequence[str]], NDArray[np.float32]] | None = None,
    sums: Collection[str] = (),
) -> pd.DataFrame:
    """Compare the top concepts of every two detectors, per checkpoint and layer.

    A formula or a sentence is compared as its text: it is the same as no single concept, and its meaning is
    what the encoder makes of the words. Of a sum of concepts the one that excites the unit most counts.

    What chance gives is exact: the mean over all pairs of one unit's label by the first detector and another
    or the same unit's label by the second, as if labels were dealt out at random.

    Args:
        table: rows of the concept table, of two or more detectors.
        embed: words -> their text embeddings, rows of unit length; `None` leaves all that needs meaning
            empty.
        sums: detectors whose labels are sums, or weighted formulas.

    Returns:
        A row per checkpoint, layer and pair of detectors, with the columns of `agreement.csv`: `units`, how
        many units have a concept from both; `same`, the share of them with the same one; `cosine`, the mean
        cosine of the two in the space of the encoder's texts; `near`, the share of them with the same one or
        one closer than `_FAR` of the pairs of different words that the two detectors use; and what chance
        gives of each. All are empty where there are no such units.
    """
    import pandas as pd

    top = table[(table["rank"] == 1) & (table["state"] == "live") & (table["concept"] != "")]
    top = top.astype(dict.fromkeys([*_PLACE, "detector", "concept"], object))  # not categories
    if sums:
        spoken = [
            first_exciting(text) if detector in sums else text
            for text, detector in zip(top["concept"], top["detector"], strict=True)
        ]
        top = top.assign(concept=spoken)
    words = sorted(set(top["concept"]))
    number = {word: row for row, word in enumerate(words)}
    vectors = None if embed is None or not words else embed(words)
    rows = []
    for place, group in top.groupby(_PLACE, sort=True, observed=True):
        concepts = {
            str(name): own.set_index("unit")["concept"]
            for name, own in group.groupby("detector", sort=True, observed=True)
        }
        detectors = sorted({str(name) for name in table["detector"]})
        for a, b in combinations(detectors, 2):
            if a not in concepts or b not in concepts:
                continue
            both = pd.concat([concepts[a], concepts[b]], axis=1, join="inner", keys=["a", "b"])
            sides = [both[side].map(number).to_numpy(dtype=np.int64) for side in ("a", "b")]
            rows.append(
                {
                    **dict(zip(_PLACE, place, strict=True)),
                    "detector_a": a,
                    "detector_b": b,
                    "units": len(both),
                    **_compared(sides[0], sides[1], vectors),
                }
            )
    schema = TABLES["agreement"]
    return schema.frame(pd.DataFrame(rows, columns=list(schema.columns)))


def _compared(
    a: NDArray[np.int64], b: NDArray[np.int64], vectors: NDArray[np.float32] | None
) -> dict[str, float]:
    """Two labels of every unit, as numbers of words, and what chance gives."""
    names = ("same", "cosine", "same_chance", "cosine_chance", "near", "near_chance")
    found = dict.fromkeys(names, float("nan"))
    if not len(a):
        return found
    words = max(a.max(), b.max()) + 1
    # How often each detector gives each word: all pairs of units are pairs of words with these weights.
    counts = [np.bincount(side, minlength=words) / len(side) for side in (a, b)]
    found["same"], found["same_chance"] = float((a == b).mean()), float(counts[0] @ counts[1])
    if vectors is None:
        return found
    used = [np.flatnonzero(count) for count in counts]
    cosines = vectors[used[0]].astype(np.float64) @ vectors[used[1]].astype(np.float64).T
    equal = used[0][:, None] == used[1][None, :]
    weights = counts[0][used[0]][:, None] * counts[1][used[1]][None, :]
    near = equal.copy()
    if not equal.all():
        near |= cosines >= np.quantile(cosines[~equal], _FAR)
    at = np.searchsorted(used[0], a), np.searchsorted(used[1], b)
    found.update(
        cosine=float(cosines[at].mean()),
        cosine_chance=float((weights * cosines).sum()),
        near=float(near[at].mean()),
        near_chance=float((weights * near).sum()),
    )
    return found


def first_exciting(text: str) -> str:
    """The concept or formula of a sum that excites the unit most; the text itself where all inhibit it.

    Example:
        >>> first_exciting("-0.6 dog + 0.3 snow - 0.2 grass")
        'snow'
        >>> first_exciting("3.1 (dog OR cat)")
        'dog OR cat'
    """
    exciting = [
        (weight, name[1:-1] if name[:1] + name[-1:] == "()" else name)
        for weight, name in sum_terms(text) or ()
        if weight > 0
    ]
    return max(exciting, key=lambda term: term[0])[1] if exciting else text


def latest(rows: pd.DataFrame, layers: Sequence[str] = ()) -> pd.DataFrame:
    """The rows of `agreement.csv` at the last epoch of each layer that have units to compare.

    Args:
        rows: all of them.
        layers: only these; none means all.
    """
    chosen = rows[rows["units"] > 0]
    if layers:
        chosen = chosen[chosen["layer"].isin(layers)]
    return chosen[chosen["epoch"] == chosen.groupby("layer")["epoch"].transform("max")]
