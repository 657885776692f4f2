"""What stands beside the numbers of a layer: how alike its units are, what luck and random weights give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from concept_monitor_cli.monitor.history import UNCATEGORISED
from concept_monitor_cli.monitor.statistics import ALL

if TYPE_CHECKING:
    import pandas as pd

_PLACE = ["epoch", "checkpoint", "layer", "detector"]
_FROM_HALVES = ["spread_floor_halves", "changed_by_halves", "held_out", "held_out_chance"]
_REDUNDANCY = ("effective_units", "redundant", "effective_units_chance", "redundant_chance")


def redundancy_columns(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """How alike the units are, a row per layer and epoch.

    Args:
        records: of tables: `epoch`, `checkpoint`, `layer`, `detector`, `redundancy` and `held_out`
            with their numbers, which may lack any.
    """
    import pandas as pd

    rows = [
        {
            **{name: record[name] for name in _PLACE},
            "category": ALL,
            **{name: _number(record["redundancy"].get(name)) for name in _REDUNDANCY},
            "held_out_word": record["held_out"].get("word", ""),
            "held_out_error": _number(record["held_out"].get("error")),
            "held_out_measure": record["held_out"].get("measure", ""),
        }
        for record in records
    ]
    words = ["held_out_word", "held_out_error", "held_out_measure"]
    return pd.DataFrame(rows, columns=[*_PLACE, "category", *_REDUNDANCY, *words])


def halves_columns(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """What the halves of the images say on average, a row per epoch and category of the units.

    Args:
        records: as for `redundancy_columns`.

    Returns:
        `spread_floor_halves`: mean distance of the two places of one unit; `changed_by_halves`: share of
        units whose two concepts differ; `held_out` and `held_out_chance`: means over the units for which both
        are known.
    """
    import pandas as pd

    rows = [
        {
            **{name: record[name] for name in _PLACE},
            "category": category or UNCATEGORISED,
            "spread_floor_halves": _number(means["distance"]),
            "changed_by_halves": _number(means["changed"]),
            "held_out": _number(means["value"]),
            "held_out_chance": _number(means["chance"]),
        }
        for record in records
        for category, means in record["held_out"].get("categories", {}).items()
    ]
    return pd.DataFrame(rows, columns=[*_PLACE, "category", *_FROM_HALVES])


def random_columns(moments: pd.DataFrame, random: pd.DataFrame) -> pd.DataFrame:
    """The spread of a layer with random weights, beside every epoch.

    Args:
        moments: `epoch`, `checkpoint`, `layer`, `detector` of every table.
        random: `layer`, `detector`, `category`, `spread` of the layers with random weights.
    """
    keys = ["layer", "detector"]
    floor = random[[*keys, "category", "spread"]].rename(columns={"spread": "spread_floor_random"})
    return moments[_PLACE].drop_duplicates().merge(floor, on=keys)


def together(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Columns of several such tables, row by row of epoch, layer, detector and category."""
    keys = [*_PLACE, "category"]
    result = parts[0]
    for part in parts[1:]:
        result = result.merge(part, how="outer", on=keys)
    return result


def p_floor(calibration: Mapping[str, Any]) -> float | None:
    """The smallest p-value that the draws of a null distribution allow; `None` where they are not known."""
    draws = calibration.get("draws")
    return None if not draws else 1.0 / (int(draws) + 1)


def _number(value: Any) -> float:
    return np.nan if value is None else float(value)
