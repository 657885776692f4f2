"""What a table of evolutions says, in sentences."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_MOST = 8


def evolution_sentences(table: pd.DataFrame, most: int = _MOST) -> list[str]:
    """The strongest effects of changes of units, a sentence each, one for each unit and pair of epochs.

    First those of units whose concept changed with confidence; only where there is none, the others.

    Args:
        table: rows of `evolutions.csv`.
        most: so many sentences.
    """
    rows = table[table["significant"] & (table["effect"].abs() > table["elsewhere"])]
    rows = rows.loc[rows["effect"].abs().sort_values(ascending=False, kind="stable").index]
    sure = rows[rows["confident"].fillna(0) == 1]
    chosen = (sure if len(sure) else rows).drop_duplicates(["from_epoch", "to_epoch", "layer", "unit"])
    return [_sentence(row) for row in chosen[:most].to_dict("records")]


def _sentence(row: Mapping[Hashable, Any]) -> str:
    before, after = row["from_concept"], row["to_concept"]
    start, end = row["from_epoch"], row["to_epoch"]
    unit = f"unit {row['unit']} of {row['layer']}"
    brought = (
        f"brought {row['class']} images {row['effect']:+.2g} (as large a change of another unit: "
        f"{row['elsewhere']:.1g})"
    )
    if before != after and before and after and row["confident"] == 1:
        return f"{unit} went from {before} to {after} between {start} and {end} and {brought}"
    if before != after and before and after:
        return f"{unit} (named {before} at {start} and {after} at {end}, perhaps by luck) {brought}"
    name = f" ({after or before})" if after or before else ""
    return f"{unit}{name} {brought} between {start} and {end}"
