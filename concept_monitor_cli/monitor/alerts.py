"""Signs that something goes wrong in a training, read from its statistics over the epochs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from concept_monitor_cli.monitor.statistics import ALL
from concept_monitor_cli.wording import counted

if TYPE_CHECKING:
    import pandas as pd

_CONSEQUENCE = (
    "; soft-wpmi and wpmi name such units wrongly and differently, --similarity cos-cubed does not suffer"
)
#: Similarities that weigh a concept against the other units of the layer.
RELATIVE = ("soft-wpmi", "wpmi")
# Shares such as .3 - .1 and .2 differ in the last digits.
_ROUNDING = 1e-9

Rule = Literal["clumping", "collapsing", "dying", "fading"]


@dataclass(frozen=True)
class Rules:
    """When to warn.

    Attributes:
        effective_drop: `clumping`: the effective number of units, as a share of what independent units give,
            has fallen below its highest by this share.
        redundant_rise: `collapsing`: the share of redundant units is this much above its lowest.
        dead_rise: `dying`: the share of dead units is this much above its lowest.
        patience: `fading`: so many epochs one after the other, each with fewer interpretable units.
    """

    effective_drop: float = 0.15
    redundant_rise: float = 0.2
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


def relative_detectors(info: Mapping[str, Any]) -> set[str]:
    """The detectors of a run whose labels of a unit depend on the units beside it, by its `run.json`."""
    settings = info.get("settings", {}).get("detectors", {})
    return {name for name, each in settings.items() if each.get("similarity") in RELATIVE}


def alerts(
    statistics: pd.DataFrame, rules: Rules, *, relative: Collection[str] = (), standing: bool = False
) -> list[Alert]:
    """Every warning that a run gives rise to, by epoch.

    A rule speaks at the epoch at which it begins to hold, and again only after it has not held in between.
    Whether units clump and collapse is asked of their activations: labels cannot tell, since those that are
    relative to the layer grow more different while the units grow alike. A table without these numbers gives
    no such warning.

    Args:
        statistics: rows of `statistics.csv`; those of whole layers are used.
        rules: the thresholds.
        relative: detectors that suffer from units that are alike, which is said (`relative_detectors`).
        standing: only those that hold at the last epoch, whenever they began.
    """
    found: list[Alert] = []
    whole = statistics[statistics["category"] == ALL]
    for (layer, detector), rows in whole.groupby(["layer", "detector"], sort=True):
        rows = rows.sort_values("epoch")
        consequence = _CONSEQUENCE if detector in relative else ""
        epochs = [int(epoch) for epoch in rows["epoch"]]
        dead = [part / max(all, 1) for part, all in zip(rows["dead"], rows["units"], strict=True)]
        # As a share, so that units that die, which is a rule of its own, are no clump.
        effective = (rows["effective_units"] / rows["effective_units_chance"]).tolist()

        def speak(
            rule: Rule,
            held: list[tuple[bool, float, float]],
            words: Callable[[float, float], str],
            where: tuple[str, str] = (str(layer), str(detector)),
            epochs: list[int] = epochs,
            then: str = "",
        ) -> None:
            for place, (holds, value, before) in enumerate(held):
                speaks = place == len(held) - 1 if standing else not (place and held[place - 1][0])
                if holds and speaks:
                    found.append(
                        Alert(rule, epochs[place], *where, value, before, words(value, before) + then)
                    )

        speak(
            "clumping",
            _fallen([float(value) for value in effective], rules.effective_drop),
            lambda value, before: (
                f"units clump: they count as {value:.0%} as many as independent units would, "
                f"after {before:.0%}"
            ),
            then=consequence,
        )
        speak(
            "collapsing",
            _risen([float(value) for value in rows["redundant"]], rules.redundant_rise),
            lambda value, before: (
                f"units collapse: {value:.0%} of them are redundant, another unit repeats them, after "
                f"{before:.0%}"
            ),
            then=consequence,
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
                f"interpretable units fade: {value:.0f}, after {before:.0f} "
                f"{counted(rules.patience, 'checkpoints')} ago"
            ),
        )
    return sorted(found, key=lambda alert: (alert.epoch, alert.layer, alert.detector, alert.rule))


def _fallen(series: Sequence[float], share: float) -> list[tuple[bool, float, float]]:
    held, highest = [], -math.inf
    for value in series:
        held.append((highest > 0 and value <= highest * (1 - share) + _ROUNDING, value, highest))
        if value > highest:  # not where it is missing
            highest = value
    return held


def _risen(series: Sequence[float], by: float) -> list[tuple[bool, float, float]]:
    held, lowest = [], math.inf
    for value in series:
        held.append((value >= lowest + by - _ROUNDING, value, lowest))
        lowest = min(lowest, value)
    return held


def _falling(series: Sequence[float], patience: int) -> list[tuple[bool, float, float]]:
    held = []
    for place, value in enumerate(series):
        last = series[max(0, place - patience) : place + 1]
        falls = len(last) == patience + 1 and all(b < a for a, b in itertools.pairwise(last))
        held.append((falls, value, last[0]))
    return held
