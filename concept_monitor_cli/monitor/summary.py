"""A run at a glance: per epoch and layer, how much is interpretable, what is most certain, what changed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class LayerSummary:
    """One layer at one epoch, as one detector sees it.

    Attributes:
        epoch, checkpoint, layer, detector: which.
        units: number of units.
        dead: units that never change.
        interpretable: units whose best concept is more than chance.
        distinct: different concepts among the interpretable units.
        changed: units with another best concept than at the epoch before; `None` at the first.
        best: `(unit, concept, score)` of the most certain interpretable units, best first.
    """

    epoch: int
    checkpoint: str
    layer: str
    detector: str
    units: int
    dead: int
    interpretable: int
    distinct: int
    changed: int | None
    best: tuple[tuple[int, str, float], ...]

    def as_dict(self) -> dict[str, Any]:
        """The summary as plain JSON values."""
        return asdict(self)


def summarise(table: pd.DataFrame, *, most: int = 3) -> list[LayerSummary]:
    """Summaries in the order layer, detector, epoch.

    Args:
        table: a concept table of any epochs, layers and detectors.
        most: how many of the most certain units to name.
    """
    summaries = []
    first = table[table["rank"] == 1]
    for (layer, detector), series in first.groupby(["layer", "detector"], sort=True):
        before: pd.Series[str] | None = None
        for (epoch, checkpoint), units in series.groupby(["epoch", "checkpoint"], sort=True):
            now = units.set_index("unit")["concept"]
            changed = None
            if before is not None and len(before) == len(now):
                changed = int((now != before).sum())
            certain = units[units["interpretable"]]
            ranked = certain.sort_values(["p_value", "score", "unit"], ascending=[True, False, True])
            summaries.append(
                LayerSummary(
                    epoch=int(str(epoch)),
                    checkpoint=str(checkpoint),
                    layer=str(layer),
                    detector=str(detector),
                    units=len(units),
                    dead=int((units["state"] == "dead").sum()),
                    interpretable=len(certain),
                    distinct=certain["concept"].nunique(),
                    changed=changed,
                    best=_distinct_best(ranked, most),
                )
            )
            before = now
    return summaries


def _distinct_best(ranked: pd.DataFrame, most: int) -> tuple[tuple[int, str, float], ...]:
    """The best unit of each of the first concepts: ten units of the same concept would tell one thing."""
    best = ranked.drop_duplicates("concept").head(most)
    rows = zip(best["unit"].tolist(), best["concept"].tolist(), best["score"].tolist(), strict=True)
    return tuple((int(unit), str(concept), float(score)) for unit, concept, score in rows)
