"""Which units are called something: their labels and descriptions searched as text."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.run.tables import TABLES

if TYPE_CHECKING:
    import pandas as pd


def word_pattern(text: str) -> re.Pattern[str]:
    """Finds a text as whole words, however they are written: `dog` in `A brown Dog`, not in `hot-dogs`.

    Raises:
        InputError: the text is empty.
    """
    words = text.split()
    if not words:
        raise InputError("the text is empty", where="--match", hint='for example: --match "dog"')
    joined = r"\s+".join(map(re.escape, words))
    return re.compile(rf"(?<!\w){joined}(?!\w)", re.IGNORECASE)


def matches(
    table: pd.DataFrame, text: str, untrained: dict[tuple[str, str], pd.DataFrame | None]
) -> pd.DataFrame:
    """The units whose best label or description has a text in it, at every epoch.

    Args:
        table: a concept table.
        text: one or more words.
        untrained: (layer, detector) -> the concept table of the layer with random weights.

    Returns:
        the rows of `text-matches.csv`: `units`, how many units of the layer have a label at that epoch;
        `found`, how many of them match; `chance`, the share of the units with random weights that match,
        NaN where they are not known.
    """
    pattern = word_pattern(text)
    named = _named(table)
    hit = named["concept"].map(lambda concept: pattern.search(concept) is not None).astype(bool)
    place = ["epoch", "checkpoint", "layer", "detector"]
    groups = named.assign(hit=hit).groupby(place, sort=False, observed=True)["hit"]
    found = named.assign(units=groups.transform("size"), found=groups.transform("sum"), text=text)[hit]
    chances = {key: _share(rows, pattern) for key, rows in untrained.items()}
    chance = [
        chances.get((layer, detector), np.nan)
        for layer, detector in zip(found["layer"], found["detector"], strict=True)
    ]
    return TABLES["text-matches"].frame(found.assign(chance=np.array(chance, dtype=float)))


def match_counts(
    table: pd.DataFrame, found: pd.DataFrame, untrained: dict[tuple[str, str], pd.DataFrame | None], text: str
) -> list[dict[str, Any]]:
    """How many units match, per layer, detector and epoch, those without any included.

    Returns:
        `layer`, `detector`, `epoch`, `units`, `found`, `interpretable`, `chance` (`None` where not known).
    """
    pattern = word_pattern(text)
    chances = {key: _share(rows, pattern) for key, rows in untrained.items()}
    counts = []
    columns = ["layer", "detector", "epoch"]
    places = _named(table).groupby(columns, sort=True, observed=True).size().reset_index(name="units")
    for layer, detector, epoch, units in places.itertuples(index=False, name=None):
        here = found[(found["layer"] == layer) & (found["detector"] == detector) & (found["epoch"] == epoch)]
        chance = chances.get((str(layer), str(detector)), np.nan)
        counts.append(
            {
                "layer": str(layer),
                "detector": str(detector),
                "epoch": int(epoch),
                "units": int(units),
                "found": len(here),
                "interpretable": int(here["interpretable"].sum()),
                "chance": None if np.isnan(chance) else chance,
            }
        )
    return counts


def _named(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the best label of every unit that has one."""
    return table[(table["rank"] == 1) & (table["state"] == "live") & (table["concept"] != "")]


def _share(rows: pd.DataFrame | None, pattern: re.Pattern[str]) -> float:
    if rows is None or not len(named := _named(rows)):
        return float("nan")
    return float(named["concept"].map(lambda concept: pattern.search(concept) is not None).mean())
