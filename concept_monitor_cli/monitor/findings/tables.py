"""What rules look at: the tables of a run, and one layer of them as one detector sees it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from concept_monitor_cli.monitor.history import History
from concept_monitor_cli.monitor.statistics import ALL

if TYPE_CHECKING:
    import pandas as pd


#: What runs allow that do not say it.
_FDR = 0.05


def fdr_of(info: Mapping[str, Any]) -> float:
    """`--fdr` of a run: at most this share of the units called interpretable is expected to be luck."""
    return float(info.get("options", {}).get("fdr", _FDR))


@dataclass(frozen=True)
class RunTables:
    """The tables of a run that sentences are written from; those that it lacks are `None`.

    Attributes:
        histories: the concept table, a layer and detector each.
        first: its rows of rank 1.
        statistics: rows of `statistics.csv`.
        untrained: rows of rank 1 of the concept tables of networks with random weights.
        units, changes, self_similarity, agreement: rows of these tables, of the same epochs.
        info: the content of `run.json`.
    """

    histories: list[History]
    first: pd.DataFrame
    statistics: pd.DataFrame
    untrained: pd.DataFrame | None = None
    units: pd.DataFrame | None = None
    changes: pd.DataFrame | None = None
    self_similarity: pd.DataFrame | None = None
    agreement: pd.DataFrame | None = None
    info: Mapping[str, Any] = field(default_factory=dict)

    def layers(self) -> Iterator[Layer]:
        """Every layer as every detector sees it."""
        for history in self.histories:
            yield Layer(self, history)

    @property
    def several_detectors(self) -> bool:
        """Whether a layer alone does not say whose labels are meant."""
        return len({history.detector for history in self.histories}) > 1


@dataclass(frozen=True)
class Layer:
    """One layer as one detector sees it."""

    tables: RunTables
    history: History

    @property
    def name(self) -> str:
        """The layer."""
        return self.history.layer

    @property
    def detector(self) -> str:
        """The detector."""
        return self.history.detector

    @property
    def where(self) -> str:
        """How a sentence names it."""
        return f"{self.name} ({self.detector})" if self.tables.several_detectors else self.name

    @property
    def epochs(self) -> list[int]:
        """Ascending."""
        return [int(epoch) for epoch in self.history.epochs]

    def rows(self, table: pd.DataFrame | None) -> pd.DataFrame | None:
        """The rows of a table about this layer; `None` where the run lacks the table or has none of them."""
        if table is None:
            return None
        own = table[(table["layer"] == self.name) & (table["detector"] == self.detector)]
        return own if len(own) else None

    @cached_property
    def whole(self) -> pd.DataFrame:
        """The rows of `statistics.csv` about the whole layer, by epoch."""
        own = self.tables.statistics
        own = own[(own["layer"] == self.name) & (own["detector"] == self.detector)]
        return own[own["category"] == ALL].set_index("epoch").sort_index()

    def number(self, column: str, epoch: int) -> float:
        """A number of `statistics.csv` about the whole layer; NaN where there is none."""
        if epoch not in self.whole.index or column not in self.whole:
            return math.nan
        return float(self.whole[column].astype(float)[epoch])

    def design(self, *epochs: int) -> float:
        """How much evidence a unit is, between 0 and 1: units that do alike are no independent evidence.

        The effective number of units as a share of what independent units give; 1 where it is not known.
        """
        known = [
            self.number("effective_units", epoch) / self.number("effective_units_chance", epoch)
            for epoch in epochs
            if self.number("effective_units_chance", epoch) > 0
        ]
        return min([1.0, *(share for share in known if share > 0)])

    def at(self, table: pd.DataFrame | None, epoch: int) -> pd.DataFrame | None:
        """As `rows`, of one epoch."""
        own = self.rows(table)
        if own is None:
            return None
        own = own[own["epoch"] == epoch]
        return own if len(own) else None
