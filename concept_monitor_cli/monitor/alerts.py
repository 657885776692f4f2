"""Signs that something goes wrong in a training, read from its statistics over the epochs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from concept_monitor_cli.monitor.statistics import ALL

if TYPE_CHECKING:
    import pandas as pd

Rule = Literal["clumping", "collapsing", "dying", "fading"]


@dataclass(frozen=True)
class Rules:
    """When to warn.

    Attributes:
        spread_drop: `clumping`: the spread of the units has fallen below its highest by this share.
        distinct_drop: `collapsing`: the number of different concepts has fallen by this share.
        dead_rise: `dying`: the share of dead units is this much above its lowest.
        patience: `fading`: so many epochs one after the other, each with fewer interpretable units.
    """

    spread_drop: float = 0.2
    distinct_drop: float = 0.25
    dead_rise: float = 0.05
    patience: int = 3


@dataclass(frozen=True)
class Alert:
    """One warning.

    Attributes:
        rule: which.
        epoch, layer, detector: where.
        value: the number that gave rise to it.
        before: the number it is compared with.
        message: both in words.
    """

    rule: Rule
    epoch: int
    layer: str
    detector: str
    value: float
    before: float
    message: str

    @property
    def key(self) -> tuple[str, int, str, str]:
        """What makes it the same warning: not the words."""
        return self.rule, self.epoch, self.layer, self.detector

    def as_dict(self) -> dict[str, Any]:
        """The warning as plain JSON values."""
        return asdict(self)


def alerts(statistics: pd.DataFrame, rules: Rules) -> list[Alert]:
    """Every warning that a run gives rise to, by epoch.

    A rule speaks at the epoch at which it begins to hold, and again only after it has not held in between.

    Args:
        statistics: rows of `statistics.csv`; those of whole layers are used.
        rules: the thresholds.
    """
    found: list[Alert] = []
    whole = statistics[statistics["category"] == ALL]
    for (layer, detector), rows in whole.groupby(["layer", "detector"], sort=True):
        rows = rows.sort_values("epoch")
        epochs = [int(epoch) for epoch in rows["epoch"]]
        dead = [part / max(all, 1) for part, all in zip(rows["dead"], rows["units"], strict=True)]

        def speak(
            rule: Rule,
            held: list[tuple[bool, float, float]],
            words: Callable[[float, float], str],
            where: tuple[str, str] = (str(layer), str(detector)),
            epochs: list[int] = epochs,
        ) -> None:
            for place, (holds, value, before) in enumerate(held):
                if holds and not (place and held[place - 1][0]):
                    found.append(Alert(rule, epochs[place], *where, value, before, words(value, before)))

        speak(
            "clumping",
            _fallen([float(value) for value in rows["spread"]], rules.spread_drop),
            lambda value, before: f"units clump: their spread fell from {before:.3f} to {value:.3f}",
        )
        speak(
            "collapsing",
            _fallen([float(value) for value in rows["distinct_concepts"]], rules.distinct_drop),
            lambda value, before: f"concepts collapse: {value:.0f} different ones, after {before:.0f}",
        )
        speak(
            "dying",
            _risen(dead, rules.dead_rise),
            lambda value, before: f"units die: {value:.1%} are dead, after {before:.1%}",
        )
        speak(
            "fading",
            _falling([float(value) for value in rows["interpretable"]], rules.patience),
            lambda value, before: (
                f"interpretable units fade: {value:.0f}, after {before:.0f} {rules.patience} checkpoints ago"
            ),
        )
    return sorted(found, key=lambda alert: (alert.epoch, alert.layer, alert.detector, alert.rule))


def _fallen(series: Sequence[float], share: float) -> list[tuple[bool, float, float]]:
    held, highest = [], -math.inf
    for value in series:
        held.append((highest > 0 and value <= highest * (1 - share), value, highest))
        if value > highest:  # not where it is missing
            highest = value
    return held


def _risen(series: Sequence[float], by: float) -> list[tuple[bool, float, float]]:
    held, lowest = [], math.inf
    for value in series:
        held.append((value >= lowest + by, value, lowest))
        lowest = min(lowest, value)
    return held


def _falling(series: Sequence[float], patience: int) -> list[tuple[bool, float, float]]:
    held = []
    for place, value in enumerate(series):
        last = series[max(0, place - patience) : place + 1]
        falls = len(last) == patience + 1 and all(b < a for a, b in itertools.pairwise(last))
        held.append((falls, value, last[0]))
    return held
