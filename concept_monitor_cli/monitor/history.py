"""The concept table of one layer as arrays: units x epochs.

Everything that asks how units change over epochs works on this form, without a loop over units.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from concept_monitor_cli.concepts import CATEGORIES
from concept_monitor_cli.run.traits import ORDINARY, Traits

if TYPE_CHECKING:
    import pandas as pd

# What a category is called that the concept set does not know.
UNCATEGORISED = "uncategorised"


class Label(NamedTuple):
    """What a unit is called. The category keeps `orange` the fruit and `orange` the colour apart."""

    concept: str
    category: str


@dataclass(frozen=True)
class History:
    """The best concept of every unit of a layer, at every epoch, as one detector sees it.

    Attributes:
        layer: the layer.
        detector: the detector.
        epochs: `(T,)`, ascending.
        checkpoints: `T` names.
        units: `(C,)`, ascending.
        names: the labels that occur.
        labels: `(C, T)`, index into `names`; -1 where the unit is dead or not in the table.
        scores: `(C, T)`, of the best concept; NaN where there is none.
        interpretable: `(C, T)`.
        traits: what is true of all that the detector says.
        effects: `(C, T)`, how far the evidence for the best concept is beyond chance; NaN where there is
            none, or the detector does not say.
    """

    layer: str
    detector: str
    epochs: NDArray[np.int64]
    checkpoints: tuple[str, ...]
    units: NDArray[np.int64]
    names: tuple[Label, ...]
    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    interpretable: NDArray[np.bool_]
    traits: Traits = ORDINARY
    effects: NDArray[np.float64] | None = None

    def part(self, rows: slice) -> History:
        """The same of some of the units."""
        return replace(
            self,
            units=self.units[rows],
            labels=self.labels[rows],
            scores=self.scores[rows],
            interpretable=self.interpretable[rows],
            effects=None if self.effects is None else self.effects[rows],
        )

    def certainty(self, column: int) -> NDArray[np.float64]:
        """`(C,)`: what ranks the units at one epoch: effects, else scores, which saturate."""
        effects = None if self.effects is None else self.effects[:, column]
        if effects is None or not np.isfinite(effects).any():
            return self.scores[:, column]
        return np.where(np.isfinite(effects), effects, -np.inf)

    @property
    def live(self) -> NDArray[np.bool_]:
        """`(C, T)`: whether the unit has a concept."""
        return self.labels >= 0

    @property
    def previous(self) -> NDArray[np.int64]:
        """`(C, T)`: column of the epoch before at which the unit was live; -1 where there is none."""
        columns = np.arange(len(self.epochs))
        last = np.maximum.accumulate(np.where(self.live, columns, -1), axis=1)
        return np.concatenate([np.full((len(self.units), 1), -1), last[:, :-1]], axis=1)

    @property
    def changed(self) -> NDArray[np.bool_]:
        """`(C, T)`: whether the unit is live with another label than when it was live before.

        A unit that is dead for a while and comes back with the same concept has not changed.
        """
        previous = self.previous
        before = np.take_along_axis(self.labels, previous.clip(0), axis=1)
        changed: NDArray[np.bool_] = self.live & (previous >= 0) & (before != self.labels)
        return changed

    @property
    def could_change(self) -> NDArray[np.bool_]:
        """`(C, T)`: whether the unit is live and was so before."""
        could: NDArray[np.bool_] = self.live & (self.previous >= 0)
        return could

    def rows(self, table: pd.DataFrame) -> pd.DataFrame:
        """The rows of a table that are of this layer and detector."""
        return table[(table["layer"] == self.layer) & (table["detector"] == self.detector)]

    def concepts(self, codes: NDArray[np.int64]) -> tuple[list[str], list[str]]:
        """Concepts and categories of some labels; `""` for -1."""
        none = Label("", "")
        named = [self.names[code] if code >= 0 else none for code in codes.tolist()]
        return [label.concept for label in named], [label.category for label in named]


def histories(table: pd.DataFrame, traits: Mapping[str, Traits] | None = None) -> list[History]:
    """A history per layer and detector, layers in natural order.

    Args:
        table: a concept table of any epochs, layers and detectors, with one checkpoint per epoch.
        traits: of each detector; what is missing has the ordinary ones.
    """
    first = table[table["rank"] == 1]
    found = []
    for layer, detector in layers_and_detectors(first):
        rows = first[(first["layer"] == layer) & (first["detector"] == detector)]
        column, moments = _coded(rows["epoch"], rows["checkpoint"])
        units = np.unique(rows["unit"].to_numpy(dtype=np.int64))
        row = np.searchsorted(units, rows["unit"].to_numpy(dtype=np.int64))
        shape = (len(units), len(moments))
        labels = np.full(shape, -1, dtype=np.int64)
        # A unit that fires but meets no label has no concept either.
        live = (rows["state"].to_numpy() == "live") & (rows["concept"].to_numpy() != "")
        codes, names = _coded(rows.loc[live, "concept"], rows.loc[live, "category"])
        labels[row[live], column[live]] = codes
        scores = np.full(shape, np.nan)
        scores[row, column] = rows["score"].to_numpy(dtype=float)
        effects = np.full(shape, np.nan)
        if "effect" in rows:
            effects[row, column] = rows["effect"].to_numpy(dtype=float)
        interpretable = np.zeros(shape, dtype=bool)
        interpretable[row, column] = rows["interpretable"].to_numpy(dtype=bool)
        found.append(
            History(
                layer=layer,
                detector=detector,
                epochs=np.array([epoch for epoch, _ in moments], dtype=np.int64),
                checkpoints=tuple(str(checkpoint) for _, checkpoint in moments),
                units=units,
                names=tuple(Label(str(concept), str(category)) for concept, category in names),
                labels=labels,
                scores=scores,
                interpretable=interpretable & (labels >= 0),
                traits=(traits or {}).get(detector, ORDINARY),
                effects=effects,
            )
        )
    return found


def _coded(first: pd.Series[Any], second: pd.Series[Any]) -> tuple[NDArray[np.int64], list[tuple[Any, Any]]]:
    """Of each row the place of its pair of values among the distinct pairs, and these, sorted."""
    import pandas as pd

    (one, ones), (other, others) = (pd.factorize(values, sort=True) for values in (first, second))
    keys, codes = np.unique(one * max(1, len(others)) + other, return_inverse=True)
    pairs = [(ones[key // len(others)], others[key % len(others)]) for key in keys.tolist()]
    return codes.astype(np.int64), pairs


def layers_and_detectors(table: pd.DataFrame) -> list[tuple[str, str]]:
    """The pairs that a table has, layers in natural order."""
    pairs = table[["layer", "detector"]].drop_duplicates().itertuples(index=False)
    return sorted(
        ((str(layer), str(detector)) for layer, detector in pairs), key=lambda p: (natural(p[0]), p)
    )


def natural(name: str) -> tuple[tuple[int, int | str], ...]:
    """A sorting key that puts `layer10` after `layer9`."""
    import re

    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", name))


def category_order(categories: Iterable[str]) -> list[str]:
    """Distinct categories from low to high level, then others by name, the unknown one last."""
    present = {category or UNCATEGORISED for category in categories}
    known = [category for category in CATEGORIES if category in present]
    others = sorted(present - set(CATEGORIES) - {UNCATEGORISED})
    return [*known, *others, *([UNCATEGORISED] if UNCATEGORISED in present else [])]
