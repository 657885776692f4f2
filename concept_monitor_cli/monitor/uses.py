"""What units do for the classes, in sentences, of what other commands left in a run."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from concept_monitor_cli.monitor.evolutions import evolution_sentences
from concept_monitor_cli.monitor.history import History
from concept_monitor_cli.run import RunFolder

if TYPE_CHECKING:
    import pandas as pd

Row = Mapping[Hashable, Any]
_CLASSES = 3


@dataclass(frozen=True)
class Uses:
    """Tables that say what the network does with its units; None where the command has not run.

    Attributes:
        classes: rows of `unit-classes.csv` (`cmon vectors`).
        evolutions: rows of `evolutions.csv`.
        ablation: rows of `ablation.csv`.
    """

    classes: pd.DataFrame | None = None
    evolutions: pd.DataFrame | None = None
    ablation: pd.DataFrame | None = None

    def sentences(self) -> list[str]:
        """What the strongest changes of units brought."""
        return [] if self.evolutions is None else evolution_sentences(self.evolutions)

    def by_unit(self, layer: str, concepts: Mapping[int, str]) -> dict[int, list[str]]:
        """For units of a layer what they do, a few sentences each; units without any are missing.

        Args:
            layer: which.
            concepts: unit -> its concept at the last epoch, where it is interpretable.
        """
        found: dict[int, list[str]] = {}
        parts = (
            _classes(_of(self.classes, layer)),
            _brought(_of(self.evolutions, layer)),
            _without(_of(self.ablation, layer), concepts),
        )
        for part in parts:
            for unit, sentence in part.items():
                found.setdefault(unit, []).append(sentence)
        return found


def read_uses(run: RunFolder) -> Uses:
    """The tables of a run that are there.

    Raises:
        InputError: a file is there and is no such table.
    """
    found = run.on_page("uses")
    return Uses(found.get("unit-classes"), found.get("evolutions"), found.get("ablation"))


def last_concepts(history: History) -> dict[int, str]:
    """Unit -> its concept at the last epoch, where it is interpretable."""
    names, _ = history.concepts(history.labels[:, -1])
    return {
        int(unit): name
        for unit, name, sure in zip(history.units, names, history.interpretable[:, -1], strict=True)
        if sure
    }


def _of(table: pd.DataFrame | None, layer: str) -> list[Row]:
    return [] if table is None else [*table[table["layer"] == layer].to_dict("records")]


def _classes(rows: list[Row]) -> dict[int, str]:
    """The classes whose score a unit raises and lowers most, on their own images, at the last epoch."""
    last = max((row["epoch"] for row in rows), default=None)
    by_unit: dict[int, list[Row]] = {}
    for row in rows:
        if row["epoch"] == last and row["significant"]:
            by_unit.setdefault(int(row["unit"]), []).append(row)
    found = {}
    for unit, own in by_unit.items():
        own.sort(key=lambda row: -abs(row["effect"]))
        told = ", ".join(
            f"{row['class']} {row['effect']:+.2g} (random images {row['chance_spread']:.1g})"
            for row in own[:_CLASSES]
        )
        what = "log-probability" if own[0]["target"] == "loss" else "score"
        found[unit] = f"Epoch {last}, beside all images it moves the {what} of a class's images: {told}"
    return found


def _brought(rows: list[Row]) -> dict[int, str]:
    """What a unit's largest change brought."""
    best: dict[int, Row] = {}
    for row in rows:
        unit = int(row["unit"])
        if row["significant"] and (unit not in best or abs(row["effect"]) > abs(best[unit]["effect"])):
            best[unit] = row
    return {
        unit: f"Between {row['from_epoch']} and {row['to_epoch']} its change brought {row['class']} images "
        f"{row['effect']:+.2g} (as large a change of another unit: {row['elsewhere']:.1g})"
        for unit, row in best.items()
    }


def _without(rows: list[Row], concepts: Mapping[int, str]) -> dict[int, str]:
    """What is lost without all the units of a unit's concept."""
    last = max((row["epoch"] for row in rows), default=None)
    worst: dict[str, Row] = {}
    for row in rows:
        asked = row["set"] == "concept" and row["kind"] == "zero" and row["class"] != "all"
        if not asked or row["epoch"] != last:
            continue
        before = worst.get(row["concept"])
        if before is None or _lost(row) < _lost(before):
            worst[row["concept"]] = row
    found = {}
    for unit, concept in concepts.items():
        if concept in worst:
            row = worst[concept]
            control = row["control"] - row["margin_before"]
            beside = "" if control != control else f" (random units {control:+.2g})"
            units = "this unit, the only one" if row["units"] == 1 else f"the {row['units']} units"
            loser = f"{row['class']} loses most margin: {_lost(row):+.2g}"
            found[unit] = f"Without {units} of {concept}, {loser}{beside}"
    return found


def _lost(row: Row) -> float:
    return float(row["margin"] - row["margin_before"])
